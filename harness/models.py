"""transformers' deepseek_v3, qwen3 and qwen3_moe as a trainer needs them: built
empty, spread over ranks, filled from and read back as logical tensors (one per
expert, as published checkpoints have them), whatever transformers fuses them to.
"""

import contextlib
import json
import os
import re

import torch
import torch.distributed as dist
from safetensors import safe_open

from contract import Refused

FAMILIES = ("deepseek_v3", "qwen3", "qwen3_moe")
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def read_config(directory):
    """config.json as a checkpoint will have it: float32, not quantised."""
    path = os.path.join(directory, "config.json")
    try:
        with open(path, encoding="utf-8") as f:
            config = json.load(f)
    except (OSError, ValueError) as e:
        raise Refused(f"read the model: {path}: {e}") from e
    if config.get("model_type") not in FAMILIES:
        raise Refused(f"{path}: model_type {config.get('model_type')!r}; this trainer knows {', '.join(FAMILIES)}")
    if config.get("quantization_config"):
        raise Refused(f"{path}: quantised weights are not trained here: convert them first (tarbert convert SRC DST --to bf16)")
    config.pop("dtype", None)
    config["torch_dtype"] = "float32"
    return config


class Part:
    """Where in transformers' parameters a logical tensor lies: all of one, or an expert's rows of a fused one."""

    def __init__(self, parameter, index=None, rows=None):
        self.parameter, self.index, self.rows = parameter, index, rows

    def of(self, full):
        if self.index is None:
            return full
        one = full[self.index]
        return one if self.rows is None else one[self.rows[0]:self.rows[1]]


def parts_of(name, shape):
    """The logical tensors that a parameter holds: {logical name: Part}."""
    fused = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
    if not fused:
        return {name: Part(name)}
    experts, rows = shape[0], shape[1]
    if fused[2] == "down_proj":
        return {f"{fused[1]}.{e}.down_proj.weight": Part(name, e) for e in range(experts)}
    half = rows // 2
    return {f"{fused[1]}.{e}.{which}_proj.weight": Part(name, e, span)
            for e in range(experts) for which, span in (("gate", (0, half)), ("up", (half, rows)))}


class Files:
    """Tensors of a folder's safetensors files, by name."""

    def __init__(self, directory, pattern="model"):
        self.where, index = {}, os.path.join(directory, f"{pattern}.safetensors.index.json")
        if os.path.exists(index):
            with open(index, encoding="utf-8") as f:
                names = set(json.load(f)["weight_map"].values())
        else:
            names = {f"{pattern}.safetensors"}
        for n in sorted(names):
            if os.path.basename(n) != n:
                raise Refused(f"{index}: {n!r} leaves the folder")
            try:
                f = safe_open(os.path.join(directory, n), framework="pt")
            except Exception as e:
                raise Refused(f"read {os.path.join(directory, n)}: {e}") from e
            self.where |= {key: f for key in f.keys()}
        self.directory = directory

    def take(self, name, shape=None):
        if name not in self.where:
            raise Refused(f"{self.directory}: no tensor {name}, which the config implies")
        t = self.where[name].get_tensor(name)
        if shape is not None and tuple(t.shape) != tuple(shape):
            raise Refused(f"{self.directory}: tensor {name} has shape {tuple(t.shape)} where the config implies {tuple(shape)}")
        return t


