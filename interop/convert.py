"""Our conversions, held to the bit against the tools that invented the formats.

usage: convert.py TARBERT --env DIR --transformers4 DIR      (the environment with msmodelslim, llmcompressor, transformers and vLLM;
                                                              a directory with transformers 4.57)

  msmodelslim      qwen3 and qwen3_moe in BF16 to AscendV1 W8A8_DYNAMIC: every file that msmodelslim 26.1 writes, to the byte; with
                   transformers 5 it leaves the experts FLOAT, stacked, so that qwen3_moe takes transformers 4.57
  modelslim FP8    FP8 blocks to BF16: every tensor that msmodelslim's modelslim_convert writes
  llm-compressor   qwen3 and qwen3_moe in BF16 to compressed-tensors int8: every tensor, and the quantization_config
  transformers     FP8 blocks: what its own dequantisation makes of the directory, with float32 and with E8M0 scales
  DeepSeek         FP8 and FP4 to BF16, FP4 to FP8: the published arithmetic in PyTorch, to the bit, sharded sources
  vLLM             serves our int8 (CPU build): log-probabilities as the reference computes them with int8 activations
  damage           what `convert check` says of a conversion with one scale doubled

GGUF has a script of its own, gguf.py. Random models, seeded; --seed N draws others.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import sys

import torch
from safetensors.torch import load_file, save_file

import tiny
from checks import Checks, Tarbert, end_on_signals, output, scratch

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZER = HERE.parent / "internal/convert/testdata/msmodelslim-26.1.0/qwen3/source"
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
SHAPES = {
    "qwen3": {"hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
              "vocab_size": 512, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "attention_bias": False, "tie_word_embeddings": False,
              "bos_token_id": 0, "eos_token_id": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}
SHAPES["qwen3_moe"] = SHAPES["qwen3"] | {"moe_intermediate_size": 128, "num_experts": 4, "num_experts_per_tok": 2, "decoder_sparse_step": 1,
                                         "mlp_only_layers": [], "norm_topk_prob": True}
DEEPSEEK = {"vocab_size": 256, "hidden_size": 160, "intermediate_size": 272, "moe_intermediate_size": 136, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2, "n_shared_experts": 1,
            "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "q_lora_rank": 48, "kv_lora_rank": 64, "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16, "v_head_dim": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 512, "num_mtp_layers": 0,
            "bos_token_id": 0, "eos_token_id": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
W8A8 = """apiversion: modelslim_v1
spec:
  process:
    - type: "linear_quant"
      qconfig:
        act: {scope: "per_token", dtype: "int8", symmetric: True, method: "minmax"}
        weight: {scope: "per_channel", dtype: "int8", symmetric: True, method: "minmax"}
      include: ["*"]
      exclude: ["*lm_head*", "*mlp.gate"]
  save:
    - type: "ascendv1_saver"
      part_file_size: 4
"""
FLOAT = """apiversion: modelslim_convert
spec:
  linears:
    - match: ["model.layers.*.self_attn.*_proj", "model.layers.*.mlp.*_proj", "model.layers.*.mlp.*.*_proj"]
      target: FLOAT
      route: auto
  save:
    - type: huggingface
      part_file_size: 4
