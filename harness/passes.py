"""Passes through the model: log-probabilities of a batch's targets, the loss
and its gradient, over micro-batches and ranks, and the objectives of the
reference trainer (internal/reference/trainer/objective.go, correction.go).
"""

import math
import time

import torch
import torch.distributed as dist


class Sample:
    """Tokens of which those from `start` on are predicted; for RL also what the rollout thought of them."""

    def __init__(self, tokens, start, mu=None, advantage=0.0):
        self.tokens, self.start, self.mu, self.advantage = tokens, start, mu, advantage

    @property
    def targets(self):
        return len(self.tokens) - self.start


def micro_batches(samples, most):
    """Runs of samples of similar length whose padded size is at most `most` tokens (or one sample)."""
    order = sorted(range(len(samples)), key=lambda i: (len(samples[i].tokens), i))
    cuts, run = [], []
    for i in order:
        if run and (len(run) + 1) * (len(samples[i].tokens) - 1) > most:
            cuts.append(run)
            run = []
        run.append(i)
    return cuts + [run] if run else cuts


class Micro:
    """A padded micro-batch on the device. Padding stands behind the tokens, where causal attention never looks."""

    def __init__(self, samples, device):
        rows, width = len(samples), max(len(s.tokens) - 1 for s in samples)
        tokens = torch.zeros(rows, width, dtype=torch.int64)
        real = torch.zeros(rows, width, dtype=torch.bool)
        row, at, target, of = [], [], [], []
        for i, s in enumerate(samples):
            n = len(s.tokens) - 1  # the last token is only ever predicted
            tokens[i, :n] = torch.tensor(s.tokens[:n])
            real[i, :n] = True
            row += [i] * s.targets
            at += range(s.start - 1, n)
            target += s.tokens[s.start:]
            of += [i] * s.targets
        self.needed = sorted(set(at))  # positions whose logits anybody wants
        place = {p: i for i, p in enumerate(self.needed)}
        to = lambda x: torch.tensor(x, device=device)
        self.samples, self.tokens, self.real = samples, tokens.to(device), real.to(device)
        self.row, self.at, self.target, self.of = to(row), to([place[p] for p in at]), to(target), to(of)
        self.keep = to(self.needed)

    def logits(self, model):
        """Logits of the targets, [targets, vocabulary], float32."""
        model.real = self.real.flatten()
        with model.autocast():
            out = model.run(input_ids=self.tokens, use_cache=False, logits_to_keep=self.keep).logits
        return out[self.row, self.at].float()


def cross_entropy(targets):
    """−log p, averaged over all targets of the batch."""
    return lambda micro, logp: -logp.double().sum() / targets


def policy(grpo, correction, predicted, samples, seen):
    """The clipped objective of a batch with so many target tokens and samples; `seen` gathers what the correction did."""
    on = correction["truncate"] > 0 or correction["mask_high"] > 0

    def loss(micro, logp):
        logp = logp.double()
        mu = torch.tensor([x for s in micro.samples for x in s.mu], dtype=torch.float64, device=logp.device)
        advantage = torch.tensor([s.advantage for s in micro.samples], dtype=torch.float64, device=logp.device)
        weights, old = torch.ones_like(mu), mu
        if on:
            old = logp.detach()
            weights = correct(correction, old - mu, micro)
            seen(correction, weights)
        if grpo["objective"] == "gspo":
            n = torch.bincount(micro.of, minlength=len(micro.samples)).double()
            mean = lambda x: torch.zeros_like(advantage).index_add(0, micro.of, x) / n
            ratio, weight, a, norm = torch.exp(mean(logp - old)), mean(weights), advantage, samples
        else:
            ratio, weight, a, norm = torch.exp(logp - old), weights, advantage[micro.of], predicted
        bound = ratio.clamp(1 - grpo["clip_low"], 1 + grpo["clip_high"])
        return -(weight * torch.minimum(bound * a, ratio * a)).sum() / norm

    return loss


