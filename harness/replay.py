"""Replay (docs/formats.md): loss and gradients of stored batches at a checkpoint's
weights, layer by layer, for judging one chip or one program by another.
"""

import json
import math
import os
import re
from collections import defaultdict

import torch.distributed as dist

import data
import passes
import portable
from contract import NotFinite, Refused

BATCHES = 4  # stored where none are yet


def replay(t, directory):
    path = os.path.join(directory, "batches.jsonl")
    if t.ranks.first and not os.path.exists(path):
        _store(t, path)
    if t.ranks.world > 1:
        dist.barrier()
    t.events.enter("eval")
    for n, batch in _read(t, path):
        samples = [passes.Sample(tokens, start) for tokens, start in batch]
        targets = sum(s.targets for s in samples)
        none = {"z_loss": 0.0, "router_z_loss": 0.0}
        loss, *_ = t.backward(t.mine(samples), passes.cross_entropy(targets), none, (targets, 1))
        layers = defaultdict(float)
        for name, square in passes.squares(t.model).items():
            layers[layer_of(name)] += square
        norm = math.sqrt(sum(layers.values()))
        if not math.isfinite(loss + norm):
            raise NotFinite(f"replay batch {n}: loss {loss}, gradient norm {norm}")
        t.events.say(event="replay", batch=n, loss=loss, grad_norm=norm, tokens=sum(len(s.tokens) for s in samples),
                     layers={k: math.sqrt(v) for k, v in layers.items()})
    t.events.say(event="done", step=t.step)


def layer_of(name):
    """"model.layers.3" for all of a layer, else the name without its last part."""
    inside = re.match(r"(.*?\.?layers\.\d+)\.", name)
    return inside[1] if inside else name.rpartition(".")[0]


def _store(t, path):
    """The next batches of the recipe after the checkpoint's step."""
    lines = []
    for k in range(BATCHES):
        if t.recipe.sft["steps"] > 0:
            chosen = [t.examples[i] for i in t.order.step(t.step + k)]
        else:  # reinforcement learning alone: the problems' own text
            n = t.recipe.grpo["prompts"]
            chosen = [(t.problems[((t.step + k) * n + i) % len(t.problems)][0], 1) for i in range(n)]
        lines.append(json.dumps({"batch": k + 1, "sequences": [{"tokens": tokens, "from": start} for tokens, start in chosen]}))
    os.makedirs(directory := os.path.dirname(path), exist_ok=True)
    temp = f"{path}.{os.getpid()}"
    with open(temp, "x", encoding="utf-8") as f:
        f.write("\n".join(lines) + "\n")
        f.flush()
        os.fsync(f.fileno())
    os.rename(temp, path)
    portable.sync_directory(directory)


def _read(t, path):
    """Batches as (number, [(tokens, where the targets begin)]); what the model cannot take is refused."""
    vocabulary, positions = t.config["vocab_size"], t.config["max_position_embeddings"]
    out = []
    for n, b in data.json_lines(path, "stored batches"):
        try:
            batch = [([int(x) for x in s["tokens"]], max(int(s["from"]), 1)) for s in b["sequences"]]
            number = int(b["batch"])
        except (KeyError, TypeError, ValueError) as e:
            raise Refused(f"{path}:{n}: not a batch: {e}") from e
        for tokens, start in batch:
            if not (2 <= len(tokens) <= positions and start < len(tokens) and all(0 <= x < vocabulary for x in tokens)):
                raise Refused(f"{path}:{n}: {len(tokens)} tokens, targets from {start}; want 2 to {positions} tokens of a vocabulary of {vocabulary}, with a target")
        if not batch:
            raise Refused(f"{path}:{n}: no sequences")
        out.append((number, batch))
    if not out:
        raise Refused(f"{path}: no batches")
    return out
