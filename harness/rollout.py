"""Completions for reinforcement learning: many at a time, with a KV cache, each
drawn by the reference trainer's own random numbers (keyed by seed, step, problem,
sample and position), so that the same weights say the same on any chip up to
rounding.
"""

import torch
import torch.distributed as dist

import data
from passes import over_ranks


class Rollout:
    """A sampled completion: prompt, completion and, unless cut, the end-of-text token."""

    def __init__(self, problem, prompt):
        self.problem, self.tokens, self.prompt = problem, list(prompt), len(prompt)
        self.logp, self.entropy, self.ended = [], 0.0, False

    def completion(self):
        return self.tokens[self.prompt:-1] if self.ended else self.tokens[self.prompt:]


@torch.no_grad()
def roll(model, grpo, seed, step, mine, eos, window=512):
    """Draws grpo.samples completions of each of this rank's problems: mine is [(index in the step, prompt)]."""
    out = [Rollout(i, p) for i, p in mine for _ in range(grpo["samples"])]
    keys = [data.draw(seed, data.SAMPLE, step, i, k) for i, _ in mine for k in range(grpo["samples"])]
    model.net.eval()
    for at in range(0, max_over_ranks(len(out), model.device), window):
        _draw(model, grpo, out[at:at + window], keys[at:at + window], eos, seed)
    model.net.train()
    return out


def max_over_ranks(n, device):
    return int(over_ranks([n], device, dist.ReduceOp.MAX if dist.is_initialized() else None)[0])


def _draw(model, grpo, rolls, keys, eos, seed):
    """Prompts stand at the right edge, padding before them sees only itself. Where the model is spread, every rank
    makes every pass, on a token of its own if it has nothing left to draw."""
    device, spread = model.device, hasattr(model.net, "unshard")
    width = max([len(r.tokens) for r in rolls], default=1)
    rows = max(len(rolls), 1)
    tokens = torch.zeros(rows, width, dtype=torch.int64)
    real = torch.zeros(rows, width, dtype=torch.bool)
    for i, r in enumerate(rolls):
        tokens[i, width - len(r.tokens):] = torch.tensor(r.tokens)
        real[i, width - len(r.tokens):] = True
    tokens, real = tokens.to(device), real.to(device)
    position = (real.cumsum(1) - 1).clamp(min=0)
    causal = torch.ones(width, width, dtype=torch.bool, device=device).tril()
    own = torch.eye(width, dtype=torch.bool, device=device)
    mask = (causal & real[:, None, :] | own)[:, None]
    live, cache = list(range(len(rolls))), None
    for k in range(grpo["max_tokens"]):
        if spread and not max_over_ranks(len(live), device) or not spread and not live:
            return
        with model.autocast():
            got = model.net(input_ids=tokens, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, logits = got.past_key_values, got.logits[:, -1].float()
        u = [data.uniform(k, h=keys[i]) for i in live]
        u += [0.5] * (rows - len(u))
        ids, logp, entropy = (x.tolist() for x in _pick(logits, torch.tensor(u, dtype=torch.float64), grpo["temperature"]))
        stay = []
        for row, i in enumerate(live):
            r = rolls[i]
            r.tokens.append(ids[row])
            r.logp.append(logp[row])
            r.entropy += entropy[row]
            r.ended = ids[row] in eos
            if not r.ended:
                stay.append(row)
        live = [live[row] for row in stay]
        if not stay:
            stay = [0]  # a row that only keeps the other ranks company
        if len(stay) < rows:
            rows, pick = len(stay), torch.tensor(stay, device=device)
            cache.batch_select_indices(pick)
            real, position, ids = real[pick], position[pick], [ids[row] for row in stay]
        tokens = torch.tensor(ids, device=device)[:, None]
        position = position[:, -1:] + 1
        real = torch.cat([real, torch.ones(rows, 1, dtype=torch.bool, device=device)], 1)
        mask = real[:, None, None]


def _pick(logits, u, temperature):
    """Per row the token whose share of the cumulated probability u falls in (by id, in float64), its log-probability at
    temperature 1, and the entropy there."""
    wide = logits.double() if logits.device.type != "npu" else logits.double().cpu()
    weights = ((wide - wide.max(-1, keepdim=True).values) / temperature).exp().cumsum(-1)
    at = u.to(weights.device) * weights[:, -1]
    ids = torch.searchsorted(weights, at[:, None], right=True)[:, 0].clamp(max=logits.shape[1] - 1).to(logits.device)
    logp = logits.log_softmax(-1)
    return ids, logp.gather(1, ids[:, None])[:, 0], -(logp.exp() * logp).nan_to_num().sum(-1)