"""
FP8 = {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "weight_block_size": [128, 128]}


def every_tensor(directory):
    """Name to tensor over all safetensors files of a directory."""
    out = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        out |= load_file(path)
    return out


def raw(t):
    """The bits of a tensor."""
    t = t.contiguous()
    return t.view(torch.uint8) if t.dtype not in (torch.bool,) and t.dim() else t


def same(ours, theirs):
    """Fails with the first tensor that differs; gives their number."""
    if ours.keys() != theirs.keys():
        raise AssertionError(f"only ours: {sorted(ours.keys() - theirs.keys())[:3]}, only theirs: {sorted(theirs.keys() - ours.keys())[:3]}")
    for name, t in theirs.items():
        o = ours[name]
        if o.dtype != t.dtype or o.shape != t.shape:
            raise AssertionError(f"{name}: ours {o.dtype} {list(o.shape)}, theirs {t.dtype} {list(t.shape)}")
        if not torch.equal(raw(o), raw(t)):
            raise AssertionError(f"{name}: {(raw(o) != raw(t)).sum().item()} of {raw(t).numel()} bytes differ")
    return len(theirs)


class Bench:
    def __init__(self, tarbert, env, transformers4, seed, tmp):
        self.tarbert, self.env, self.transformers4, self.tmp, self.rng = tarbert, env, transformers4, tmp, random.Random(seed)
        self.dirs = {family: self.model(family) for family in SHAPES}
        self.fp8 = {scales: self.fp8_model(scales) for scales in ("float32", "ue8m0")}
        for scales in ("float32", "ue8m0", "e8m0"):  # with blocks that are cut off, and a layer for multi-token prediction
            self.fp8["odd " + scales] = self.tmp / f"deepseek_v3-fp8-{scales}"
            tiny.write_fp8(tiny.build("deepseek_v3", DEEPSEEK, self.rng.getrandbits(32)), self.fp8["odd " + scales], self.tmp / f"meant-{scales}",
                           scales, 3, self.rng.getrandbits(32))

    def model(self, family):
        """A BF16 model in the published spelling, two shards, with a tokenizer."""
        out = self.tmp / family
        tiny.write(tiny.build(family, SHAPES[family], self.rng.getrandbits(32)), out, "bfloat16", "published", shards=2)
        for f in TOKENIZER.iterdir():
            if f.suffix != ".safetensors" and f.name != "config.json":
                shutil.copy(f, out / f.name)
        return out

    def fp8_model(self, scales):
        """The qwen3 in FP8 blocks, scales in another shard than some of their weights."""
        out = self.tmp / f"qwen3-fp8-{scales}"
        out.mkdir()
        tensors = {}
        for name, t in every_tensor(self.dirs["qwen3"]).items():
            if name.endswith("_proj.weight"):
                tensors[name], tensors[name + "_scale_inv"], _ = tiny.quantise_fp8(t.float(), scales)
            else:
                tensors[name] = t
        tiny.write_tensors(tensors, out, 3)
        for f in self.dirs["qwen3"].iterdir():
            if "safetensors" not in f.name:
                shutil.copy(f, out / f.name)
        config = json.loads((out / "config.json").read_text())
        config["quantization_config"] = FP8 | ({} if scales == "float32" else {"scale_fmt": "ue8m0"})
        (out / "config.json").write_text(json.dumps(config, indent=2))
        return out

    def convert(self, src, to, *args):
        out = self.tmp / f"ours-{src.name}-{to}-{'-'.join(args).replace('-', '')}"
        if not out.exists():
            self.tarbert.run("convert", src, out, "--to", to, *args)
            self.tarbert.run("convert", "check", src, out)
        return out

    def msmodelslim_run(self, src, config, env=ENV):
        out = self.tmp / f"msmodelslim-{src.name}"
        (self.tmp / "config.yaml").write_text(config)
        output([self.env / "bin/msmodelslim", "quant", "--model_type", "Qwen3-32B" if "moe" not in src.name else "Qwen3-30B", "--model_path", src,
                "--save_path", out, "--device", "cpu", "--config_path", self.tmp / "config.yaml", "--trust_remote_code", "False"], 200, env=env)
        return out

    def msmodelslim(self, family):
        """Every file that it writes is ours to the byte; ours has its record besides, theirs the recipe."""
        src = self.dirs[family]
        env = ENV | {"PYTHONPATH": str(self.transformers4)} if family == "qwen3_moe" else ENV
        theirs, ours = self.msmodelslim_run(src, W8A8, env), self.convert(src, "w8a8-ascend", "--naming", "msmodelslim")
        compared, size = [], 0
        for path in sorted(theirs.iterdir()):
            if path.name.endswith("best_practice.yaml"):
                continue
            a, b = path.read_bytes(), (ours / path.name).read_bytes()
            if a != b:
                detail = same(load_file(ours / path.name), load_file(path)) if path.suffix == ".safetensors" else ""
                at = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
                raise AssertionError(f"{path.name}: differs from byte {at}: theirs {a[at:at + 60]!r}, ours {b[at:at + 60]!r} {detail}")
            compared.append(path.name)
            size += len(a)
        return f"{len(compared)} files, {size} bytes, equal: {', '.join(compared)}"

    def modelslim_fp8(self):
        src = self.fp8["float32"]
        theirs, ours = every_tensor(self.msmodelslim_run(src, FLOAT)), every_tensor(self.convert(src, "bf16"))
        return f"{same(ours, theirs)} tensors equal"

    def llm_compressor(self, family):
        from llmcompressor import oneshot
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from transformers import AutoModelForCausalLM
        src, out = self.dirs[family], self.tmp / f"llmcompressor-{family}"
        model = AutoModelForCausalLM.from_pretrained(src, dtype="auto")
        oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head", "re:.*mlp.gate$"]))
        model.save_pretrained(out, save_compressed=True)
        ours = self.convert(src, "w8a8-compressed")
        n = same(every_tensor(ours), every_tensor(out))
        a, b = (json.loads((d / "config.json").read_text())["quantization_config"] for d in (ours, out))
        a["ignore"], b["ignore"] = sorted(a["ignore"]), sorted(b["ignore"])
        if a != b:
            raise AssertionError(f"quantization_config: ours {a}, theirs {b}")
        whole = (ours / "model.safetensors").read_bytes() == (out / "model.safetensors").read_bytes()
        return f"{n} tensors equal, quantization_config equal" + (", model.safetensors equal to the byte" if whole else "")

    def transformers(self, scales):
        """transformers dequantises FP8 on loading where there is no GPU."""
        from transformers import AutoModelForCausalLM
        src = self.fp8[scales]
        ours = self.convert(src, "bf16")
        theirs = AutoModelForCausalLM.from_pretrained(src, dtype=torch.bfloat16).state_dict()
        return f"{same(every_tensor(ours), {n: t for n, t in theirs.items()})} tensors equal"

    def deepseek(self, scales):
        """inference/fp8_cast_bf16.py: y = float32(code) * float32(scale), stored as bfloat16."""
        src, expected = self.fp8[scales], {}
        tensors = every_tensor(src)
        for name, t in tensors.items():
            if t.element_size() == 1 and not name.endswith("_scale_inv"):
                s = tensors[name + "_scale_inv"].float().repeat_interleave(128, 0).repeat_interleave(128, 1)[:t.shape[0], :t.shape[1]]
                expected[name] = (t.float() * s).to(torch.bfloat16)
            elif not name.endswith("_scale_inv"):
                expected[name] = t
        return f"{same(every_tensor(self.convert(src, 'bf16')), expected)} tensors equal"

    def fp4(self):
        """DeepSeek-V4's experts: two codes a byte, a power of two for 32 columns; and their expansion to FP8."""
        src = self.tmp / "v4"
        src.mkdir()
        g = torch.Generator().manual_seed(self.rng.getrandbits(32))
        table = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6])
        stored, bf16, fp8 = {}, {}, {}
        for e in range(3):
            for w, (rows, cols) in {"w1": (192, 256), "w2": (256, 192), "w3": (192, 256)}.items():
                name = f"layers.0.ffn.experts.{e}.{w}"
                codes = torch.randint(0, 256, (rows, cols // 2), generator=g, dtype=torch.uint8)
                exponents = torch.randint(110, 122, (rows, cols // 32), generator=g, dtype=torch.uint8)
                value = torch.stack((table[(codes & 15).long()], table[(codes >> 4).long()]), -1).reshape(rows, cols)
                scale = torch.exp2(exponents.float() - 127)
                stored[name + ".weight"], stored[name + ".scale"] = codes.view(torch.int8), exponents.view(torch.float8_e8m0fnu)
                bf16[name + ".weight"] = (value * scale.repeat_interleave(32, 1)).to(torch.bfloat16)
                down, across = -(-rows // 128), -(-cols // 128)
                padded = torch.zeros(down * 128, across * 4)
                padded[:rows, :cols // 32] = scale
                tile = padded.view(down, 128, across, 4).amax((1, 3)) / 2**6
                wide = tile.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
                fp8[name + ".weight"] = (value * (scale.repeat_interleave(32, 1) / wide)).to(torch.float8_e4m3fn)
                fp8[name + ".scale"] = tile.to(torch.float8_e8m0fnu)
        norm = {"norm.weight": torch.ones(256, dtype=torch.bfloat16), "embed.weight": torch.randn(64, 256, generator=g).to(torch.bfloat16)}
        save_file(stored | norm, src / "model.safetensors", metadata={"format": "pt"})
        (src / "config.json").write_text(json.dumps({"model_type": "deepseek_v4", "num_hidden_layers": 1, "torch_dtype": "bfloat16", "expert_dtype": "fp4",
                                                     "quantization_config": FP8 | {"scale_fmt": "ue8m0"}}))
        n = same(every_tensor(self.convert(src, "bf16")), bf16 | norm)
        m = same(every_tensor(self.convert(src, "fp8")), fp8 | norm)
        return f"BF16: {n} tensors equal; FP8: {m} tensors and scales equal"

    def vllm(self):
        """vLLM serves our int8: int8 activations per token, float32 beside. Both sides are the same integers; what is left is
        the rounding of activations' scales, which moves single codes."""
        import vllm_score  # its flags and environment
        assert vllm_score.FLAGS["dtype"] == "float32"
        families = {"qwen3": self.convert(self.dirs["qwen3"], "w8a8-compressed")}
        sequences = [[self.rng.randrange(512) for _ in range(n)] for n in (5, 24, 100, 200)]
        (self.tmp / "job.json").write_text(json.dumps({"top": 5, "steps": 4, "models": {
            f: {"dir": str(d), "sequences": sequences, "prompts": sequences[:1]} for f, d in families.items()}}))
        output([self.env / "bin/python", HERE / "vllm_score.py", self.tmp / "job.json", self.tmp / "out.json"], 480, env=ENV)
        result = json.loads((self.tmp / "out.json").read_text())
        parts = []
        for f, d in families.items():
            gaps, quantised = [], []
            w8a8, full = self.tarbert.score(d, sequences, 5, "w8a8"), self.tarbert.score(self.dirs[f], sequences, 5, "f32")
            for (ours, _), (exact, _), theirs in zip(w8a8, full, result[f]["actual"], strict=True):
                gaps += [abs(a - b) for a, b in zip(ours[1:], theirs[1:], strict=True)]
                quantised += [abs(a - b) for a, b in zip(exact[1:], theirs[1:], strict=True)]
            mean, cost = sum(gaps) / len(gaps), sum(quantised) / len(quantised)
            if not mean < cost / 5:
                raise AssertionError(f"{f}: mean |Δ log p| {mean:.3g} against our w8a8, {cost:.3g} against the float model: vLLM reads other weights")
            parts.append(f"{f}: mean |Δ log p| {mean:.1e} (largest {max(gaps):.1e}) over {len(gaps)} tokens; quantisation itself moves them by {cost:.1e}")
        return "; ".join(parts)

    def damage(self):
        """The check is not blind: one doubled scale in msmodelslim's own output."""
        hurt = self.tmp / "hurt"
        shutil.copytree(self.tmp / "msmodelslim-qwen3", hurt)
        path = next(hurt.glob("*.safetensors"))
        path.chmod(0o644)
        tensors = load_file(path)
        name = next(n for n in sorted(tensors) if n.endswith("down_proj.weight_scale"))
        tensors[name][3] *= 2
        save_file(tensors, path)
        theirs = self.tarbert.run("convert", "check", self.dirs["qwen3"], self.tmp / "msmodelslim-qwen3")
        try:
            self.tarbert.run("convert", "check", self.dirs["qwen3"], hurt)
        except RuntimeError as e:
            said = str(e)
            if "exited with 1" not in said or name.removesuffix("_scale") not in said:
                raise
            return f"msmodelslim's own output passes ({theirs.split('rules held')[1].split(chr(10))[0].strip()}); one scale doubled: named, exit 1"
        raise AssertionError("a doubled scale passed")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("tarbert")
    arguments.add_argument("--env", type=pathlib.Path, required=True)
    arguments.add_argument("--transformers4", type=pathlib.Path, required=True)
    arguments.add_argument("--seed", type=int, default=5)
    a = arguments.parse_args()
    end_on_signals()
    checks = Checks()
    with scratch() as tmp:
        b = Bench(Tarbert(a.tarbert), a.env.resolve(), a.transformers4.resolve(), a.seed, tmp)
        for model in b.fp8:
            checks.run(f"DeepSeek's arithmetic, FP8 to BF16, {b.fp8[model].name}", b.deepseek, model)
        checks.run("DeepSeek's arithmetic, FP4 to BF16 and FP8", b.fp4)
        for scales in ("float32", "ue8m0"):
            checks.run(f"transformers dequantises FP8 with {scales} scales as we do", b.transformers, scales)
        for family in SHAPES:
            checks.run(f"msmodelslim writes AscendV1 as we do, {family}", b.msmodelslim, family)
        checks.run("msmodelslim dequantises FP8 as we do", b.modelslim_fp8)
        checks.run("convert check judges msmodelslim's output", b.damage)
        for family in SHAPES:
            checks.run(f"llm-compressor writes int8 as we do, {family}", b.llm_compressor, family)
        checks.run("vLLM serves our int8", b.vllm)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
