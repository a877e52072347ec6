"""Whole-model gradients and three AdamW steps of every architecture against
PyTorch's autograd and optimizer, in float32.

usage: gradients.py GRADCHECK [--models N] [--seed S]

GRADCHECK is the built interop/gradcheck. Per tensor the difference's Euclidean
norm is held against the tensor's own: of the gradient, and of what the steps
so far have changed. PyTorch in float64 (norms and softmax stay float32 there)
says how far float32 itself is off. Batches in which a router chooses by less
than 1e-5 are drawn again: no two implementations need agree on them.
"""

import argparse
import copy
import json
import math
import pathlib
import random
import secrets
import sys

import torch
from safetensors.torch import load_file

import tiny
from checks import Checks, end_on_signals, output, scratch

GRADIENT = 1e-4  # |difference| of a tensor's gradient, relative to its norm
NOISE = 1e-3     # a gradient smaller than this part of the whole model's is held against that part:
                 # a router of one expert with normalised weights has none but rounding
CHANGE = 2e-3    # |difference| of a weight's change since the start, relative to the change or one full step
LOSS = 5e-6      # relative
ROUTING_TIE = 1e-5
STEPS = 3
ADAMW = {"rate": 1e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-6, "decay": 0.1, "clip": 1.0}


def batches(rng, vocab):
    """Ragged batches: prompts masked out, one sample with scattered targets."""
    made = []
    for _ in range(STEPS):
        batch = []
        for kind in range(4):
            n = rng.randint(2, 40)
            start = rng.randrange(1, n)
            mask = [t >= start if kind else rng.random() < 0.5 for t in range(n)]
            mask[n - 1] = True
            batch.append({"tokens": [rng.randrange(vocab) for _ in range(n)], "mask": mask})
        made.append(batch)
    return made


def loss_of(model, batch):
    """Cross-entropy averaged over the batch's targets."""
    losses = []
    for s in batch:
        tokens = torch.tensor([s["tokens"]])
        logp = model(tokens, use_cache=False).logits[0].log_softmax(-1)
        targets = [t for t in range(1, len(s["tokens"])) if s["mask"][t]]
        losses += [-logp[t - 1, s["tokens"][t]] for t in targets]
    return torch.stack(losses).mean()


def named(model, values, directory):
    """Tensors by the names that files have, where transformers keeps experts fused:
    a copy of the model that holds them is saved and read back."""
    shown = copy.deepcopy(model)
    with torch.no_grad():
        for p, v in zip(shown.parameters(), values, strict=True):
            p.copy_(v)
    shown.save_pretrained(directory)
    return load_file(directory / "model.safetensors")


def theirs(model, steps, tmp, dtype):
    """Losses, gradients and weights of PyTorch's steps, and the smallest routing margin met."""
    model = model.to(dtype)
    routing = tiny.Routing(model)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": ADAMW["decay"]}, {"params": vectors, "weight_decay": 0.0}],
                                  lr=ADAMW["rate"], betas=(ADAMW["beta1"], ADAMW["beta2"]), eps=ADAMW["eps"])
    losses, gradients, weights = [], [], []
    for batch in steps:
        optimizer.zero_grad()
        loss = loss_of(model, batch)
        loss.backward()
        losses.append(loss.item())
        gradients.append(named(model, [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()], tmp / "shown"))
        torch.nn.utils.clip_grad_norm_(model.parameters(), ADAMW["clip"])
        optimizer.step()
        weights.append(named(model, list(model.parameters()), tmp / "shown"))
    return losses, gradients, weights, routing.take()


def both(ours, wanted, frozen):
    """Pairs of the same tensor, in float64."""
    if missing := (ours.keys() ^ wanted.keys()) - frozen:
        raise AssertionError(f"only one side has {sorted(missing)}")
    for name, values in ours.items():
        if not torch.isfinite(values).all():
            raise AssertionError(f"{name} is not finite")
    return [(name, ours[name].double(), wanted[name].double()) for name in ours if name not in frozen]


