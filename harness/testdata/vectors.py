"""Holds the trainer's parts that need no PyTorch to vectors.json, which the
reference trainer's tests write (go test ./internal/reference/trainer -update).
Also: the recipe's checks, the events file and the portable checkpoint's own rules.
"""

import json
import math
import os
import pathlib
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
import contract
import data
import portable

checked = 0


def equal(what, got, want):
    global checked
    checked += 1
    if got != want:
        sys.exit(f"{what}: {got!r}; want {want!r}")


def near(what, got, want):
    equal(what, math.isclose(got, want, rel_tol=1e-14, abs_tol=1e-300), True)


v = json.loads((HERE / "vectors.json").read_text())
for d in v["draws"]:
    equal(f"draw {d['key']}", str(data.draw(*d["key"])), d["draw"])
    equal(f"uniform {d['key']}", data.uniform(*d["key"]), d["uniform"])
    if d["key"]:
        equal("a draw goes on from its beginning", data.draw(d["key"][-1], h=data.draw(*d["key"][:-1])), int(d["draw"]))
for p in v["permutations"]:
    equal("permutation", data.permutation(p["seed"], p["epoch"], p["n"]), p["is"])
for o in v["orders"]:
    order = data.Order(o["seed"], o["n"], o["batch"])
    for s in (3, 0, 5, 1, 2, 4):
        equal(f"order of step {s}", order.step(s), o["steps"][s])
for r in v["rates"]:
    for s, want in enumerate(r["rates"]):
        near(f"rate of step {s}", data.rate(r["optimizer"], s, r["total"]), want)
for a in v["answers"]:
    equal(f"answer {a['completion']!r}", data.answer(a["completion"], a["answer"]), (a["correct"], a["thinks"]))
for a in v["advantages"]:
    equal(f"advantages {a['rewards']}", data.advantages(a["rewards"]), a["is"])
for d in v["digests"]:
    equal("digest", data.digest(d["sequences"]), d["is"])


def refused(what, call, *fragments):
    global checked
    checked += 1
    try:
        call()
    except contract.Refused as e:
        if not all(f in str(e) for f in fragments):
            sys.exit(f"{what}: refused with {e!s}; want {fragments}")
        return
    sys.exit(f"{what}: not refused")


with tempfile.TemporaryDirectory() as tmp:
    path = os.path.join(tmp, "recipe.json")
    opt = {"learning_rate": 1e-3, "warmup": 0, "floor": 1, "betas": [0.9, 0.99], "epsilon": 1e-8, "weight_decay": 0, "clip": 1}
    good = {"seed": 1, "dataset": "d", "threads": 1, "train": {"model": tmp, "dtype": "float32", "restarts": 3, "something_of_the_supervisor": {},
            "sft": {"steps": 2, "batch": 1, "optimizer": opt}}}

    def recipe(**sections):
        with open(path, "w") as f:
            json.dump(good | {"train": good["train"] | sections}, f)
        return contract.Recipe(path)

    equal("steps", recipe().steps, 2)
    equal("due", [recipe(checkpoint={"every": 0, "keep": 1}).due(s) for s in (1, 2)], [False, True])
    refused("unknown field", lambda: recipe(sft=good["train"]["sft"] | {"bach": 1}), "train.sft.bach", "batch")
    refused("text for a number", lambda: recipe(sft=good["train"]["sft"] | {"batch": "1"}), "train.sft.batch")
    refused("infinite", lambda: recipe(sft=good["train"]["sft"] | {"optimizer": opt | {"learning_rate": math.inf}}), "learning_rate")
    refused("no steps", lambda: recipe(sft={"steps": 0}), "no steps")
    refused("dtype", lambda: recipe(dtype="bfloat16"), "precision: bfloat16")
    refused("device", lambda: recipe(torchrun={"device": "tpu"}), "train.torchrun.device")

    events = os.path.join(tmp, "events")
    pathlib.Path(events).write_text('{"event":"st')
    e = contract.Events(events)
    e.enter("step")
    e.enter("step")
    e.say(event="step", loss=math.nan, step=1)
    equal("events", pathlib.Path(events).read_text().split("\n"), ['{"event":"st', '{"event": "section", "name": "step"}', '{"event": "step", "loss": null, "step": 1}', ""])

    root = os.path.join(tmp, "checkpoints")

    def write(step, value):
        w = portable.Writer(root, step)
        w.tensors("model.safetensors", {"b": ("F32", (2,)), "a": ("BF16", (1,))}, lambda n: {"a": b"\1\2", "b": value}[n])
        return w.commit({"tokens": step})

    dead = portable.Writer(root, 3)
    os.close(dead.hold)  # as the kernel does when a writer dies
    live = portable.Writer(root, 4)
    equal("what the dead left is swept, the living stay", sorted(os.listdir(root)), [os.path.basename(live.dir)])
    live.abort()
    for step in (2, 10, 4):
        first = write(step, b"\0" * 8)
    equal("committed", portable.committed(root), [2, 4, 10])
    equal("state", portable.verify(first)["tokens"], 4)
    inode = os.stat(first).st_ino
    equal("the same again is left", os.stat(write(4, b"\0" * 8)).st_ino, inode)
    equal("another replaces it", os.stat(write(4, b"\1" * 8)).st_ino == inode, False)
    portable.prune(root, {4})
    equal("pruned, the newest stays", sorted(os.listdir(root)), ["step-00000004", "step-00000010"])
    weights = pathlib.Path(first) / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    refused("cut short", lambda: portable.verify(first), "model.safetensors", "truncated")
    weights.write_bytes(whole[:-1] + b"\7")
    refused("a flipped bit", lambda: portable.verify(first), "sha256")
    weights.write_bytes(whole)
    (weights.parent / "stray").write_text("x")
    refused("a stray file", lambda: portable.verify(first), "stray")
print(f"{checked} checks of the trainer's own parts hold")