class Model:
    """A model on a device, on one rank or spread over many."""

    def __init__(self, config, source, device, world=1, parallel="ddp", precision="float32"):
        """config is read_config's; source is Files with the weights."""
        from transformers import AutoConfig, AutoModelForCausalLM
        self.device, self.precision = device, precision
        kinds = dict(config)
        own = AutoConfig.for_model(kinds.pop("model_type"), **kinds)
        with torch.device("meta"):
            # The experts' plain loop: the same arithmetic everywhere, in any dtype.
            self.net = AutoModelForCausalLM.from_config(own, attn_implementation="sdpa", experts_implementation="eager", dtype=torch.float32)
        self.net.train()
        self.config = self.net.config
        self._float32_routers()
        self.shapes = {n: tuple(p.shape) for n, p in self.net.named_parameters()}
        self.parts = {}
        for name, shape in self.shapes.items():
            self.parts |= parts_of(name, shape)
        self.layout = "1 rank" if world == 1 else f"{world} ranks, {parallel}"
        tied = self.config.tie_word_embeddings
        if tied:  # leaving the meta device breaks the tie, and a spread model is not tied again
            self.net.to_empty(device=device)
            self.net.tie_weights()
        if world > 1 and parallel == "fsdp2":
            from torch.distributed.fsdp import fully_shard
            for layer in self.net.model.layers:
                fully_shard(layer)
            fully_shard(self.net)
        if not tied:
            self.net.to_empty(device=device)
        # Frequencies are computed, not stored: with the empty model they went too.
        self.net.model.rotary_emb = type(self.net.model.rotary_emb)(config=self.config).to(device)
        self.parameters = dict(self.net.named_parameters())
        self.buffers = {n: b for n, b in self.net.named_buffers() if n.endswith("e_score_correction_bias")}
        self._fill(source)
        self.run = self.net  # what the training pass calls
        if world > 1 and parallel == "ddp":
            from torch.nn.parallel import DistributedDataParallel
            self.run = DistributedDataParallel(self.net, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.load = None
        self._watch_experts()

    def _float32_routers(self):
        """Routers and the output head compute in float32 whatever autocast says, as engines have it."""
        modules = [m for m in self.net.modules() if type(m).__name__.endswith(("TopkRouter", "TopKRouter"))] + [self.net.lm_head]
        for m in modules:
            def forward(x, *rest, inner=m.forward):
                with torch.autocast(x.device.type, enabled=False):
                    return inner(x.float(), *rest)
            m.forward = forward

    def autocast(self):
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def _fill(self, source):
        """Copies the source's tensors in; what nothing computes with (multi-token-prediction layers) is kept as it is."""
        wanted = set(self.parts) | set(self.buffers)
        with torch.no_grad():
            for name in self.shapes:
                self.assign(self.parameters[name], self.whole(name, lambda logical, shape: source.take(logical, shape).float()))
            for name, b in self.buffers.items():
                b.copy_(source.take(name, b.shape))
        self.extra, left = {}, set(source.where) - wanted
        first = self.config.num_hidden_layers
        for name in sorted(left):
            layer = re.match(r"model\.layers\.(\d+)\.", name)
            if layer and int(layer[1]) >= first:
                self.extra[name] = source.take(name)
            elif name == "lm_head.weight" and self.config.tie_word_embeddings:
                continue  # the embeddings once more
            else:
                raise Refused(f"{source.directory}: tensor {name} is not one that the config implies")

    def whole(self, name, fetch):
        """A parameter's full value on the host, put together from logical tensors."""
        full = torch.empty(self.shapes[name], dtype=torch.float32)
        for logical, part in parts_of(name, self.shapes[name]).items():
            view = part.of(full)
            view.copy_(fetch(logical, view.shape))
        return full

    def assign(self, into, full):
        """Copies a full value into a tensor that may be spread over ranks."""
        if hasattr(into, "placements"):
            from torch.distributed.tensor import distribute_tensor
            full = distribute_tensor(full.to(self.device), into.device_mesh, into.placements, src_data_rank=None)
        into.copy_(full)

    def tensors(self, of):
        """Logical tensors of what lies beside every parameter: {name: shape}, and a function
        that gives each on the host. Every rank must call it in the same order."""
        held = {}

        def fetch(logical):
            part = self.parts[logical]
            if part.parameter not in held:
                while len(held) > 1:  # the two fused tensors of a layer take turns
                    held.pop(next(iter(held)))
                t = of(part.parameter).detach()
                held[part.parameter] = (t.full_tensor() if hasattr(t, "full_tensor") else t).to("cpu", torch.float32)
            return part.of(held[part.parameter]).contiguous()

        with torch.device("meta"):
            shapes = {n: tuple(p.of(torch.empty(self.shapes[p.parameter])).shape) for n, p in self.parts.items()}
        return shapes, fetch

    def decays(self, name):
        """Matrices decay; norms and biases do not."""
        return len(self.shapes[name]) > 1

    def _watch_experts(self):
        """Counts, while self.load is set, how many real tokens each expert of each MoE layer got, and keeps the routers' logits."""
        self.real = None     # mask of the rows that count, flat
        self.logits = None   # of the routers, where they are asked for
        blocks = [m for m in self.net.modules() if hasattr(m, "experts") and hasattr(m, "gate")]
        self.experts = [b.gate.weight.shape[0] for b in blocks]
        for i, block in enumerate(blocks):
            def seen(router, args, out, i=i):
                if self.load is not None:
                    with torch.no_grad():
                        chosen = out[2][self.real] if self.real is not None else out[2]
                        self.load[i] += torch.bincount(chosen.flatten(), minlength=self.experts[i])
                if self.logits is not None:
                    self.logits.append(out[0])
            block.gate.register_forward_hook(seen)

    def count_load(self):
        self.load = [torch.zeros(n, dtype=torch.int64, device=self.device) for n in self.experts]

    def take_load(self):
        """Tokens per expert of each MoE layer, over all ranks."""
        load, self.load = self.load, None
        if dist.is_initialized():
            for n in load:
                dist.all_reduce(n)
        return load

    def balance(self, load, step):
        """The routing bias of an expert that got less than its share rises, of one that got more falls (DeepSeek-V3 §2.1.2)."""
        for bias, n in zip(self.buffers.values(), load):  # qwen3_moe has loads and no biases
            bias += step * torch.sign(n.sum() - n * len(n)).to(bias.dtype)
