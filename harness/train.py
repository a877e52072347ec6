"""A PyTorch trainer that speaks the trainer contract (docs/formats.md, docs/howto/train-with-pytorch.md):
SFT and GRPO or GSPO of transformers' deepseek_v3, qwen3 and qwen3_moe on CUDA, NPU or CPU, on one rank or many.

A run is the reference trainer's run: the same recipe, order of data, schedule, losses and random draws, and
checkpoints that either side resumes. One process per rank; torchrun's variables say which it is.

launch.py starts it. NPU (torch_npu, HCCL) has never been run: no such chip was at hand.
"""

import json
import math
import os
import signal
import sys
import traceback
from datetime import timedelta

import contract
from contract import NotFinite, Refused, Stopped

try:
    import torch
    import torch.distributed as dist
    import transformers
    from tokenizers import Tokenizer
except ImportError as e:
    print(f"tarbert torchrun: {sys.executable} cannot import {e.name}: {e}\n"
          f"  type: {sys.executable} -m pip install torch 'transformers>=5' safetensors", file=sys.stderr)
    sys.exit(contract.DO_NOT_RESTART)

import data
import passes
import replay
import rollout
import saving
from models import Files, Model, read_config


class Ranks:
    """This process among its peers, and its chip."""

    def __init__(self, settings, threads):
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        local = int(os.environ.get("LOCAL_RANK", 0))
        kind = settings["device"]
        if kind in ("auto", "npu"):
            try:
                import torch_npu  # noqa: F401  registers torch.npu
                kind = "npu"
            except ImportError as e:
                if kind == "npu":
                    raise Refused(f"train.torchrun.device is npu and torch_npu is not there: {e}") from e
        if kind == "auto":
            kind = "cuda" if torch.cuda.is_available() else "cpu"
        if kind == "cuda" and not torch.cuda.is_available():
            raise Refused(f"train.torchrun.device is cuda and PyTorch {torch.__version__} sees no CUDA device: check nvidia-smi and CUDA_VISIBLE_DEVICES, or set device: cpu")
        self.kind = kind
        self.device = torch.device(kind if kind == "cpu" else f"{kind}:{local}")
        if kind == "cpu":
            torch.set_num_threads(max((threads or os.cpu_count() or 1) // self.world, 1))
        else:
            getattr(torch, kind).set_device(self.device)
        if self.world > 1:
            backend = {"cuda": "nccl", "npu": "hccl", "cpu": "gloo"}[kind]
            dist.init_process_group(backend, timeout=timedelta(minutes=10), **({} if kind == "cpu" else {"device_id": self.device}))
        self.first = self.rank == 0

    def describe(self):
        if self.kind == "cpu":
            return {"vendor": "cpu", "device": f"PyTorch {torch.__version__} on {os.uname().machine}"}
        name = getattr(torch, self.kind).get_device_name(self.device)
        return {"vendor": {"cuda": "nvidia", "npu": "ascend"}[self.kind], "device": name}


class Training:
    """A run between two steps."""

    def __init__(self, env, recipe, ranks, events):
        self.env, self.recipe, self.ranks, self.events = env, recipe, ranks, events
        self.asked = False
        self.adjust = contract.Adjustment(env["TARBERT_ADJUST"])
        resume = env["TARBERT_RESUME"]
        self.state = {"step": 0, "tokens": 0}
        self.identity = recipe.identity()
        if resume:
            self.state = saving.check(self, resume)
        source = resume or self._initial()
        self.config = read_config(resume or recipe.model)
        self.step, self.tokens = self.state["step"], self.state["tokens"]
        t = recipe.torchrun
        self.model = Model(self.config, Files(source), ranks.device, ranks.world, t["parallel"], t["precision"])
        self._read_data()
        self._optimizer()
        if resume:
            saving.moments(self, resume)

    def _initial(self):
        """Where the first weights lie: beside config.json, or where tarbert drew them from the seed."""
        for d in (self.recipe.model, self.env["TARBERT_INITIAL"]):
            if d and any(os.path.exists(os.path.join(d, n)) for n in ("model.safetensors", "model.safetensors.index.json")):
                return d
        raise Refused(f"{self.recipe.model} holds no weights: start this trainer through tarbert, which draws them from the seed "
                      "(train.trainer: torchrun), or put model.safetensors there")

    def _read_data(self):
        r, model = self.recipe, self.recipe.model
        path = os.path.join(model, "tokenizer.json")
        try:
            self.tokenizer = Tokenizer.from_file(path)
            with open(os.path.join(model, "tokenizer_config.json"), encoding="utf-8") as f:
                eos = json.load(f).get("eos_token")
        except Exception as e:  # tokenizers raises Exception itself
            raise Refused(f"read the model's tokenizer: {path}: {e}") from e
        eos = eos["content"] if isinstance(eos, dict) else eos
        first = self.tokenizer.token_to_id(eos) if eos else None
        if first is None:
            raise Refused(f"the tokenizer in {model} names no end-of-text token: set eos_token in tokenizer_config.json")
        self.eos = [first]
        generation = os.path.join(model, "generation_config.json")
        if os.path.exists(generation):
            with open(generation, encoding="utf-8") as f:
                more = json.load(f).get("eos_token_id")
            self.eos += [i for i in (more if isinstance(more, list) else [more]) if i is not None and i != first]
        encode = lambda text: self.tokenizer.encode(text, add_special_tokens=False).ids
        positions = self.config["max_position_embeddings"]
        if r.sft["steps"] > 0:
            self.examples = data.examples(r.dataset, encode, first, positions)
            self.order = data.Order(r.seed, len(self.examples), r.sft["batch"])
        if r.grpo["steps"] > 0:
            g = r.grpo
            self.problems = data.problems(g["problems"], encode, g["steps"] * g["prompts"], positions - g["max_tokens"])

    def _optimizer(self):
        """AdamW with fresh moments."""
        named = self.model.parameters
        groups = [{"params": [p for n, p in named.items() if self.model.decays(n) is d], "decays": d} for d in (True, False)]
        self.adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=0.0, foreach=True)
        self.updates = 0
        for p in named.values():
            self.adam.state[p] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}

    def count(self, updates):
        """How many updates lie behind the moments: AdamW's bias correction needs it."""
        self.updates = updates
        for st in self.adam.state.values():
            st["step"].fill_(float(updates))

    # Steps.

    def next(self):
        sft = self.recipe.sft["steps"]
        if self.step == sft:
            self._optimizer()  # a new objective: the old moments would point its first steps the old way
        if self.adjust.skips(self.step + 1):
            self.step += 1
            self.events.say(event="step", step=self.step, stage=self.recipe.stage(self.step), tokens=0, total_tokens=self.tokens, adjusted="skip")
        elif self.step < sft:
            self._sft()
        else:
            self._grpo(self.step - sft)

    def mine(self, batch):
        return batch[self.ranks.rank::self.ranks.world]

    def backward(self, batch, objective, penalties, counted, seen=None):
        """The gradient of the batch's part that is this rank's."""
        self.adam.zero_grad(set_to_none=True)
        spare = passes.Sample([0, 0], 1)
        targets, rows = counted
        return passes.backward(self.model, batch, objective, self.recipe.torchrun["micro_tokens"], self.ranks.world,
                               penalties["z_loss"] / max(targets, 1), penalties["router_z_loss"] / max(rows, 1), seen, spare)

    def _sft(self):
        self.events.enter("step")
        sft = self.recipe.sft
        batch = [passes.Sample(*self.examples[i]) for i in self.order.step(self.step)]
        targets = sum(s.targets for s in batch)
        if sft["router_bias"] > 0:
            self.model.count_load()
        sums = self.backward(self.mine(batch), passes.cross_entropy(targets), self.recipe.reference["sft"],
                              (targets, sum(len(s.tokens) - 1 for s in batch)))
        load = self.model.take_load() if sft["router_bias"] > 0 else None
        self._finish(sft["optimizer"], data.rate(sft["optimizer"], self.step, sft["steps"]), sums, sum(len(s.tokens) for s in batch), data.digest(s.tokens for s in batch))
        if load is not None:
            self.model.balance(load, sft["router_bias"])

    def _grpo(self, g):
        r = self.recipe.grpo
        self.events.enter("rollout")
        asked = list(enumerate(self.problems[g * r["prompts"]:(g + 1) * r["prompts"]]))
        rolls = rollout.roll(self.model, r, self.recipe.seed, g, [(i, p) for i, (p, _) in self.mine(asked)], self.eos)
        batch, tally = self._judge(rolls, dict(asked))
        self.events.enter("step")
        names = ("rollouts", "reward", "thinks", "cut", "kept", "length", "entropy", "samples", "predicted", "tokens", "rows")
        t = dict(zip(names, passes.over_ranks([tally[n] for n in names], self.ranks.device)))
        n = t["rollouts"]
        meters = {"reward": t["reward"] / n, "thinks": t["thinks"] / n, "length": t["length"] / n, "entropy": t["entropy"] / t["length"],
                  "kept": t["kept"] / n, "cut": t["cut"] / n}
        if t["kept"] == 0:  # nothing to learn; the first problem's are still computed for the mismatch meter
            batch = [s for s, roll in zip(self._samples(rolls, {}), rolls) if roll.problem == 0]
            own = [len(batch), sum(s.targets for s in batch), sum(len(s.tokens) for s in batch), sum(len(s.tokens) - 1 for s in batch)]
            t |= dict(zip(("samples", "predicted", "tokens", "rows"), passes.over_ranks(own, self.ranks.device)))
        gap = {"sum": 0.0, "most": 0.0, "far": 0.0, "n": 0.0}
        weighed = {"sum": 0.0, "truncated": 0.0, "masked": 0.0, "n": 0.0}
        correction = self.recipe.reference["grpo"]["correction"]

        def seen(micro, logp):
            d = (logp.double() - torch.tensor([x for s in micro.samples for x in s.mu], dtype=torch.float64, device=logp.device)).abs()
            gap["sum"] += d.sum().item()
            gap["most"] = max(gap["most"], d.max().item())
            gap["far"] += (d > 0.1).sum().item()
            gap["n"] += len(d)

        def weigh(c, w):
            weighed["sum"] += w.sum().item()
            weighed["masked"] += (w == 0).sum().item()
            weighed["truncated"] += ((w == c["truncate"]) & (c["truncate"] > 0)).sum().item()
            weighed["n"] += len(w)

        objective = passes.policy(r, correction, t["predicted"], t["samples"], weigh)
        sums = self.backward(batch, objective, self.recipe.reference["grpo"], (t["predicted"], t["rows"]), seen)
        self._finish(r["optimizer"], data.rate(r["optimizer"], g, r["steps"]), sums, int(t["tokens"]), data.digest(p for _, (p, _) in asked), meters)
        self._mismatch(gap, weighed, correction)

    def _mismatch(self, gap, weighed, correction):
        """The mismatch meter: how far the rollout's log-probabilities are from the trainer's."""
        total, far, n, *w = passes.over_ranks([gap["sum"], gap["far"], gap["n"], *weighed.values()], self.ranks.device)
        most = passes.over_ranks([gap["most"]], self.ranks.device, dist.ReduceOp.MAX if self.ranks.world > 1 else None)[0]
        line = {"mean_abs_dlogp": total / max(n, 1), "max_abs_dlogp": most, "share_over_0.1": far / max(n, 1)}
        if correction["truncate"] > 0 or correction["mask_high"] > 0:
            line |= {k: v / max(w[3], 1) for k, v in zip(("weight", "truncated", "masked"), w)}
        self.events.say(event="mismatch", step=self.step, **line)

    @staticmethod
    def _samples(rolls, advantages):
        return [passes.Sample(roll.tokens, roll.prompt, roll.logp, advantages.get(i, 0.0)) for i, roll in enumerate(rolls)]

    def _judge(self, rolls, asked):
        """Rewards, groups with a signal as samples, and sums of the meters over this rank's rollouts."""
        rewards, tally = [], dict.fromkeys(("rollouts", "reward", "thinks", "cut", "kept", "length", "entropy"), 0.0)
        for roll in rolls:
            correct, thinks = data.answer(self.tokenizer.decode(roll.completion(), skip_special_tokens=False), asked[roll.problem][1])
            rewards.append(1.0 if correct and roll.ended else 0.0)
            tally["reward"] += rewards[-1]
            tally["thinks"] += thinks
            tally["cut"] += not roll.ended
            tally["length"] += len(roll.logp)
            tally["entropy"] += roll.entropy
        tally["rollouts"] = len(rolls)
        each, advantages = self.recipe.grpo["samples"], {}
        for at in range(0, len(rolls), each):
            a = data.advantages(rewards[at:at + each])
            if a is not None:
                advantages |= {at + i: x for i, x in enumerate(a)}
        tally["kept"] = len(advantages)
        every = self._samples(rolls, advantages)
        batch = [every[i] for i in advantages]
        tally |= {"samples": len(batch), "predicted": sum(s.targets for s in batch), "tokens": sum(len(s.tokens) for s in batch),
                  "rows": sum(len(s.tokens) - 1 for s in batch)}
        return batch, tally

    def _finish(self, h, rate, sums, tokens, digest, meters=None):
        """Clips, moves the weights, counts and reports."""
        loss, z, router_z = sums
        norm, scale = passes.gradient_norm(self.model), self.adjust.scale(self.step + 1)
        rate *= scale
        line = {"event": "step", "step": self.step + 1, "stage": self.recipe.stage(self.step + 1), "loss": loss, "grad_norm": norm, "lr": rate}
        if not math.isfinite(loss + norm):
            self.events.say(**line, tokens=0)
            raise NotFinite(f"step {self.step + 1}: loss {loss}, gradient norm {norm}")
        if meters is None or meters["kept"] > 0:  # without any signal even the moments stay as they are
            if h["clip"] > 0 and norm > h["clip"]:
                torch._foreach_mul_([p.grad for p in self.model.parameters.values()], h["clip"] / norm)
            for group in self.adam.param_groups:
                group.update(lr=rate, betas=tuple(h["betas"]), eps=h["epsilon"], weight_decay=h["weight_decay"] if group["decays"] else 0.0)
            self.adam.step()
            self.updates += 1
        self.step += 1
        self.tokens += tokens
        line |= {"tokens": tokens, "total_tokens": self.tokens} | ({"data": digest} if digest else {}) | ({"adjusted": "lr"} if scale != 1 else {})
        line |= ({"z_loss": z} if z else {}) | ({"router_z_loss": router_z} if router_z else {})
        seconds = self._rank_seconds()
        self.events.say(**line, **(meters or {}), **seconds)

    def _rank_seconds(self):
        """Each rank's own time in the step's forward passes; where a pass itself waits for peers (fsdp2), nothing."""
        if self.ranks.world == 1 or self.recipe.torchrun["parallel"] != "ddp":
            return {}
        own = [0.0] * self.ranks.world
        own[self.ranks.rank] = self.model.seconds
        return {"rank_seconds": passes.over_ranks(own, self.ranks.device)}

    # The run.

    def stop(self, *_):
        self.asked = True

    def told_to_stop(self):
        """Whether any rank was asked to: all must stop at the same border."""
        return passes.over_ranks([float(self.asked)], self.ranks.device)[0] > 0

    def run(self):
        if self.env["TARBERT_REPLAY"]:
            return replay.replay(self, self.env["TARBERT_REPLAY"])
        saved, r = self.step, self.recipe
        while self.step < r.steps:
            if self.told_to_stop():
                if self.step > 0 and self.step != saved:
                    saving.save(self)
                raise Stopped(f"training stopped after step {self.step} of {r.steps}")
            self.next()
            if r.due(self.step):
                saving.save(self)
                saved = self.step
        if saved != self.step or self.env["TARBERT_RESUME"]:
            saving.save(self)
        self.events.say(event="done", step=self.step)


