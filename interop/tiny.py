"""Tiny language models with random shapes, switches and weights, written to disk
as the world has them: in transformers' spelling of config.json or the
published one, in one file or many, in float32, bfloat16, float16 or FP8 blocks.

Weights are scaled so that a wrong detail shows: logits have a standard
deviation of 3 to 6, norms are not one, routing is uneven.
"""

import json
import math
import pathlib

import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

transformers.logging.set_verbosity_error()  # random configs draw warnings that say nothing here
transformers.logging.disable_progress_bar()

FAMILIES = ("qwen3", "qwen3_moe", "deepseek_v3")
STORAGES = ("float32", "bfloat16", "float16")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FP8_BLOCK = 128


class Deck:
    """Deals every value equally often, in random order."""

    def __init__(self, random, values):
        self.random, self.values, self.left = random, list(values), []

    def deal(self):
        if not self.left:
            self.left = self.random.sample(self.values, len(self.values))
        return self.left.pop()


class Switches:
    """What a run's models take in turn, so that every switch is tried."""

    def __init__(self, random):
        self.random = random
        self.decks = {}

    def deal(self, name, *values):
        return self.decks.setdefault(name, Deck(self.random, values)).deal()

    def rope(self, family):
        """rope_parameters as transformers 5 has them."""
        theta = self.random.choice((10000.0, 1000000.0))
        if not self.deal("yarn " + family, True, False, True):
            return {"rope_type": "default", "rope_theta": theta}
        rope = {"rope_type": "yarn", "rope_theta": theta, "factor": self.random.choice((2.0, 4.0, 8.0, 40.0)),
                "original_max_position_embeddings": self.random.choice((16, 32, 64))}
        if family == "deepseek_v3" or self.random.random() < 0.3:
            rope |= {"beta_fast": float(self.random.choice((32, 16))), "beta_slow": float(self.random.choice((1, 2)))}
        if family == "deepseek_v3":
            rope |= self.deal("mscale", {"mscale": 1.0, "mscale_all_dim": 1.0}, {"mscale": 0.707, "mscale_all_dim": 1.0}, {})
        elif self.random.random() < 0.3:
            rope["attention_factor"] = 1.25
        return rope

    def qwen(self, vocab):
        heads = self.deal("GQA ratio", (4, 4), (4, 2), (6, 2), (4, 1))
        return {
            "vocab_size": vocab, "hidden_size": self.random.choice((48, 64, 80)), "intermediate_size": self.random.choice((96, 112, 136)),
            "num_hidden_layers": self.random.choice((2, 3, 4)), "num_attention_heads": heads[0], "num_key_value_heads": heads[1],
            "head_dim": self.random.choice((16, 24, 32)), "max_position_embeddings": 512, "rms_norm_eps": self.random.choice((1e-6, 1e-5)),
            "attention_bias": self.deal("attention bias", False, False, True), "bos_token_id": None, "eos_token_id": 1,
        }

    def config(self, family, vocab):
        """A config of the family, with transformers 5's names."""
        if family == "qwen3":
            c = self.qwen(vocab) | {"tie_word_embeddings": self.deal("tied", True, False)}
        elif family == "qwen3_moe":
            layers, only = self.deal("sparse layers", (3, []), (4, [1]), (3, [0]))
            c = self.qwen(vocab) | {
                "num_hidden_layers": layers, "mlp_only_layers": only, "decoder_sparse_step": self.deal("sparse step", 1, 2, 1),
                "num_experts": self.random.choice((6, 8, 12)), "num_experts_per_tok": self.deal("top k", 1, 2, 3, 4),
                "moe_intermediate_size": self.random.choice((32, 40, 56)), "norm_topk_prob": self.deal("qwen norm", True, False),
                "tie_word_embeddings": False,
            }
        else:
            c = self.deepseek(vocab)
        return c | {"rope_parameters": self.rope(family)}

    def deepseek(self, vocab):
        experts, groups, top_groups = self.deal("groups", (8, 1, 1), (16, 4, 2), (12, 3, 2), (8, 2, 1))
        heads = self.random.choice((2, 3, 4))
        layers = self.random.choice((2, 3))
        return {
            "vocab_size": vocab, "hidden_size": self.random.choice((48, 64, 80)), "intermediate_size": self.random.choice((96, 112, 136)),
            "moe_intermediate_size": self.random.choice((32, 40)), "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": heads, "n_routed_experts": experts, "n_group": groups, "topk_group": top_groups,
            "num_experts_per_tok": self.random.choice((2, 3, 4)), "n_shared_experts": self.deal("shared experts", 1, 2),
            "first_k_dense_replace": self.deal("dense layers", 0, 1, layers - 1), "norm_topk_prob": self.deal("deepseek norm", True, False, True),
            "routed_scaling_factor": self.deal("scaling", 1.0, 2.5), "q_lora_rank": self.deal("q_lora_rank", None, 24, 40),
            "kv_lora_rank": self.random.choice((16, 32)), "qk_nope_head_dim": self.random.choice((16, 24)),
            "qk_rope_head_dim": self.random.choice((8, 16)), "v_head_dim": self.random.choice((16, 24)),
            "attention_bias": self.deal("deepseek bias", False, False, True), "rope_interleave": self.deal("interleave", True, True, False),
            # transformers computes the two latent norms with 1e-6 whatever the config says, vLLM with what it says.
            "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 1,
            "num_mtp_layers": 0,
        }