def gradients_off(ours, wanted, frozen):
    """The largest relative difference of any tensor's gradient, and its name."""
    pairs = both(ours, wanted, frozen)
    whole = math.sqrt(sum(w.norm().item() ** 2 for _, _, w in pairs))
    return max(((o - w).norm().item() / max(w.norm().item(), NOISE * whole), name) for name, o, w in pairs)


def changes_off(ours, wanted, start, frozen):
    """The largest relative difference of any tensor's change since the start, and its name."""
    return max(((o - w).norm().item() / max((w - start[name].double()).norm().item(), ADAMW["rate"] * math.sqrt(w.numel())), name)
               for name, o, w in both(ours, wanted, frozen))


def one_model(gradcheck, family, config, seed, tmp):
    rng = random.Random(seed)
    directory, out = tmp / "model", tmp / "out"
    tiny.write(tiny.build(family, config, seed), directory, spelling=rng.choice(("published", "transformers")))
    out.mkdir()
    start = load_file(directory / "model.safetensors")
    frozen = {n for n in start if n.endswith("e_score_correction_bias")}
    for _ in range(20):
        steps = batches(rng, config["vocab_size"])
        losses, gradients, weights, margin = theirs(tiny.load(directory).train(), steps, tmp, torch.float32)
        if margin >= ROUTING_TIE:
            break
    else:
        raise AssertionError("no batches without a routing tie in 20 draws")
    _, exact, _, _ = theirs(tiny.load(directory).train(), steps[:1], tmp, torch.float64)
    (tmp / "plan.json").write_text(json.dumps(ADAMW | {"batches": steps, "threads": 2}))
    output([gradcheck, directory, tmp / "plan.json", out], 300)
    off = max(abs(a - b) / b for a, b in zip(json.loads((out / "losses.json").read_text()), losses, strict=True))
    if not off <= LOSS:
        raise AssertionError(f"a loss differs by {off:.3g} of it")
    figures = []
    for k in range(STEPS):
        gradient = gradients_off(load_file(out / f"gradients-{k}.safetensors"), gradients[k], frozen)
        change = changes_off(load_file(out / f"weights-{k}.safetensors"), weights[k], start, frozen)
        if not (gradient[0] <= GRADIENT and change[0] <= CHANGE):
            raise AssertionError(f"step {k + 1}: gradient off by {gradient[0]:.3g} ({gradient[1]}), change off by {change[0]:.3g} ({change[1]})")
        figures.append((gradient[0], change[0]))
    ours64 = gradients_off(load_file(out / "gradients-0.safetensors"), exact[0], frozen)[0]
    torch64 = gradients_off(gradients[0], exact[0], frozen)[0]
    return (f"{len(start) - len(frozen)} tensors; gradients off by at most {max(g for g, _ in figures):.1e}, changes by {max(c for _, c in figures):.1e}, "
            f"losses by {off:.0e}; from float64: ours {ours64:.1e}, torch's {torch64:.1e}")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("gradcheck", type=pathlib.Path)
    args.add_argument("--models", type=int, default=18)
    args.add_argument("--seed", type=int, default=secrets.randbits(32))
    args = args.parse_args()
    end_on_signals()
    torch.set_num_threads(1)
    print(f"gradients and {STEPS} AdamW steps of {args.models} models, seed {args.seed}, torch {torch.__version__}", flush=True)
    checks, rng = Checks(), random.Random(args.seed)
    switches = tiny.Switches(rng)
    for i in range(args.models):
        family = tiny.FAMILIES[i % 3]
        config = switches.config(family, rng.randint(300, 350))
        with scratch() as tmp:
            checks.run(f"autograd {i + 1}/{args.models} {tiny.describe(family, config)}", one_model, args.gradcheck.resolve(), family, config, rng.getrandbits(32), tmp)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
