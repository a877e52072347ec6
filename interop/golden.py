"""The reference model and tokenizer against transformers, on models and
tokenizers made on the spot: random shapes, switches, weights and spellings.

usage: golden.py TARBERT [--models N] [--seed S]

The seed is printed; the same seed makes the same models. Choices that float32
rounding decides are nobody's error, so prompts in which a router chooses by
less than 1e-5 are drawn again, and a greedy continuation is compared up to the
first step whose two likeliest tokens are within 1e-3. Both are counted.
"""

import argparse
import pathlib
import random
import secrets
import sys

import torch

import texts
import tiny
from checks import Checks, Tarbert, end_on_signals, equal, post, scratch

TOLERANCE = 2e-4     # of log-probabilities, in nats
NEAR_TIE = 1e-3      # between the two likeliest tokens, in nats
ROUTING_TIE = 1e-5   # between a router's last choice and its first refusal
STEPS = 16           # of greedy continuation
PROMPTS = 3
TOP = 20


class Expected:
    """What transformers computes of one prompt and its greedy continuation."""

    def __init__(self, model, prompt):
        routing = tiny.Routing(model)
        tokens = list(prompt)
        with torch.no_grad():
            for _ in range(STEPS):
                logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
                tokens.append(int(logits[-1].argmax()))
            routing.take()
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
        self.prompt, self.tokens = prompt, tokens
        self.logp = logits.float().log_softmax(-1)
        best = self.logp.topk(2, -1).values
        self.margins = (best[:, 0] - best[:, 1])[len(prompt) - 1:-1].tolist()
        self.routing = routing.take()
        for h in routing.handles:
            h.remove()

    def decided(self):
        """How many steps of the continuation no near-tie precedes."""
        return next((i for i, m in enumerate(self.margins) if m < NEAR_TIE), STEPS)


def prompts(model, rng, counts):
    """Prompts of different lengths in which routing is decided."""
    made = []
    for length in (1, rng.randint(2, 20), rng.randint(30, 90)):
        for _ in range(50):
            e = Expected(model, [rng.randrange(model.config.vocab_size) for _ in range(length)])
            if e.routing >= ROUTING_TIE:
                break
            counts["redrawn"] += 1
        else:
            raise AssertionError("no prompt without a routing tie in 50 draws")
        made.append(e)
    return made


def difference(expected, ours):
    """The largest |Δ log p| of the tokens and of the likeliest ones at every position."""
    logprobs, top = ours
    if len(logprobs) != len(expected.tokens) or logprobs[0] is not None or top[0] is not None:
        raise AssertionError("score does not give one entry per token and null first")
    worst = 0.0
    for t in range(1, len(expected.tokens)):
        want = expected.logp[t - 1]
        pairs = top[t]
        if len(pairs) != TOP or len({i for i, _ in pairs}) != TOP or any(a[1] < b[1] for a, b in zip(pairs, pairs[1:])):
            raise AssertionError(f"position {t}: not {TOP} different tokens in falling order: {pairs}")
        gaps = [abs(logprobs[t] - want[expected.tokens[t]].item())]
        gaps += [abs(p - want[i].item()) for i, p in pairs]
        gaps += [abs(p - w) for (_, p), w in zip(pairs, want.topk(TOP).values.tolist())]
        if max(gaps) != max(gaps) or max(gaps) > TOLERANCE:
            raise AssertionError(f"position {t}: |Δ log p| {max(gaps):.3g}")
        worst = max(worst, *gaps)
    return worst


def greedy(tarbert, directory, log, expected, counts):
    """Compares continuations through the server, all prompts in one request."""
    with tarbert.serve(directory, log) as server:
        answer = post(server.ready().url + "/v1/completions", {
            "model": "tiny", "prompt": [e.prompt for e in expected], "max_tokens": STEPS, "temperature": 0,
            "ignore_eos": True, "return_token_ids": True})
    compared = 0
    for e, choice in zip(expected, sorted(answer["choices"], key=lambda c: c["index"]), strict=True):
        n = e.decided()
        counts["steps"] += n
        counts["near"] += STEPS - n
        compared += n
        want, got = e.tokens[len(e.prompt):], choice["token_ids"]
        if len(got) != STEPS or got[:n] != want[:n]:
            raise AssertionError(f"greedy continuation of {e.prompt[:8]}… is {got}, transformers has {want} (decided: {n} steps)")
    return compared


def one_model(tarbert, plan, tmp, tokenizer, counts):
    """Writes one model, and has both compute it."""
    directory, meaning = tmp / "model", tmp / "model"
    rng = random.Random(plan["seed"])
    model = tiny.build(plan["family"], plan["config"], plan["seed"])
    if plan["storage"].startswith("fp8"):
        meaning = tmp / "meaning"
        tiny.write_fp8(model, directory, meaning, plan["storage"].removeprefix("fp8-"), plan["shards"], plan["seed"])
    else:
        tiny.write(model, directory, plan["storage"], plan["spelling"], plan["shards"])
    model = tiny.load(meaning)
    expected = prompts(model, rng, counts)
    texts.save(tokenizer, "qwen", directory)
    ours = tarbert.score(directory, [e.tokens for e in expected], TOP)
    worst = max(difference(e, o) for e, o in zip(expected, ours, strict=True))
    counts["worst"] = max(counts["worst"], worst)
    compared = greedy(tarbert, directory, tmp / "log", expected, counts)
    return f"max |Δ log p| {worst:.1e} over {sum(len(e.tokens) - 1 for e in expected)} positions × {TOP + 1}; greedy equal in {compared} of {PROMPTS * STEPS} steps"


