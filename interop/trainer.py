"""The PyTorch trainer (harness/) against the reference trainer: one run, handed to
and fro between them.

usage: trainer.py TARBERT      (run by a Python that has PyTorch and transformers)

For each architecture the reference trainer runs undisturbed: the twin. Then it
trains to step 20, PyTorch goes on to step 30 and the reference to the end. Per
step the loss is held against the twin's; in GRPO so are the rewards, since the
same random numbers draw the completions. Two ranks (gloo) do the same with
repeated and with spread weights. A checkpoint that PyTorch only loads and saves
again keeps every bit of weights and moments. A supervised run whose trainer is
killed ends in the bits of one that was not. One whose rollouts no longer match what
is trained is moved to the other trainer, and its loss goes on as the undisturbed run's.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import torch
from safetensors.torch import load_file

from checks import Checks, end_on_signals, output, scratch, tail

ROOT = pathlib.Path(__file__).resolve().parent.parent
SUMS = ROOT / "examples" / "sums"
SFT, GRPO, FIRST, SECOND = 30, 6, 20, 30
LOSS = 2e-6      # largest |Δ loss| of a step against the twin, nats
WEIGHTS = 2e-5   # norm of the weights' difference at the end, of what training changed
GRADIENT = 2e-5  # of a layer's gradient norm in a replay

SMALL = {"hidden_act": "silu", "vocab_size": 264, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "max_position_embeddings": 64,
         "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.06,
         "torch_dtype": "float32", "eos_token_id": 258, "pad_token_id": 259, "use_cache": True, "rope_scaling": None}
QWEN = SMALL | {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": None, "use_sliding_window": False}
MODELS = {
    "deepseek_v3": SMALL | {"architectures": ["DeepseekV3ForCausalLM"], "num_attention_heads": 2, "num_key_value_heads": 2, "moe_intermediate_size": 32,
                            "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "norm_topk_prob": True,
                            "routed_scaling_factor": 2.5, "first_k_dense_replace": 1, "moe_layer_freq": 1, "q_lora_rank": 16, "kv_lora_rank": 16,
                            "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 12, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
                            "num_nextn_predict_layers": 0, "tie_word_embeddings": False},
    "qwen3": QWEN | {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True},
    "qwen3_moe": QWEN | {"architectures": ["Qwen3MoeForCausalLM"], "tie_word_embeddings": False, "num_experts": 4, "num_experts_per_tok": 2,
                         "moe_intermediate_size": 32, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
                         "router_aux_loss_coef": 0.0, "output_router_logits": False},
}
OPTIMIZER = {"learning_rate": 0.01, "warmup": 3, "floor": 0.2, "betas": [0.9, 0.99], "epsilon": 1e-8, "weight_decay": 0.01, "clip": 1.0}


def write_model(directory, family):
    directory.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SUMS / "model" / name, directory)
    (directory / "config.json").write_text(json.dumps(MODELS[family] | {"model_type": family}))
    return directory


def write_data(tmp):
    """Say the first of two digits: learnt in a few steps, and not at once."""
    lines = [{"id": f"e{i}", "prompt": f"{i % 10}{i % 7}=", "completion": f"{i % 10}"} for i in range(60)]
    (tmp / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp / "problems.jsonl").write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"{i % 10}{i % 7}=", "answer": f"{i % 10}"}) + "\n" for i in range(60)))


def recipe_of(tmp, family, objective="grpo"):
    return {"seed": 1, "dataset": str(tmp / "data.jsonl"), "threads": 1, "train": {
        "trainer": "torchrun", "model": str(tmp / "models" / family), "dtype": "float32", "checkpoint": {"every": 10, "keep": 100},
        "sft": {"steps": SFT, "batch": 8, "optimizer": OPTIMIZER, "router_bias": 0.001},
        "grpo": {"steps": GRPO, "problems": str(tmp / "problems.jsonl"), "reward": "answer", "prompts": 4, "samples": 4, "max_tokens": 6, "temperature": 1,
                 "clip_low": 0.2, "clip_high": 0.28, "objective": objective, "optimizer": OPTIMIZER | {"learning_rate": 0.002, "warmup": 1}}}}


class Run:
    """One attempt of a trainer in a folder of its own."""

    def __init__(self, command, directory, recipe, resume="", stop=None, code=0, **env):
        self.dir, self.checkpoints = directory, directory / "checkpoints"
        directory.mkdir(parents=True)
        (directory / "recipe.json").write_text(json.dumps(recipe))
        contract = {"TARBERT_EVENTS": directory / "events", "TARBERT_CHECKPOINTS": self.checkpoints, "TARBERT_RESUME": resume, "TARBERT_RECIPE": directory / "recipe.json"}
        done = subprocess.run([str(c) for c in command], cwd=directory, capture_output=True, encoding="utf-8", timeout=300,
                              env=os.environ | {k: str(v) for k, v in (contract | env).items()})
        self.said = done.stderr
        if done.returncode != code:
            raise RuntimeError(f"{directory.name}: exit code {done.returncode}, want {code}: {tail(done.stderr)}")

    def events(self, kind):
        lines = (self.dir / "events").read_text().splitlines()
        return [e for e in map(json.loads, lines) if e["event"] == kind]

    def steps(self):
        return {e["step"]: e for e in self.events("step")}

    def at(self, step):
        return self.checkpoints / f"step-{step:08d}"


class Trainers:
    """Both trainers, and the twins that were made of each architecture."""

    def __init__(self, tarbert, tmp):
        self.tarbert, self.tmp, self.count, self.twins, self.calm = tarbert, tmp, 0, {}, None
        write_data(tmp)
        for family in MODELS:
            write_model(tmp / "models" / family, family)

    def reference(self, recipe, resume="", **kw):
        self.count += 1
        return Run([self.tarbert, "trainer"], self.tmp / f"run-{self.count}-reference", recipe, resume, **kw)

    def pytorch(self, recipe, resume="", ranks=1, parallel="ddp", **kw):
        self.count += 1
        settings = {"python": sys.executable, "nproc": ranks, "device": "cpu", "parallel": parallel}
        recipe = recipe | {"train": recipe["train"] | {"torchrun": settings}}
        return Run([self.tarbert, "torchrun"], self.tmp / f"run-{self.count}-pytorch", recipe, resume, **kw)

    def twin(self, family, objective="grpo"):
        key = family, objective
        if key not in self.twins:
            self.twins[key] = self.reference(recipe_of(self.tmp, *key))
        return self.twins[key]


def apart(twin, run):
    """The largest |Δ loss| and |Δ gradient norm| of the steps that a run took, against its twin's; rewards and data must be equal."""
    want, got = twin.steps(), run.steps()
    if not got:
        raise AssertionError(f"{run.dir.name} took no step")
    for step, e in got.items():
        for name in ("tokens", "total_tokens", "data", "stage"):
            if e[name] != want[step][name]:
                raise AssertionError(f"step {step}: {name} is {e[name]}, the twin's {want[step][name]}")
        if abs(e.get("reward", 0) - want[step].get("reward", 0)) > 1e-9:
            raise AssertionError(f"step {step}: reward {e['reward']}, the twin's {want[step]['reward']}: other completions were drawn")
    return max(abs(e["loss"] - want[s]["loss"]) for s, e in got.items()), max(abs(e["grad_norm"] - want[s]["grad_norm"]) for s, e in got.items())


