"""A run's state into a portable checkpoint and back, from one rank or many."""

import json
import os

import torch
import torch.distributed as dist
import transformers

import contract
import portable
from contract import Refused
from models import DTYPES, Files

MOMENTS = ("exp_avg", "exp_avg_sq")


def check(t, resume):
    """Proves a checkpoint whole and of this run; gives its state. Rank 0 hashes it: the others read the same files."""
    if t.ranks.first:
        state = portable.verify(resume)
    if t.ranks.world > 1:
        dist.barrier()
        with open(os.path.join(resume, "state.json"), "rb") as f:
            state = json.load(f)
    theirs = (state.get("extra") or {}).get("run")
    if theirs and (what := contract.differs(t.identity, theirs)):
        raise Refused(f"resume {resume}: it is of another run: {what} differs; start anew with empty checkpoints or restore the recipe")
    if not 0 <= state["step"] <= t.recipe.steps:
        raise Refused(f"resume {resume}: step {state['step']} is outside the recipe's {t.recipe.steps} steps")
    return state


def moments(t, resume):
    """Reads the moments back, and how many updates lie behind them: as the state says, else the steps of its stage."""
    files, s, sft = Files(resume, "optimizer"), t.state, t.recipe.sft["steps"]
    with torch.no_grad():
        for name, p in t.model.parameters.items():
            for which in MOMENTS:
                full = t.model.whole(name, lambda logical, shape: files.take(f"{which}.{logical}", shape))
                t.model.assign(t.adam.state[p][which], full)
    n = (s.get("schedule") or {}).get("optimizer_steps")
    if n is None or not 0 <= n <= s["step"]:
        n = max(s["step"] - sft, 0) if s.get("stage") == "grpo" else s["step"]
    t.count(int(n))


def save(t):
    """Commits a checkpoint of the steps done, reports it and prunes old ones. Every rank gives its share; rank 0 writes."""
    t.events.enter("checkpoint")
    root = t.env["TARBERT_CHECKPOINTS"]
    w = portable.Writer(root, t.step) if t.ranks.first else None
    try:
        _write(t, w)
        directory = w.commit(_describe(t)) if w else None
    except BaseException:
        if w:
            w.abort()
        raise
    if w:
        t.events.say(event="checkpoint", step=t.step, dir=directory)
        portable.prune(root, t.recipe.kept(portable.committed(root)))
    if t.ranks.world > 1:
        dist.barrier()


def _write(t, w):
    m = t.model
    shapes, fetch = m.tensors(lambda n: m.parameters[n])
    others = {n: b.float().cpu() for n, b in m.buffers.items()} | m.extra
    listed = {n: ("F32", s) for n, s in shapes.items()} | {n: (_dtype(n, x), tuple(x.shape)) for n, x in others.items()}
    _file(w, "model.safetensors", listed, lambda n: others[n] if n in others else fetch(n))
    listed, fetches = {}, {}
    for which in MOMENTS:
        shapes, fetches[which] = m.tensors(lambda n, which=which: t.adam.state[m.parameters[n]][which])
        listed |= {f"{which}.{n}": ("F32", s) for n, s in shapes.items()}
    _file(w, "optimizer.safetensors", listed, lambda n: fetches[n.partition(".")[0]](n.partition(".")[2]))
    if w:
        w.put("config.json", _config(t))
        w.companions(t.recipe.model)


def _dtype(name, x):
    if x.dtype not in DTYPES:
        raise Refused(f"tensor {name} is {x.dtype}: not carried over")
    return DTYPES[x.dtype]


def _file(w, name, listed, fetch):
    """One file; ranks that do not write only take part in bringing the tensors together."""
    if w:
        return w.tensors(name, listed, lambda n: fetch(n).contiguous().view(torch.uint8).numpy())
    for n in portable.file_order(listed):
        fetch(n)


def _config(t):
    """A checkpoint's config.json is passed on as it is; a model's is written for float32 weights."""
    if resume := t.env["TARBERT_RESUME"]:
        with open(os.path.join(resume, "config.json"), "rb") as f:
            return f.read()
    return portable.text_of(t.config)


def _describe(t):
    sft, r = t.recipe.sft["steps"], t.recipe
    if t.step < sft:
        epoch, position = divmod(t.step * r.sft["batch"], t.order.n)
    else:
        epoch, position = 0, (t.step - sft) * r.grpo["prompts"]
    precision = r.torchrun["precision"]
    layout = t.model.layout + ("" if precision == "float32" else f", {precision} arithmetic")
    return {"tokens": t.tokens, "stage": r.stage(t.step), "cursor": {"epoch": epoch, "position": position},
            "schedule": {"optimizer_steps": t.updates},
            "writer": {"trainer": "torchrun", "version": f"torch {torch.__version__}, transformers {transformers.__version__}",
                       **t.ranks.describe(), "dtype": "float32", "layout": layout},
            "extra": {"run": t.identity}}