def environment():
    """The contract's variables."""
    env = {n: os.environ.get(n, "") for n in ("TARBERT_EVENTS", "TARBERT_CHECKPOINTS", "TARBERT_RESUME", "TARBERT_RECIPE",
                                                "TARBERT_ADJUST", "TARBERT_REPLAY", "TARBERT_INITIAL")}
    for name in ("TARBERT_EVENTS", "TARBERT_CHECKPOINTS", "TARBERT_RECIPE"):
        if not env[name]:
            raise Refused(f"{name} is not set: a trainer is started by its supervisor (docs/formats.md, trainer contract)")
    return env


def start():
    if int(transformers.__version__.partition(".")[0]) < 5:
        raise Refused(f"transformers {transformers.__version__} is too old: type {sys.executable} -m pip install 'transformers>=5'")
    env = environment()
    recipe = contract.Recipe(env["TARBERT_RECIPE"])
    first = int(os.environ.get("RANK", 0)) == 0
    events = contract.Events(env["TARBERT_EVENTS"])
    if "RANK" in os.environ:
        events.say(event="rank", rank=int(os.environ["RANK"]), pid=os.getpid())
    events = events if first else contract.Silence()
    events.enter("setup")
    if recipe.torchrun["deterministic"]:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    ranks = Ranks(recipe.torchrun, recipe.threads)
    training = Training(env, recipe, ranks, events)
    signal.signal(signal.SIGTERM, training.stop)
    signal.signal(signal.SIGINT, training.stop)
    return training


def main():
    try:
        start().run()
        code = 0
    except Refused as e:
        print(f"tarbert torchrun: {e}", file=sys.stderr, flush=True)
        code = contract.DO_NOT_RESTART
    except Stopped as e:
        print(f"tarbert torchrun: {e}", file=sys.stderr, flush=True)
        code = contract.STOPPED
    except NotFinite as e:
        print(f"tarbert torchrun: not finite: {e}", file=sys.stderr, flush=True)
        code = contract.NOT_FINITE
    except Exception:
        traceback.print_exc()
        code = 1
    if code == 0 and dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    # Peers may wait in a collective for a rank that failed: leave without their help.
    sys.stderr.flush()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