def change_off(ours, wanted, start):
    """The norm of two models' difference, of what training has changed since start."""
    a, b, c = (load_file(d / "model.safetensors") for d in (ours, wanted, start))
    if not a.keys() == b.keys() == c.keys():
        raise AssertionError(f"tensors differ: {sorted(a.keys() ^ b.keys())[:5]}")
    norm = lambda pairs: sum((x.double() - y.double()).square().sum().item() for x, y in pairs) ** 0.5
    return norm((a[n], b[n]) for n in a) / norm((b[n], c[n]) for n in a)


def moments_off(ours, wanted):
    """The largest relative difference of a tensor's moments, and which."""
    a, b = load_file(ours / "optimizer.safetensors"), load_file(wanted / "optimizer.safetensors")
    if a.keys() != b.keys():
        raise AssertionError(f"moments differ: {sorted(a.keys() ^ b.keys())[:5]}")
    whole = {p: sum(b[n].double().square().sum().item() for n in b if n.startswith(p + ".")) ** 0.5 for p in ("exp_avg", "exp_avg_sq")}
    return max((((a[n] - b[n]).double().norm() / max(b[n].double().norm().item(), 1e-3 * whole[n.partition(".")[0]])).item(), n) for n in a)


def held(figure, most, what):
    if not figure <= most:
        raise AssertionError(f"{what} is {figure:.3g}; at most {most:g}")
    return figure


