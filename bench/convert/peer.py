"""What a user would write or run in Python for the same conversion.

usage: peer.py fp8-bf16|fp8-int8|bf16-int8|llm-compressor SRC DST

The first three are PyTorch from safetensors to safetensors, file by file, as DeepSeek's fp8_cast_bf16.py goes about it but on a
processor: whole-tensor operations, all threads, one file of the source in memory at a time, the same arithmetic and the same
tensors as ours (the benchmark compares them to the bit).
"""

import json
import pathlib
import sys

what, src, dst = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])


def dequantise(w, s):
    import torch
    rows, cols = w.shape
    scale = s.repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :cols]
    return (w.to(torch.float32) * scale).to(torch.bfloat16)


def int8(name, w, out):
    """msmodelslim's arithmetic, in the model's bfloat16."""
    import torch
    scale = torch.clamp(w.abs().amax(1, keepdim=True) / 127, min=torch.finfo(torch.float32).eps).to(torch.bfloat16)
    out[name] = torch.clamp(torch.round(w / scale), -128, 127).to(torch.int8)
    out[name + "_scale"] = scale.to(torch.float32)
    out[name + "_offset"] = torch.zeros_like(out[name + "_scale"])


def linear(name):
    return name.endswith("_proj.weight") or name.endswith("kv_a_proj_with_mqa.weight")


def torch_conversion():
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    dst.mkdir()
    index = json.loads((src / "model.safetensors.index.json").read_text())["weight_map"]
    files = sorted(set(index.values()))
    written = {}
    for f in files:
        tensors, out = load_file(src / f), {}
        for name, w in tensors.items():
            if name.endswith("_scale_inv"):
                continue
            if w.element_size() == 1:
                key = name + "_scale_inv"
                if key in tensors:
                    s = tensors[key]
                else:
                    with safe_open(src / index[key], "pt") as other:
                        s = other.get_tensor(key)
                w = dequantise(w, s)
            if what != "fp8-bf16" and linear(name) and "kv_b_proj" not in name:
                int8(name, w, out)
            else:
                out[name] = w.contiguous()
        save_file(out, dst / f, metadata={"format": "pt"})
        written.update({name: f for name in out})
    (dst / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": written}))
    for f in dst.iterdir():
        with open(f, "rb+") as h:  # on disk, as ours is
            import os
            os.fsync(h.fileno())


def llm_compressor():
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(src, dtype="auto")
    oneshot(model=model, recipe=QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"]))
    model.save_pretrained(dst, save_compressed=True)


{"llm-compressor": llm_compressor}.get(what, torch_conversion)()