def correct(c, gap, micro):
    """The weights of tokens whose log-probability is `gap` above the rollout's."""
    def ratios(level):
        if level in ("", "token"):
            return gap.exp()
        total = torch.zeros(len(micro.samples), dtype=gap.dtype, device=gap.device).index_add(0, micro.of, gap)
        if level == "geometric":
            total = total / torch.bincount(micro.of, minlength=len(micro.samples))
        return total[micro.of].exp()

    w = torch.ones_like(gap)
    if c["truncate"] > 0:
        w = ratios(c["truncate_level"]).clamp(max=c["truncate"])
    if c["mask_high"] > 0:
        r = ratios(c["mask_level"])
        w = torch.where((r >= c["mask_low"]) & (r <= c["mask_high"]), w, torch.zeros_like(w))
    return w


def over_ranks(values, device, how=None):
    """Sums (or another reduction) numbers over all ranks."""
    if not dist.is_initialized():
        return list(values)
    t = torch.tensor(list(values), dtype=torch.float64, device=device)
    dist.all_reduce(t, how or dist.ReduceOp.SUM)
    return t.tolist()


def backward(model, samples, objective, most, world, z=0.0, router_z=0.0, seen=None, spare=None):
    """Adds the gradient of the batch, of which this rank has `samples`, to the model's. Gives the loss and its z-parts
    over all ranks. z and router_z are factors of sums; seen(micro, logp) looks on. Every rank makes as many passes as
    the one with the most, on `spare` and for nothing if need be, for each pass is a collective act."""
    cuts = [[samples[i] for i in run] for run in micro_batches(samples, most)]
    passes = int(over_ranks([len(cuts)], model.device, dist.ReduceOp.MAX if dist.is_initialized() else None)[0])
    total, model.seconds = torch.zeros(3, dtype=torch.float64), 0.0
    for k in range(passes):
        idle = k >= len(cuts)
        counted, model.load = model.load, None if idle else model.load
        micro = Micro([spare] if idle else cuts[k], model.device)
        model.logits = [] if router_z else None
        last = k == passes - 1
        if hasattr(model.run, "no_sync"):
            model.run.require_backward_grad_sync = last
        elif hasattr(model.net, "set_requires_gradient_sync"):
            model.net.set_requires_gradient_sync(last)
        began = time.perf_counter()
        logits = micro.logits(model)
        if model.device.type != "cpu":
            getattr(torch, model.device.type).synchronize()
        model.seconds += time.perf_counter() - began
        lse = logits.logsumexp(-1)
        logp = logits.gather(1, micro.target[:, None])[:, 0] - lse
        loss = 0.0 * logp.double().sum() if idle else objective(micro, logp)
        parts = [loss.detach()]
        if z:
            parts.append(z * lse.double().square().sum())
        else:
            parts.append(torch.zeros_like(parts[0]))
        if router_z:
            parts.append(router_z * sum(l[model.real].logsumexp(-1).double().square().sum() for l in model.logits))
        else:
            parts.append(torch.zeros_like(parts[0]))
        whole = loss + (0.0 if idle else 1.0) * (parts[1] + parts[2])
        model.logits, model.load = None, counted
        (whole * world).backward()  # ranks' gradients are averaged, and the loss is a sum
        if not idle:
            total += torch.stack([p.detach() for p in parts]).cpu()
            if seen:
                seen(micro, logp.detach())
    loss, z_part, router_part = over_ranks(total.tolist(), model.device)
    return loss + z_part + router_part, z_part, router_part


def squares(model):
    """The squared norm of every parameter's gradient, the same on every rank: {name: float}."""
    local, spread = {}, False
    for name, p in model.parameters.items():
        if p.grad is not None:
            spread = hasattr(p.grad, "to_local")
            local[name] = p.grad.to_local() if spread else p.grad
    norms = torch.stack(torch._foreach_norm(list(local.values()))).double().square()
    if spread:
        dist.all_reduce(norms)
    return dict(zip(local, norms.tolist()))


def gradient_norm(model):
    """The Euclidean norm of all gradients together."""
    return math.sqrt(sum(squares(model).values()))