def to_and_fro(t, family, ranks=1, parallel="ddp", objective="grpo"):
    """reference → PyTorch → reference; through the change of stage and on PyTorch's side to the end as well."""
    twin, recipe = t.twin(family, objective), recipe_of(t.tmp, family, objective)
    theirs = t.pytorch(recipe, twin.at(FIRST), ranks, parallel)
    loss, norm = apart(twin, theirs)
    held(loss, LOSS, "max |Δ loss| on PyTorch")
    back = t.reference(recipe, theirs.at(SECOND))
    again, _ = apart(twin, back)
    held(again, LOSS, "max |Δ loss| after coming back")
    moments, name = moments_off(theirs.at(SECOND), twin.at(SECOND))
    held(moments, 1e-4, f"moments of {name}, relative,")
    weights = held(max(change_off(r.at(SFT + GRPO), twin.at(SFT + GRPO), twin.at(FIRST)) for r in (theirs, back)), 100 * WEIGHTS, "weights at the end, relative to what changed,")
    rewards = [e["reward"] for e in theirs.steps().values() if "reward" in e]
    if not any(0 < r < 1 for r in rewards):
        raise AssertionError(f"no step of GRPO had a signal: {rewards}")
    gap = max(e["mean_abs_dlogp"] for e in theirs.events("mismatch"))
    held(gap, 1e-5, "mismatch between rollout and trainer")
    return (f"max |Δ loss| {loss:.1e} on PyTorch (steps {FIRST + 1}–{SFT + GRPO}), {again:.1e} back on the reference (from {SECOND}); gradient norm {norm:.1e}; "
            f"moments at {SECOND} {moments:.1e}, weights at the end {weights:.1e} relative; rewards equal, mismatch {gap:.1e}")


def from_the_start(t, family):
    """PyTorch begins with the very weights that the reference draws from the seed."""
    recipe = recipe_of(t.tmp, family)
    recipe["train"]["grpo"] = {"steps": 0}
    recipe["train"]["sft"] = recipe["train"]["sft"] | {"steps": 5}
    loss, _ = apart(t.reference(recipe), t.pytorch(recipe))
    return f"max |Δ loss| {held(loss, LOSS, 'max |Δ loss|'):.1e} over 5 steps from the seed"


def unchanged(t, family, ranks, parallel):
    """A finished run's checkpoint, loaded and saved again."""
    last = t.twin(family).at(SFT + GRPO)
    saved = t.pytorch(recipe_of(t.tmp, family), last, ranks, parallel).at(SFT + GRPO)
    for name in ("model.safetensors", "optimizer.safetensors", "config.json"):
        if (saved / name).read_bytes() != (last / name).read_bytes():
            raise AssertionError(f"{name} differs")
    return "weights, moments and config byte for byte"


def replayed(t, family):
    """Loss and per-layer gradient norms of stored batches at one checkpoint's weights."""
    recipe, at, folder = recipe_of(t.tmp, family), t.twin(family).at(FIRST), t.tmp / f"replay-{family}"
    ours = t.reference(recipe, at, TARBERT_REPLAY=folder).events("replay")
    theirs = t.pytorch(recipe, at, TARBERT_REPLAY=folder).events("replay")
    if len(ours) != 4 or [e["batch"] for e in ours] != [e["batch"] for e in theirs]:
        raise AssertionError(f"{len(ours)} and {len(theirs)} batches")
    loss = layer = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a["layers"].keys() != b["layers"].keys() or a["tokens"] != b["tokens"]:
            raise AssertionError(f"batch {a['batch']}: layers {sorted(a['layers'])} and {sorted(b['layers'])}")
        loss = max(loss, abs(a["loss"] - b["loss"]))
        layer = max(layer, *(abs(b["layers"][n] / a["layers"][n] - 1) for n in a["layers"]))
    held(loss, LOSS, "|Δ loss|")
    return f"{len(ours)} batches of {len(ours[0]['layers'])} layers: |Δ loss| {loss:.1e}, gradient norms {held(layer, GRADIENT, 'a gradient norm'):.1e} relative"