def plans(rng, n, vocab):
    """What each model is: every switch in turn, the rest at random."""
    switches = tiny.Switches(rng)
    made = []
    for i in range(n):
        family = tiny.FAMILIES[i % 3]
        storage = switches.deal("storage " + family, *(["float32", "fp8-float32", "bfloat16", "fp8-e8m0", "fp8-rounded"] if family == "deepseek_v3" else tiny.STORAGES))
        config = switches.config(family, vocab + rng.randint(0, 40))
        if storage.startswith("fp8"):  # more than one block each way, none of them full
            config |= {"hidden_size": rng.choice((136, 160)), "intermediate_size": rng.choice((144, 272)), "moe_intermediate_size": rng.choice((40, 136))}
        spelling = "published" if storage.startswith("fp8") else switches.deal("spelling " + family, "published", "transformers")
        made.append({"family": family, "storage": storage, "config": config, "spelling": spelling,
                     "shards": switches.deal("shards", 1, 1, 3, 5), "seed": rng.getrandbits(32)})
    return made


def describe(plan):
    return f"{plan['storage']} {plan['spelling']} shards={plan['shards']} {tiny.describe(plan['family'], plan['config'])}"


def token_ids(tarbert, family, rng, tmp, counts):
    """Ids of random texts, and the text of random ids."""
    tok = texts.train(family, 1000, rng)
    directory = tmp / family
    fast = texts.save(tok, family, directory)
    samples = [texts.text(rng) for _ in range(3000)]
    ours = tarbert.tokenize(directory, [{"id": str(i), "text": s} for i, s in enumerate(samples)])
    for s, o in zip(samples, ours, strict=True):
        equal(f"ids of {s!r}", o["tokens"], fast(s, add_special_tokens=False)["input_ids"])
    return f"{len(samples)} texts, {sum(len(o['tokens']) for o in ours)} ids equal"


def detokenized(tarbert, family, rng, tmp, tiny_model):
    """/tokenize and /detokenize of a server, with ids that are not text."""
    tok = texts.train(family, tiny_model.config.vocab_size, rng)
    directory = tmp / ("served-" + family)
    tiny.write(tiny_model, directory)
    fast = texts.save(tok, family, directory)
    with tarbert.serve(directory, tmp / "log") as server:
        url = server.ready().url
        for _ in range(300):
            ids = [rng.randrange(tok.get_vocab_size()) for _ in range(rng.randint(1, 20))]
            equal(f"text of {ids}", post(url + "/detokenize", {"model": "tiny", "tokens": ids})["prompt"], fast.decode(ids))
            s = texts.text(rng)
            got = post(url + "/tokenize", {"model": "tiny", "prompt": s, "add_special_tokens": False})["tokens"]
            equal(f"/tokenize of {s!r}", got, fast(s, add_special_tokens=False)["input_ids"])
    return "300 lists of random ids and 300 texts equal"


def chats(tarbert, family, rng, tmp):
    """Conversations through the chat template."""
    stored = pathlib.Path(__file__).parent.parent / "internal/reference/tokenizer/testdata" / family / "chat_template.jinja"
    tok = texts.train(family, 1000, rng)
    directory = tmp / ("chat-" + family)
    fast = texts.save(tok, family, directory, stored.read_text())
    samples = [texts.conversation(rng) for _ in range(300)]
    ours = tarbert.tokenize(directory, [{"id": str(i), "messages": m, "options": o} for i, (m, o) in enumerate(samples)])
    for (messages, options), o in zip(samples, ours, strict=True):
        want = fast.apply_chat_template(messages, tokenize=False, **options)
        equal("text of a conversation", o["text"], want)
        equal(f"ids of {want!r}", o["tokens"], fast(want, add_special_tokens=False)["input_ids"])
    return f"{len(samples)} conversations, text and ids equal"


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tarbert")
    args.add_argument("--models", type=int, default=30)
    args.add_argument("--seed", type=int, default=secrets.randbits(32))
    args = args.parse_args()
    end_on_signals()
    torch.set_num_threads(1)
    print(f"golden vectors of {args.models} models, seed {args.seed}, transformers {__import__('transformers').__version__}", flush=True)
    tarbert, checks, rng = Tarbert(args.tarbert), Checks(), random.Random(args.seed)
    counts = {"redrawn": 0, "near": 0, "steps": 0, "worst": 0.0}
    tokenizer = texts.train("qwen", 320, rng)
    for i, plan in enumerate(plans(rng, args.models, tokenizer.get_vocab_size())):
        with scratch() as tmp:
            checks.run(f"transformers {i + 1}/{args.models} {describe(plan)}", one_model, tarbert, plan, tmp, tokenizer, counts)
    for family in ("qwen", "deepseek"):
        with scratch() as tmp:
            model = tiny.build("qwen3", tiny.Switches(rng).config("qwen3", 320), 1)
            checks.run(f"tokenizers, {family}'s pre-tokenizer", token_ids, tarbert, family, rng, tmp, counts)
            checks.run(f"/tokenize and /detokenize, {family}", detokenized, tarbert, family, rng, tmp, model)
            checks.run(f"chat template, {family}", chats, tarbert, family, rng, tmp)
    print(f"largest |Δ log p| {counts['worst']:.2e}; greedy: {counts['steps']} steps equal, {counts['near']} after a near-tie (< {NEAR_TIE:g}) left out; "
          f"{counts['redrawn']} prompts drawn again for a routing tie (< {ROUTING_TIE:g})")
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
