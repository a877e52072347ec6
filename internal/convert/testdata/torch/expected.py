"""Writes what PyTorch makes of the models in testdata: the source deepseek-v4, and expected.json with the
sha256 of each expected model.safetensors. Run in internal/convert/testdata with torch and safetensors installed.

The arithmetic is DeepSeek's published one (V3 inference/fp8_cast_bf16.py, V4 inference/convert.py), written
down again here; tensors that are not quantised pass through."""
import hashlib, json, os, sys
import torch
from safetensors.torch import load_file, save_file

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
expected = {}


def keep(name, tensors):
    save_file(tensors, "/tmp/expected.safetensors", metadata={"format": "pt"})
    with open("/tmp/expected.safetensors", "rb") as f:
        expected[name] = hashlib.sha256(f.read()).hexdigest()


def spread(scale, shape, block=128):
    return scale.float().repeat_interleave(block, 0)[: shape[0]].repeat_interleave(block, 1)[:, : shape[1]]


def bf16(tensors):
    out = {}
    for name, t in tensors.items():
        scale = tensors.get(name + "_scale_inv", tensors.get(name.removesuffix(".weight") + ".scale"))
        if name.endswith(("_scale_inv", ".scale")):
            continue
        if t.dtype == torch.float8_e4m3fn:
            t = (t.float() * spread(scale, t.shape)).to(torch.bfloat16)
        elif t.dtype == torch.int8:
            t = (numbers(t) * scale.float().repeat_interleave(32, 1)).to(torch.bfloat16)
        out[name] = t
    return out


def numbers(packed):
    b = packed.view(torch.uint8)
    return torch.stack([E2M1[(b & 15).long()], E2M1[(b >> 4).long()]], -1).flatten(1)


def expand(packed, scale, tile=128):
    x = numbers(packed)
    rows, cols = x.shape
    s = scale.float().view(rows // tile, tile, cols // tile, tile // 32).transpose(1, 2).flatten(2)
    top = s.amax(-1, keepdim=True) / 64
    by = (s / top).unflatten(-1, (tile, -1)).repeat_interleave(32, -1)
    x = (x.view(rows // tile, tile, cols // tile, tile).transpose(1, 2) * by).transpose(1, 2).reshape(rows, cols)
    return x.to(torch.float8_e4m3fn), top.squeeze(-1).to(torch.float8_e8m0fnu)


def fp8(tensors):
    out = dict(tensors)
    for name, t in tensors.items():
        if t.dtype == torch.int8:
            scale = name.removesuffix(".weight") + ".scale"
            out[name], out[scale] = expand(t, tensors[scale])
    return out


def fp8_block(tensors, powers, block=128):
    out = {}
    for name, w in tensors.items():
        out[name] = w
        if not name.endswith("_proj.weight"):
            continue
        grid = torch.empty(-(-w.shape[0] // block), -(-w.shape[1] // block))
        for i in range(grid.shape[0]):
            for j in range(grid.shape[1]):
                s = w[i * block : (i + 1) * block, j * block : (j + 1) * block].float().abs().max() / 448
                if powers:
                    mantissa, exponent = torch.frexp(s)
                    s = torch.ldexp(torch.tensor(1.0), exponent - (mantissa == 0.5).int())
                grid[i, j] = s
        out[name] = (w.float() / spread(grid, w.shape)).to(torch.float8_e4m3fn)
        out[name + "_scale_inv"] = grid.to(torch.float8_e8m0fnu) if powers else grid
    return out


def deepseek_v4():
    torch.manual_seed(4)
    exponents = lambda rows, cols, low, high: torch.randint(low, high, (rows, cols), dtype=torch.uint8).view(torch.float8_e8m0fnu)
    t = {}
    for e in range(2):
        for w, (out, n) in {"w1": (128, 256), "w2": (256, 128), "w3": (128, 256)}.items():
            name = f"layers.0.ffn.experts.{e}.{w}."
            t[name + "weight"] = torch.randint(-128, 128, (out, n // 2), dtype=torch.int8)
            t[name + "scale"] = exponents(out, n // 32, 108, 123)
    for w, (out, n) in {"attn.wq_a": (192, 256), "attn.wo_b": (256, 200)}.items():
        t[f"layers.0.{w}.weight"] = (torch.randn(out, n) * 100).clamp(-448, 448).to(torch.float8_e4m3fn)
        t[f"layers.0.{w}.scale"] = exponents(-(-out // 128), -(-n // 128), 110, 120)
    t["layers.0.attn_norm.weight"] = torch.randn(256).bfloat16()
    t["layers.0.attn.attn_sink"] = torch.randn(8)
    t["layers.0.hc_attn_fn"] = torch.randn(4, 256)
    t["layers.0.ffn.gate.weight"] = torch.randn(2, 256).bfloat16()
    t["layers.0.ffn.gate.bias"] = torch.randn(2)
    t["layers.0.ffn.gate.tid2eid"] = torch.randint(0, 2, (16, 1))
    t["embed.weight"], t["head.weight"] = torch.randn(16, 256).bfloat16(), torch.randn(16, 256).bfloat16()
    t["norm.weight"] = torch.randn(256).bfloat16()
    os.makedirs("deepseek-v4", exist_ok=True)
    save_file(t, "deepseek-v4/model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "deepseek_v4", "num_hidden_layers": 1, "expert_dtype": "fp4", "torch_dtype": "bfloat16",
              "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8", "scale_fmt": "ue8m0", "weight_block_size": [128, 128]}}
    with open("deepseek-v4/config.json", "w") as f:
        json.dump(config, f, indent=2)
    return t


v4 = deepseek_v4()
keep("deepseek-v4 to bf16", bf16(v4))
keep("deepseek-v4 to fp8", fp8(v4))
keep("deepseek-v3-fp8 to bf16", bf16(load_file("../../tensor/testdata/golden/deepseek-v3-fp8/model.safetensors")))
qwen = load_file("msmodelslim-26.1.0/qwen3/source/model.safetensors")
keep("qwen3 to fp8-block float32", fp8_block(qwen, False))
keep("qwen3 to fp8-block ue8m0", fp8_block(qwen, True))
with open("torch/expected.json", "w") as f:
    json.dump(expected, f, indent=2)