TOLD = {
    "qwen3": ("num_attention_heads", "num_key_value_heads", "tie_word_embeddings", "attention_bias"),
    "qwen3_moe": ("num_attention_heads", "num_key_value_heads", "num_experts", "num_experts_per_tok", "decoder_sparse_step", "mlp_only_layers", "norm_topk_prob"),
    "deepseek_v3": ("q_lora_rank", "n_routed_experts", "n_group", "topk_group", "num_experts_per_tok", "n_shared_experts", "first_k_dense_replace",
                    "norm_topk_prob", "routed_scaling_factor", "rope_interleave"),
}


def describe(family, config):
    """A model's switches in one line."""

    def short(name):
        return name.removeprefix("num_").replace("attention_", "").replace("experts_per_tok", "top_k")

    return f"{family} rope={config['rope_parameters']['rope_type']} " + " ".join(f"{short(n)}={config[n]}" for n in TOLD[family])


def scramble(model, generator):
    """Gives every parameter random values at scales that make each matter."""

    def normal(shape, std):
        return torch.randn(shape, generator=generator) * std

    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_((1 + normal(p.shape, 0.25)).clamp(min=0.2))
            elif name.endswith("bias"):
                p.copy_(normal(p.shape, 0.3))
            elif "embed_tokens" in name:
                p.copy_(normal(p.shape, 1))
            else:
                p.copy_(normal(p.shape, 1.2 / math.sqrt(p.shape[-1])))
        for name, b in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                b.copy_(normal(b.shape, 0.15))
        tokens = torch.randint(model.config.vocab_size, (1, 64), generator=generator)
        for _ in range(3):  # tied embeddings are the input, too: approach
            std = model(tokens).logits.std().item()
            model.get_output_embeddings().weight.mul_(4.5 / std)
        std = model(tokens).logits.std().item()
    if not 3 <= std <= 6:
        raise AssertionError(f"the logits' standard deviation is {std:.2f}")


def build(family, config, seed):
    """A transformers model with random weights, float32, eager."""
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, **config), dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()
    scramble(model, generator)
    return model


def load(directory):
    """What transformers makes of a directory: widened to float32, eager."""
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager").eval()


def published(config, storage):
    """transformers 5's config.json in the spelling of published repositories."""
    c = dict(config)
    rope = dict(c.pop("rope_parameters"))
    c["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    c["rope_scaling"] = None if kind == "default" else rope | ({"type": kind} if c["model_type"] == "deepseek_v3" else {"rope_type": kind})
    c.pop("dtype", None)
    c["torch_dtype"] = storage
    c["transformers_version"] = "4.51.0"
    if c["model_type"] == "deepseek_v3":
        c |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "moe_layer_freq": 1}
        for name in ("head_dim", "qk_head_dim", "num_local_experts"):
            c.pop(name, None)
        if c["rope_interleave"]:  # published configs do not name it
            del c["rope_interleave"]
    elif "num_local_experts" in c:
        c["num_experts"] = c.pop("num_local_experts")
    c.pop("layer_types", None)
    return c


def narrow(tensors, storage):
    """Casts as published files are: the router's correction stays float32."""
    return {n: (t if n.endswith("e_score_correction_bias") else t.to(DTYPES[storage])).contiguous() for n, t in tensors.items()}


def write(model, directory, storage="float32", spelling="transformers", shards=1):
    """Writes a model directory."""
    directory = pathlib.Path(directory)
    model.save_pretrained(directory)
    config = json.loads((directory / "config.json").read_text())
    tensors = narrow(load_file(directory / "model.safetensors"), storage)
    (directory / "model.safetensors").unlink()
    config["dtype"] = storage
    if spelling == "published":
        config = published(config, storage)
    (directory / "config.json").write_text(json.dumps(config, indent=2))
    (directory / "generation_config.json").unlink(missing_ok=True)
    write_tensors(tensors, directory, shards)
    return config, tensors


