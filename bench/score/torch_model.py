"""The work of main.go in PyTorch (transformers, its own attention and cache); prints one line of JSON.

usage: torch_model.py DIR float32|bfloat16 TOKENS PROMPT DECODE THREADS wall|cpu
"""

import json
import resource
import sys
import time

import torch
from transformers import AutoModelForCausalLM

folder, dtype = sys.argv[1], sys.argv[2]
tokens, prompt, decode, threads = map(int, sys.argv[3:7])
clock = time.process_time if sys.argv[7] == "cpu" else time.perf_counter
torch.set_num_threads(threads)
with torch.inference_mode():
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    vocab = model.config.vocab_size
    ids = torch.tensor([[i * 7919 % vocab for i in range(tokens)]])
    model(ids[:, :64])
    began = clock()
    hidden = model.model(ids).last_hidden_state[0, :-1]
    for part, wanted in zip(hidden.split(256), ids[0, 1:].split(256)):  # all logits at once would be 1.2 GB
        torch.log_softmax(model.lm_head(part).float(), -1).gather(1, wanted[:, None])
    score = clock() - began
    out = model(ids[:, :prompt], use_cache=True)
    began = clock()
    for i in range(decode):
        out = model(torch.tensor([[i * 7919 % vocab]]), past_key_values=out.past_key_values, use_cache=True)
    took = clock() - began
print(json.dumps({"score": tokens / score, "decode": decode / took,
                  "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
