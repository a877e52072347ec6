"""One PyTorch training step of the model that main.go measures; prints tokens per second, median of the steps.

usage: step.py eager|compile THREADS STEPS [wall|cpu]
"""

import sys
import time

import torch
import torch.nn.functional as F

mode, threads, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
clock = time.process_time if sys.argv[4:] == ["cpu"] else time.perf_counter
L, D, H, FF, V, B, S = 4, 256, 4, 704, 512, 16, 128


class Norm(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(n))

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:], self.weight, 1e-6)


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        lin = lambda i, o: torch.nn.Linear(i, o, bias=False)
        self.n1, self.n2, self.qn, self.kn = Norm(D), Norm(D), Norm(D // H), Norm(D // H)
        self.q, self.k, self.v, self.o = lin(D, D), lin(D, D), lin(D, D), lin(D, D)
        self.gate, self.up, self.down = lin(D, FF), lin(D, FF), lin(FF, D)

    def forward(self, x, cos, sin):
        h = self.n1(x)
        split = lambda y: y.view(B, S, H, D // H)
        q = rope(self.qn(split(self.q(h))).transpose(1, 2), cos, sin)
        k = rope(self.kn(split(self.k(h))).transpose(1, 2), cos, sin)
        v = split(self.v(h)).transpose(1, 2)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(a.transpose(1, 2).reshape(B, S, D))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(V, D)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(L))
        self.norm, self.head = Norm(D), torch.nn.Linear(D, V, bias=False)
        t = torch.outer(torch.arange(S).float(), 1e4 ** (-torch.arange(0, D // H, 2).float() / (D // H)))
        t = torch.cat((t, t), -1)
        self.register_buffer("cos", t.cos())
        self.register_buffer("sin", t.sin())

    def forward(self, ids, targets):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return F.cross_entropy(self.head(self.norm(x)).view(-1, V), targets.reshape(-1))


torch.manual_seed(1)
model = Model()
loss_of = torch.compile(model) if mode == "compile" else model
opt = torch.optim.AdamW(model.parameters(), 1e-3, betas=(0.9, 0.95), weight_decay=0.01, fused=mode == "compile")
rates = []
for i in range(steps + 3):
    ids = torch.randint(V, (B, S + 1))
    began = clock()
    opt.zero_grad()
    loss_of(ids[:, :-1], ids[:, 1:]).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    if i >= 3:
        rates.append(B * S / (clock() - began))
print(sorted(rates)[len(rates) // 2])
