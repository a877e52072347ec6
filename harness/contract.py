"""The trainer contract (docs/formats.md) as seen from Python: environment,
recipe, events and exit codes. Needs nothing but the standard library.
"""

import hashlib
import json
import math
import os

DO_NOT_RESTART = 93  # another attempt would end the same way
STOPPED = 3          # asked to stop; the work so far is in a checkpoint
NOT_FINITE = 1


class Refused(Exception):
    """What no further attempt can mend: a recipe, a file or an environment that is wrong."""


class NotFinite(Exception):
    """The loss or the gradient is NaN or infinite; the step was not taken."""


class Stopped(Exception):
    """Training ended at a step border because somebody asked."""


# The parts of the recipe that are a trainer's business, field by field. What else
# stands in "train" belongs to the supervisor and the other stages.
_OPTIMIZER = {"learning_rate": float, "warmup": int, "floor": float, "betas": list, "epsilon": float, "weight_decay": float, "clip": float}
_PENALTIES = {"z_loss": float, "router_z_loss": float}
_CORRECTION = {"truncate": float, "truncate_level": str, "mask_low": float, "mask_high": float, "mask_level": str}
_REFERENCE = {"sft": _PENALTIES, "grpo": _PENALTIES | {"rollout_precision": str, "routing_replay": bool, "correction": _CORRECTION}}
_SECTIONS = {
    "checkpoint": {"every": int, "keep": int},
    "sft": {"steps": int, "batch": int, "optimizer": _OPTIMIZER, "router_bias": float},
    "grpo": {"steps": int, "problems": str, "reward": str, "prompts": int, "samples": int, "max_tokens": int, "temperature": float,
             "clip_low": float, "clip_high": float, "objective": str, "optimizer": _OPTIMIZER},
    "torchrun": {"python": str, "nproc": int, "device": str, "parallel": str, "precision": str, "micro_tokens": int,
                 "deterministic": bool, "args": list},
}
_ZERO = {float: 0.0, int: 0, str: "", bool: False, list: list}


def _fill(where, value, schema):
    """Checks an object against its schema and puts Go's zero in for what is absent."""
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise Refused(f"recipe: {where} is not an object")
    for name in value:
        if name not in schema:
            raise Refused(f"recipe: {where}.{name} is not known to this trainer; it knows {', '.join(schema)}")
    out = {}
    for name, kind in schema.items():
        if isinstance(kind, dict):
            out[name] = _fill(f"{where}.{name}", value.get(name), kind)
            continue
        v = value.get(name)
        if v is None:
            v = list() if kind is list else _ZERO[kind]
        fits = isinstance(v, kind) and not (kind is int and isinstance(v, bool)) or kind is float and isinstance(v, int) and not isinstance(v, bool)
        if not fits or kind is float and not math.isfinite(v):
            raise Refused(f"recipe: {where}.{name} is {v!r}; want {kind.__name__}")
        out[name] = v
    return out