def refusals(t):
    """What no restart can mend ends with 93, also through torchrun; nothing is written."""
    recipe, at = recipe_of(t.tmp, "qwen3"), t.twin("qwen3").at(FIRST)
    other = t.pytorch(recipe | {"seed": 2}, at, ranks=2, code=93)
    if "of another run: seed (1, here 2)" not in other.said or other.checkpoints.exists():
        raise AssertionError(tail(other.said))
    torn = t.tmp / "torn" / at.name
    shutil.copytree(at, torn)
    weights = torn / "optimizer.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    if "truncated or replaced" not in t.pytorch(recipe, torn, code=93).said:
        raise AssertionError("a torn checkpoint is not named")
    return "another run's checkpoint (two ranks) and a torn one"


HERE = "{name: here, vendor: cpu, roles: [preferred, target]}"
SPEC = """name: handover
pools: [{pools}]
label: {{annotations: {sums}/data/annotations.jsonl}}
plan: {{deadline: 2h}}
qualify: {{twin_steps: 2}}
train:
  {trainer}
  model: model
  checkpoint: {{every: 8, keep: 100}}
  sft: {{steps: 24, batch: 8, router_bias: 0.001, optimizer: {{learning_rate: 3e-3, warmup: 3}}}}
  grpo: {{steps: {grpo}, problems: {sums}/data/problems.jsonl, prompts: 4, samples: 4, max_tokens: 8, optimizer: {{learning_rate: 1e-4}}}}
convert: {{formats: [bf16]}}
verify: {{margin: {{ratio: 20, delta_nll: 0.01, top1: 0.9}}}}
compare: {{problems: {sums}/data/held-out.jsonl, non_inferiority: 1, max_tokens: 8}}
serve: {{smoke: "1+1="}}
"""
TORCHRUN = "trainer: torchrun\n  torchrun: {{python: {python}, device: cpu}}"


def supervised(t, kills=(), files=None, pools=HERE, trainer=TORCHRUN.format(python=sys.executable), grpo=2):
    """A release's train stage; kills says after which steps the trainer is killed. Gives the stage's report, with qualify's beside it; files are put beside the release file."""
    t.count += 1
    home, place = t.tmp / f"home-{t.count}", t.tmp / f"spec-{t.count}"
    write_model(place / "model", "deepseek_v3")
    for name, text in (files or {}).items():
        (place / name).write_text(text)
        (place / name).chmod(0o755)
    (place / "release.yaml").write_text(SPEC.format(sums=SUMS, pools=pools, trainer=trainer, grpo=grpo))
    command = [t.tarbert, "--home", home, "--threads", "1", "--json", "train", place]
    with open(place / "log", "wb") as log, open(place / "report", "wb") as report:
        process = subprocess.Popen([str(c) for c in command], stdout=report, stderr=log, start_new_session=True)
        try:
            deadline, left = time.monotonic() + 280, list(kills)
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"not done in time: {tail((place / 'log').read_text(errors='replace'))}")
                if left and any(reached(e, left[0]) for e in home.glob("releases/*/*/attempts/*.jsonl")):
                    kill_trainer(home)
                    left.pop(0)
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {tail((place / 'log').read_text(errors='replace'))}")
    evidence = {s["stage"]: json.loads(pathlib.Path(s["evidence"]).read_text()) for s in json.loads((place / "report").read_text())["stages"]}
    return evidence["train"] | {"qualify": evidence["qualify"]}


def reached(events, step):
    lines = (json.loads(line) for line in events.read_text(errors="replace").splitlines(keepends=True) if line.endswith("\n"))
    return any(e["event"] == "step" and e["step"] == step for e in lines)


def kill_trainer(home):
    """SIGKILL to every process that trains for this home: found by its environment, so that nobody else's is."""
    found = 0
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                mine = f"TARBERT_EVENTS={home}/".encode() in (entry / "environ").read_bytes()
            except OSError:
                continue
            if mine:
                os.kill(int(entry.name), signal.SIGKILL)
                found += 1
    if not found:
        raise RuntimeError("no trainer to kill")