def write_tensors(tensors, directory, shards):
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    index = {}
    names = sorted(tensors)
    for i in range(shards):
        file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        part = names[i::shards]
        save_file({n: tensors[n] for n in part}, directory / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=2))


def quantise_fp8(w, scales):
    """E4M3 codes, block scales as stored, and the float32 weights they mean."""
    rows, columns = w.shape
    down, across = -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)
    padded = torch.zeros(down * FP8_BLOCK, across * FP8_BLOCK)
    padded[:rows, :columns] = w
    blocks = padded.view(down, FP8_BLOCK, across, FP8_BLOCK)
    scale = blocks.abs().amax((1, 3)).clamp(min=1e-12) / 448
    if scales != "float32":
        scale = torch.exp2(torch.ceil(torch.log2(scale)))
    codes = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
    meant = (codes.float() * scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
    codes = codes.reshape(padded.shape)[:rows, :columns].contiguous()
    return codes, scale.to(torch.float8_e8m0fnu) if scales == "e8m0" else scale, meant.contiguous()


def write_fp8(model, directory, meaning, scales, shards, seed):
    """Writes DeepSeek's published form, with a multi-token-prediction layer, to
    directory, and what it means in float32, without that layer, to meaning."""
    config, tensors = write(model, directory, "bfloat16", "published")
    (directory / "model.safetensors").unlink()
    stored, meant = {}, {}
    for name, t in tensors.items():
        if name.endswith("_proj.weight") or name.endswith("kv_a_proj_with_mqa.weight"):
            stored[name], stored[name + "_scale_inv"], meant[name] = quantise_fp8(t.float(), scales)
        else:
            stored[name], meant[name] = t, t.float()
    last, extra = config["num_hidden_layers"], {}
    for name, t in stored.items():  # the extra layer is one more like the last, with its own embedding, norms and projection
        if name.startswith(f"model.layers.{last - 1}."):
            extra[name.replace(f"layers.{last - 1}.", f"layers.{last}.")] = t.clone()
    generator, h = torch.Generator().manual_seed(seed), config["hidden_size"]
    prefix = f"model.layers.{last}."
    codes, scale, _ = quantise_fp8(torch.randn(h, 2 * h, generator=generator), scales)
    extra |= {prefix + "eh_proj.weight": codes, prefix + "eh_proj.weight_scale_inv": scale,
              prefix + "embed_tokens.weight": stored["model.embed_tokens.weight"].clone(), prefix + "shared_head.head.weight": stored["lm_head.weight"].clone()}
    extra |= {prefix + n: torch.ones(h, dtype=torch.bfloat16) for n in ("enorm.weight", "hnorm.weight", "shared_head.norm.weight")}
    write_tensors(stored | extra, directory, shards)
    quantization = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [FP8_BLOCK, FP8_BLOCK]}
    if scales != "float32":
        quantization["scale_fmt"] = "ue8m0"
    (directory / "config.json").write_text(json.dumps(config | {"num_nextn_predict_layers": 1, "quantization_config": quantization}, indent=2))
    meaning.mkdir()
    (meaning / "config.json").write_text(json.dumps(config | {"torch_dtype": "float32"}, indent=2))
    write_tensors(meant, meaning, 1)


class Routing:
    """Watches a model's routers: the smallest gap between a chosen expert or
    group and the best one left out. Float32 rounding may flip a choice whose
    gap is of its own size; no two implementations agree there.
    """

    def __init__(self, model):
        self.margin = math.inf
        self.handles = [m.register_forward_hook(self.watch) for m in model.modules() if type(m).__name__.lower().endswith("topkrouter")]

    def watch(self, router, _, out):
        logits = out[0].detach().double()
        if hasattr(router, "e_score_correction_bias"):
            scores = logits.sigmoid() + router.e_score_correction_bias.double()
            groups = scores.view(len(scores), router.num_group, -1)
            self.gap(groups.topk(2, -1).values.sum(-1), router.topk_group)
            kept = groups.topk(2, -1).values.sum(-1).topk(router.topk_group, -1).indices
            mask = torch.zeros(groups.shape[:2], dtype=torch.bool).scatter(1, kept, True)
            scores = groups.masked_fill(~mask[..., None], -math.inf).flatten(1)
        else:
            scores = logits
        self.gap(scores, router.top_k)

    def gap(self, scores, k):
        if k < scores.shape[-1]:
            best = scores.topk(k + 1, -1).values
            self.margin = min(self.margin, (best[:, k - 1] - best[:, k]).min().item())

    def take(self):
        margin, self.margin = self.margin, math.inf
        return margin