class Recipe:
    """What TARBERT_RECIPE holds, checked."""

    def __init__(self, path):
        try:
            with open(path, "rb") as f:
                raw = json.load(f)
        except (OSError, ValueError) as e:
            raise Refused(f"read the recipe {path}: {e}") from e
        if not isinstance(raw, dict) or not isinstance(raw.get("train"), dict):
            raise Refused(f"recipe {path}: no object \"train\"")
        train = raw["train"]
        self.seed, self.dataset, self.threads = raw.get("seed", 0), raw.get("dataset", ""), raw.get("threads", 0)
        self.model = train.get("model", "")
        self.dtype = train.get("dtype") or "float32"
        parts = {name: _fill(f"train.{name}", train.get(name), schema) for name, schema in _SECTIONS.items()}
        self.checkpoint, self.sft, self.grpo, self.torchrun = (parts[n] for n in ("checkpoint", "sft", "grpo", "torchrun"))
        self.reference = _fill("reference", raw.get("reference"), _REFERENCE)
        self._check()

    @property
    def steps(self):
        return self.sft["steps"] + self.grpo["steps"]

    def stage(self, step):
        """The stage that step number `step` (from 1) belongs to."""
        return "sft" if step <= self.sft["steps"] else "grpo"

    def due(self, step):
        """Whether a checkpoint is written after a step."""
        every = self.checkpoint["every"]
        return step in (self.steps, self.sft["steps"]) or every > 0 and step % every == 0

    def kept(self, steps):
        """Which checkpoints stay, of those there are, by rising step."""
        return {self.sft["steps"], self.steps, *steps[-max(self.checkpoint["keep"], 1):]}

    def identity(self):
        """What makes two runs the same run; the reference trainer keeps and compares the same object."""
        made = {"seed": self.seed, "model_config_sha256": file_digest(os.path.join(self.model, "config.json"), "read the model")}
        if self.sft["steps"] > 0:
            made["dataset_sha256"] = file_digest(self.dataset, "read the dataset")
        if self.grpo["steps"] > 0:
            made["problems_sha256"] = file_digest(self.grpo["problems"], "read the problems")
        made |= {"sft": self.sft, "grpo": self.grpo | {"problems": ""}}
        if _any(self.reference):
            made["reference"] = self.reference
        return made

    def _check(self):
        s, g, t = self.sft, self.grpo, self.torchrun
        t["device"], t["parallel"] = t["device"] or "auto", t["parallel"] or "ddp"
        t["precision"], t["micro_tokens"] = t["precision"] or "float32", t["micro_tokens"] or 4096

        def want(good, text):
            if not good:
                raise Refused("recipe: " + text)

        want(isinstance(self.seed, int) and 0 <= self.seed < 1 << 64, f"seed is {self.seed!r}")
        want(self.dtype == "float32", f"train.dtype is {self.dtype!r}; weights and moments are float32 (for bf16 arithmetic: train.torchrun.precision: bfloat16)")
        want(self.steps > 0, "no steps: train.sft.steps and train.grpo.steps are zero")
        want(s["steps"] >= 0 and (s["steps"] == 0 or s["batch"] > 0), f"train.sft: {s['steps']} steps of batch {s['batch']}")
        want(t["device"] in ("auto", "cuda", "npu", "cpu"), f"train.torchrun.device is {t['device']!r}; want auto, cuda, npu or cpu")
        want(t["parallel"] in ("ddp", "fsdp2"), f"train.torchrun.parallel is {t['parallel']!r}; want ddp or fsdp2")
        want(t["precision"] in ("float32", "bfloat16"), f"train.torchrun.precision is {t['precision']!r}; want float32 or bfloat16")
        want(t["micro_tokens"] > 0, f"train.torchrun.micro_tokens is {t['micro_tokens']}")
        if s["steps"] > 0:
            self._check_optimizer("train.sft.optimizer", s["optimizer"])
        if g["steps"] == 0:
            return
        want(g["steps"] > 0 and g["prompts"] > 0 and g["max_tokens"] > 0, f"train.grpo: {g['steps']} steps, {g['prompts']} prompts, {g['max_tokens']} max_tokens")
        want(g["samples"] >= 2, f"train.grpo.samples is {g['samples']}; a group needs two or more to compare")
        want(g["temperature"] > 0, f"train.grpo.temperature is {g['temperature']}; want above 0")
        want(0 <= g["clip_low"] <= 1 and g["clip_high"] >= 0, f"train.grpo: clip_low {g['clip_low']}, clip_high {g['clip_high']}; want 0–1 and 0 or more")
        want(g["objective"] in ("grpo", "gspo"), f"train.grpo.objective is {g['objective']!r}; want grpo or gspo")
        want(g["reward"] == "answer", f"train.grpo.reward is {g['reward']!r}; this trainer knows answer")
        o = self.reference["grpo"]
        want(o["rollout_precision"] in ("", "f32"), f"reference.grpo.rollout_precision is {o['rollout_precision']!r}: only the reference trainer samples from a rounded copy")
        want(not o["routing_replay"], "reference.grpo.routing_replay: only the reference trainer replays routing")
        self._check_correction(o["correction"], g["objective"])
        self._check_optimizer("train.grpo.optimizer", g["optimizer"])

    @staticmethod
    def _check_correction(c, objective):
        name = "reference.grpo.correction"
        if not c["truncate"] >= 0 or not c["mask_high"] >= c["mask_low"] >= 0:
            raise Refused(f"recipe: {name}: {c}; want truncate 0 (off) or more, 0 ≤ mask_low ≤ mask_high")
        for field, on in (("truncate_level", c["truncate"] > 0), ("mask_level", c["mask_high"] > 0)):
            if c[field] not in ("", "token", "sequence", "geometric"):
                raise Refused(f"recipe: {name}.{field} is {c[field]!r}; want token, sequence or geometric")
            if on and objective == "gspo" and c[field] in ("", "token"):
                raise Refused(f"recipe: {name}.{field} is token: gspo has one ratio per sequence; want sequence or geometric")

    @staticmethod
    def _check_optimizer(name, o):
        b = o["betas"]
        good = (o["learning_rate"] > 0 and o["warmup"] >= 0 and 0 <= o["floor"] <= 1 and len(b) == 2 and all(0 <= x < 1 for x in b)
                and o["epsilon"] > 0 and o["weight_decay"] >= 0 and o["clip"] >= 0)
        if not good:
            raise Refused(f"recipe: {name} is {o}; want learning_rate and epsilon above 0, floor 0–1, two betas below 1, the rest 0 or more")