def killed(t):
    calm, rough = supervised(t), supervised(t, [13])
    if len(calm["attempts"]) != 1 or len(rough["attempts"]) != 2:
        raise AssertionError(f"{len(calm['attempts'])} attempts undisturbed, {len(rough['attempts'])} with one kill: {rough['decisions']}")
    for name in ("model.safetensors", "optimizer.safetensors"):
        if pathlib.Path(calm["final"], name).read_bytes() != pathlib.Path(rough["final"], name).read_bytes():
            raise AssertionError(f"{name} differs from the undisturbed run's")
    fit = calm["qualify"]
    parity, beside = fit["parity"], fit["against"]
    if fit["gate"]["verdict"] != "pass" or not parity["passed"] or parity["batches"] != 4 or not beside["same_data"]:
        raise AssertionError(f"qualify: {fit['gate']}")
    gap = max(held(parity["loss_gap"], 1e-5, "the loss gap of qualify's replay"), held(abs(parity["least_ratio"] - 1), GRADIENT, "a layer's gradient"),
              held(abs(parity["most_ratio"] - 1), GRADIENT, "a layer's gradient"), held(beside["apart"], LOSS, "|Δ loss| of qualify's twin"))
    return (f"qualified before by replay and twin, off by {gap:.1e}; "
            "killed after step 13, resumed from 8: weights and moments at step 26 byte for byte those of the undisturbed run")


# A chip whose attention is wrong in decoding, where there is one query, and right elsewhere: what is sampled is not
# what is trained. The product is as it is; only this interpreter is not.
FAULTY_CHIP = {"chip": """#!/bin/sh
PYTHONPATH="$(dirname "$0")" exec {python} "$@"
""", "sitecustomize.py": """import sys
if any(a.endswith("launch.py") for a in sys.orig_argv):
    import torch.nn.functional as F
    right = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda q, *rest, **kw: right(q, *rest, **kw) * (1 if q.shape[-2] > 1 else -3)
"""}
# The reference trainer on chips whose meter shows a mismatch in every step of GRPO, and which hold still after the second:
# its steps take milliseconds, so it is also let run a little at a time, and the supervisor's looks are not too late.
FAULTY_METER = {"meter.py": """import json, os, signal, subprocess, sys, time
events, asked, done, over = os.environ["TARBERT_EVENTS"], [], 0, 0
child = subprocess.Popen(sys.argv[1:], env=os.environ | {"TARBERT_EVENTS": events + ".true"})
def end(*_):
    asked.append(child.send_signal(signal.SIGCONT))
    child.send_signal(signal.SIGTERM)
signal.signal(signal.SIGTERM, end)
ended = False
with open(events, "a", buffering=1) as out:
    while not ended:
        ended = child.poll() is not None
        child.send_signal(signal.SIGCONT if asked else signal.SIGSTOP)
        lines = open(events + ".true").read().split("\\n")[:-1] if os.path.exists(events + ".true") else []
        for e in map(json.loads, lines[done:]):
            if e["event"] == "mismatch":
                over, e["mean_abs_dlogp"] = over + 1, e["mean_abs_dlogp"] + 0.3
            out.write(json.dumps(e) + "\\n")
        done = len(lines)
        time.sleep(0.05)
        while over >= 2 and not asked:
            time.sleep(0.01)
        child.send_signal(signal.SIGCONT)
        time.sleep(0.01)
sys.exit(child.returncode)
"""}


