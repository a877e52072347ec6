"""Data, its order and its rewards: the reference trainer's own
(internal/reference/trainer, internal/reward), draw for draw, so that a run
continues on the same examples whoever takes it over. Standard library only;
vectors.json holds both sides together.
"""

import json
import math

from contract import Refused

_MASK = (1 << 64) - 1
SHUFFLE, SAMPLE = 1, 2  # the streams of draws


def draw(*key, h=0x9E3779B97F4A7C15):
    """64 random bits that depend on the key alone: a chain of splitmix64's finalizer."""
    for k in key:
        h = (h + (0x9E3779B97F4A7C15 ^ (k * 0xD1342543DE82EF95 & _MASK))) & _MASK
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        h = (h ^ h >> 27) * 0x94D049BB133111EB & _MASK
        h ^= h >> 31
    return h


def uniform(*key, h=0x9E3779B97F4A7C15):
    """A number in [0, 1) with 53 random bits. h may be the draw of the key's beginning."""
    return (draw(*key, h=h) >> 11) / (1 << 53)


def permutation(seed, epoch, n):
    """0 … n-1 shuffled (Fisher and Yates) for one epoch."""
    p, h = [0] * n, draw(seed, SHUFFLE, epoch)
    for i in range(n):
        j = draw(i, h=h) * (i + 1) >> 64
        p[i] = p[j]
        p[j] = i
    return p


class Order:
    """Which examples a step takes. Epochs follow one another without a gap."""

    def __init__(self, seed, n, batch):
        self.seed, self.n, self.batch = seed, n, batch
        self.epoch = self.perm = None

    def step(self, s):
        out = []
        for at in range(s * self.batch, (s + 1) * self.batch):
            epoch, i = divmod(at, self.n)
            if epoch != self.epoch:
                self.epoch, self.perm = epoch, permutation(self.seed, epoch, self.n)
            out.append(self.perm[i])
        return out


def digest(sequences, most=1 << 16):
    """Names a step's data by its tokens (FNV-1a, 64 bits); None for more than `most` of them, which would take too long here."""
    h, n = 0xCBF29CE484222325, 0
    for tokens in sequences:
        n += len(tokens)
        if n > most:
            return None
        for byte in b"".join(t.to_bytes(4, "little") for t in tokens) + b"\n":
            h = (h ^ byte) * 0x100000001B3 & _MASK
    return f"{h:016x}"


def rate(o, step, total):
    """The learning rate of a step (from 0) of a stage of `total` steps."""
    if step < o["warmup"]:
        return o["learning_rate"] * (step + 1) / o["warmup"]
    left = total - 1 - o["warmup"]
    if left <= 0:
        return o["learning_rate"]
    done = min((step - o["warmup"]) / left, 1)
    return o["learning_rate"] * (o["floor"] + (1 - o["floor"]) * (1 + math.cos(math.pi * done)) / 2)


def json_lines(path, what):
    """(line number, object) of a JSON Lines file."""
    try:
        with open(path, encoding="utf-8") as f:
            for n, text in enumerate(f, 1):
                if text.strip():
                    yield n, json.loads(text)
    except OSError as e:
        raise Refused(f"read the {what}: {e}") from e
    except ValueError as e:
        raise Refused(f"{path}: not JSON Lines: {e}") from e


def examples(path, encode, eos, limit):
    """The dataset as (tokens, where the targets begin): prompt given, completion and end-of-text predicted."""
    out = []
    for n, e in json_lines(path, "dataset"):
        prompt, completion = encode(e.get("prompt", "")), encode(e.get("completion", ""))
        if not prompt or not completion:
            raise Refused(f"{path}:{n}: example {e.get('id')!r}: prompt or completion is empty")
        tokens = prompt + completion + [eos]
        if len(tokens) > limit:
            raise Refused(f"{path}:{n}: example {e.get('id')!r}: {len(tokens)} tokens, more than the model's {limit} positions")
        out.append((tokens, len(prompt)))
    if not out:
        raise Refused(f"{path}: no examples")
    return out


def problems(path, encode, n, limit):
    """The first n problems as (prompt tokens, answer)."""
    out, seen = [], {}
    for line, p in json_lines(path, "problems"):
        if set(p) != {"id", "prompt", "answer"} or not all(isinstance(v, str) and v for v in p.values()):
            raise Refused(f"{path}:{line}: want {{\"id\", \"prompt\", \"answer\"}}, all text and not empty")
        if p["id"] in seen:
            raise Refused(f"{path}:{line}: id {p['id']!r} is on line {seen[p['id']]} already")
        seen[p["id"]] = line
        if len(out) < n:
            prompt = encode(p["prompt"])
            if not 1 <= len(prompt) <= limit:
                raise Refused(f"{path}:{line}: prompt of {len(prompt)} tokens; want 1 to {limit}, so that max_tokens fits behind it")
            out.append((prompt, p["answer"]))
    if len(out) < n:
        raise Refused(f"{path} holds {len(out)} problems and grpo needs {n} (steps × prompts): it never asks one twice; add problems or take fewer steps")
    return out


# What Unicode calls white space, and nothing more: Python's own strip also takes U+001C to U+001F.
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"


def answer(completion, want):
    """The checker "answer": (correct, thinks)."""
    text, final, thinks = completion.strip(_SPACE), None, False
    if text.startswith("<think>"):
        inside, closed, _ = text[7:].partition("</think>")
        if closed:
            final, thinks = text[7:].rpartition("</think>")[2].strip(_SPACE), bool(inside.strip(_SPACE))
    if final is None:
        final = text
    return want != "" and final == want.strip(_SPACE), thinks


def advantages(rewards):
    """(r − mean) / standard deviation within a group; None where all are equal."""
    n = len(rewards)
    mean = sum(r / n for r in rewards)
    square = sum((r - mean) ** 2 / n for r in rewards)
    if square < 1e-12:
        return None
    return [(r - mean) / math.sqrt(square) for r in rewards]