def _any(v):
    return any(_any(x) for x in v.values()) if isinstance(v, dict) else bool(v)


def file_digest(path, what="read"):
    """sha256 of a file in hex."""
    try:
        with open(path, "rb") as f:
            h = hashlib.sha256()
            while block := f.read(1 << 20):
                h.update(block)
            return h.hexdigest()
    except OSError as e:
        raise Refused(f"{what}: {e}") from e


def differs(ours, theirs):
    """The first thing in which two identities differ, or None."""
    names = {"seed": "seed", "model_config_sha256": "the model's config.json", "dataset_sha256": "the dataset", "problems_sha256": "the problems",
             "sft": "train.sft", "grpo": "train.grpo", "reference": "reference"}
    for key, name in names.items():
        a, b = ours.get(key), theirs.get(key)
        if a == b or not _any({"": a}) and not _any({"": b}):
            continue
        return name if "sha256" in key else f"{name} ({b}, here {a})"
    return None


class Adjustment:
    """What a supervisor asks of a run that went wrong (TARBERT_ADJUST); no part of the recipe."""

    def __init__(self, path):
        self.skip, self.rates = [], []
        if not path:
            return
        try:
            with open(path, "rb") as f:
                raw = json.load(f)
            if unknown := set(raw) - {"skip", "lr"}:
                raise ValueError(f"unknown field {sorted(unknown)[0]!r}")
            self.skip = [(int(a), int(b)) for a, b in raw.get("skip") or []]
            self.rates = [(int(r["from"]), int(r["to"]), float(r["scale"])) for r in raw.get("lr") or []]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise Refused(f"adjustments {path}: {e}") from e
        for *_, scale in self.rates:
            if not 0 < scale <= 1:
                raise Refused(f"adjustments {path}: a learning rate scaled by {scale}; want more than 0 and at most 1")

    def skips(self, step):
        return any(a <= step <= b for a, b in self.skip)

    def scale(self, step):
        return math.prod(s for a, b, s in self.rates if a <= step <= b)


class Events:
    """Appends the contract's lines; a line that a killed writer left unfinished is ended first."""

    def __init__(self, path):
        self.section = None
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        size = os.lseek(self.fd, 0, os.SEEK_END)
        if size and os.pread(self.fd, 1, size - 1) != b"\n":
            os.write(self.fd, b"\n")

    def say(self, **line):
        """One event in one system call. JSON has no NaN: what is not finite becomes null, which the supervisor takes for what it is."""
        line = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        os.write(self.fd, (json.dumps(line, allow_nan=False) + "\n").encode())

    def enter(self, name):
        if name != self.section:
            self.section = name
            self.say(event="section", name=name)


class Silence:
    """The events of a rank other than 0."""

    def say(self, **line):
        pass

    def enter(self, name):
        pass