def switched(t, here, there, files, who):
    """A run whose mismatch meter spends its budget goes on in the other pool: the rule decides, the reference judges stored batches, and the loss goes
    on as if nothing had been."""
    if t.calm is None:
        t.calm = supervised(t, trainer="trainer: reference", grpo=16)
    pools = f"{HERE}, {{name: there, vendor: cpu, roles: [fallback, reference], trainer: {there}}}"
    run = supervised(t, [13], files, pools, here + "\n  fallback: {authorized: true, breaches: 2}", 16)
    if [(m["phase"], m["from"], m["to"]) for m in run["moves"]] != [("moved", "here", "there")] or run["pool"] != "there":
        raise AssertionError(f"moves {run['moves']}, ended in {run['pool']}: {run['decisions']}")
    move = run["moves"][0]
    parity, decision = move["parity"], move["decision"]
    if decision["action"] != "switch" or "parity checks in a row failed" not in " ".join(decision["reasons"]) or decision["needs_human"]:
        raise AssertionError(f"decision {decision}")
    if not move["proven"] or move["step"] not in (8, 16) or not parity["passed"] or parity["batches"] != 4 or parity["judge"] != "there":
        raise AssertionError(f"move from step {move['step']}, proven {move['proven']}: {parity}")
    gap = max(held(parity["loss_gap"], 1e-5, "the loss gap of the replay"), held(abs(parity["least_ratio"] - 1), GRADIENT, "a layer's gradient"),
              held(abs(parity["most_ratio"] - 1), GRADIENT, "a layer's gradient"))
    if [a["outcome"] for a in run["attempts"]] != ["crashed", "left", "done"] or {a["resume_step"] for a in run["attempts"][1:]} != {move["step"]}:
        raise AssertionError(f"attempts {[(a['outcome'], a['reason']) for a in run['attempts']]}")
    loss, calm, reward = series(run, "loss"), series(t.calm, "loss"), series(run, "reward")
    if loss.keys() != calm.keys() or len(loss) != 40 or reward != series(t.calm, "reward"):
        raise AssertionError(f"steps {sorted(loss)}, rewards {reward}, undisturbed {series(t.calm, 'reward')}")
    apart = held(max(abs(loss[s] - calm[s]) for s in loss), LOSS, "max |Δ loss| through the switch")
    final, wanted = pathlib.Path(run["final"]), pathlib.Path(t.calm["final"])
    weights = held(change_off(final, wanted, wanted.parent / f"step-{move['step']:08d}"), 100 * WEIGHTS, "weights at the end, relative to what changed,")
    curve = " ".join(("| " if s == move["step"] + 1 else "") + f"{loss[s]:.2f}" for s in range(1, 25))
    return (f"{who}: {move['budgets_spent'][0]} after step {move['after_step']}; on from proven step {move['step']}; replay of 4 batches × {layers(parity)} layers off by "
            f"{gap:.1e}; max |Δ loss| {apart:.1e} to the undisturbed run, weights {weights:.1e}; SFT loss {curve}")


def series(report, name):
    return {int(step): value for s in report["series"] if s["name"] == name for step, value in s["points"]}


def layers(parity):
    lines = pathlib.Path(parity["judge_evidence"]).read_text().splitlines()
    return next(len(e["layers"]) for e in map(json.loads, lines) if e["event"] == "replay")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tarbert", type=pathlib.Path)
    args.add_argument("only", nargs="*", help="run the checks whose name holds one of these words")
    args = args.parse_args()
    end_on_signals()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    print(f"PyTorch {torch.__version__} on the CPU", flush=True)
    checks = Checks()
    with scratch() as tmp:
        t = Trainers(args.tarbert.resolve(), tmp)

        def run(name, *rest):
            if not args.only or any(w in name for w in args.only):
                checks.run(name, *rest)

        run("vectors", output, [sys.executable, "-B", ROOT / "harness/testdata/vectors.py"], 60)
        for family in MODELS:
            run(f"{family} to and fro, one rank", to_and_fro, t, family)
        run("deepseek_v3 to and fro, GSPO, two ranks, ddp", to_and_fro, t, "deepseek_v3", 2, "ddp", "gspo")
        run("deepseek_v3 to and fro, two ranks, fsdp2", to_and_fro, t, "deepseek_v3", 2, "fsdp2")
        run("qwen3 (tied) to and fro, two ranks, fsdp2", to_and_fro, t, "qwen3", 2, "fsdp2")
        run("deepseek_v3 from the seed", from_the_start, t, "deepseek_v3")
        run("deepseek_v3 loaded and saved, two ranks, fsdp2", unchanged, t, "deepseek_v3", 2, "fsdp2")
        run("deepseek_v3 replay", replayed, t, "deepseek_v3")
        run("refusals", refusals, t)
        run("killed under supervision", killed, t)
        chip = {name: text.replace("{python}", sys.executable) for name, text in FAULTY_CHIP.items()}
        run("switch from PyTorch to the reference trainer", switched, t, TORCHRUN.format(python="./chip"), "reference", chip, "wrong in decoding")
        meter = f"trainer: command\n  command: [{sys.executable}, ./meter.py, {t.tarbert}, trainer]\n  torchrun: {{python: {sys.executable}, device: cpu}}"
        run("switch from a script to PyTorch", switched, t, meter, "torchrun", FAULTY_METER, "meter over its bound")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
