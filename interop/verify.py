"""The gate between the reference engine, vLLM's CPU build and llama.cpp on the same weights: honest deployments pass,
planted faults fail, and so does a real one. Gateways that swallow what the gate needs are recognised.

usage: verify.py TARBERT --env VENV [--node NODE_MODULES] [--llama-cpp TREE] [--seed S] [--only NAME,…]

The real fault: vLLM 0.32 on a CPU serves deepseek_v3 wrong with its default operations: the kernel of the interleaved
rotary embedding. Every answer is healthy, position 0 exact, and every later position off.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import secrets
import shutil
import subprocess
import sys
import threading

import torch

import texts
import tiny
from checks import Checks, Server, Skip, Tarbert, end_on_signals, free_port, output, scratch, tail

HERE = pathlib.Path(__file__).parent
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
                    "TOKENIZERS_PARALLELISM": "false"}
CONTEXT = 512
MODELS = {
    "qwen3": {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
              "max_position_embeddings": CONTEXT, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
              "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    # vLLM's MLA kernel for CPUs wants 512+64 latent dimensions.
    "deepseek_v3": {"hidden_size": 128, "intermediate_size": 192, "moe_intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                    "num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 3, "n_shared_experts": 1,
                    "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "q_lora_rank": 48, "kv_lora_rank": 512,
                    "qk_nope_head_dim": 64, "qk_rope_head_dim": 64, "v_head_dim": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": CONTEXT,
                    "num_mtp_layers": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}
QUICK = ["--count", 48, "--max-tokens", 48, "--long", 300]
PREFIXES = ["--count", 20, "--max-tokens", 16, "--long", 32, "--stages", "contract,prefill,reverse"]  # one request for each token
NEAR_TIES = ["--margin-top1", 0.9]  # random weights have them: the floor's own top-1 agreement is about 98 %
QUANTISED = ["--margin-typical", 60, "--margin-ratio", 60, "--margin-kl", 0.05, "--margin-nll", 0.05, "--margin-top1", 0.8]  # what 8 bits may cost
ROTARY = ["--compilation-config", '{"custom_ops":["-rotary_embedding"]}']


class Bench:
    def __init__(self, tarbert, env, node, llama_cpp, seed, tmp):
        self.tarbert, self.env, self.node, self.llama_cpp, self.tmp = tarbert, env, node, llama_cpp, tmp
        self.rows, self.lock = [], threading.Lock()
        rng = random.Random(seed)
        tok = texts.train("qwen", 480, rng)
        template = (HERE.parent / "internal/reference/tokenizer/testdata/qwen/chat_template.jinja").read_text()
        self.dirs = {}
        for family, shape in MODELS.items():
            config = shape | {"vocab_size": 512, "bos_token_id": None, "eos_token_id": tok.token_to_id("<|im_end|>")}
            self.dirs[family] = tmp / family
            tiny.write(tiny.build(family, config, rng.getrandbits(32)), self.dirs[family], "bfloat16", "published")
            texts.save(tok, "qwen", self.dirs[family], template)
        self.dirs["qwen3 rope"] = self.edited("qwen3", rope_theta=10000.0)

    def edited(self, family, **fields):
        """The same weights with other fields in config.json: a planted fault."""
        to = self.tmp / f"{family}-{'-'.join(fields)}"
        shutil.copytree(self.dirs[family], to)
        config = json.loads((to / "config.json").read_text())
        (to / "config.json").write_text(json.dumps(config | fields))
        return to

    def converted(self, family, form):
        to = self.tmp / f"{family}-{form}"
        if not to.exists():
            self.tarbert.run("convert", self.dirs[family], to, "--to", form)
        return to

    def vllm(self, directory, *flags):
        port = free_port()
        command = [self.env / "bin/vllm", "serve", directory, "--host", "127.0.0.1", "--port", port, "--max-model-len", CONTEXT,
                   "--served-model-name", "tiny", "--enforce-eager", *flags]
        return Server(command, f"http://127.0.0.1:{port}", 400, self.tmp / f"vllm-{port}.log", env=ENV, cwd=self.tmp)

    def gguf(self, directory, form="f32"):
        file = self.tmp / f"{pathlib.Path(directory).name}-{form}.gguf"
        if not self.llama_cpp or not self.node or not shutil.which("node"):
            raise Skip("node, node-llama-cpp or llama.cpp's converter is not installed here")
        if form == "f32":
            output([self.env / "bin/python", HERE / "llama_gguf.py", self.llama_cpp, f"{file}={directory}"], 300, env=ENV)
        else:
            with contextlib.ExitStack() as stack:
                to = stack.enter_context(scratch()) / "out"
                self.tarbert.run("convert", directory, to, "--to", form)
                (made,) = to.glob("*.gguf")
                shutil.copy(made, file)
        return file

    def llama(self, file):
        port = free_port()
        return Server(["node", HERE / "llama_server.mjs", self.node, file, port], f"http://127.0.0.1:{port}", 60, self.tmp / f"llama-{port}.log", env=ENV)

    def verify(self, reference, candidate, *flags):
        """The report, whatever its verdict."""
        command = [str(x) for x in (self.tarbert.path, "--home", self.tmp / f"home-{secrets.token_hex(4)}", "--json", "verify", "--reference", reference,
                                    "--candidate", candidate, *flags)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=580)
        if done.returncode not in (0, 1) or not done.stdout:
            raise RuntimeError(f"exit {done.returncode}: {tail(done.stderr)}")
        report = json.loads(done.stdout)
        if (report["gate"]["verdict"] == "pass") != (done.returncode == 0):
            raise AssertionError(f"exit {done.returncode} with verdict {report['gate']['verdict']}")
        return report

    def judge(self, name, want, reference, candidate, *flags, cause=None, reason=None):
        r = self.verify(reference, candidate, *flags)
        verdict, causes = r["gate"]["verdict"], [c["name"] for c in r.get("causes") or []]
        failed = [c["name"] for c in r["gate"]["checks"] if c["verdict"] != "pass"]
        cost = r.get("cost") or []
        figures = {"name": name, "verdict": verdict, "typical": (r.get("typical") or {}).get("value"), "ratio": (r.get("ratio") or {}).get("value"),
                   "kl": r["kl"]["value"], "prompts": r["prompts"], "tokens": sum(c["scored_tokens"] + c["generated_tokens"] for c in cost),
                   "seconds": sum(c["seconds"] for c in cost), "cause": causes[0] if causes else ""}
        with self.lock:
            self.rows.append(figures)
        if verdict != want:
            raise AssertionError(f"{verdict}, not {want}: {r['gate']['reason']}; {r.get('failure', '')} {failed}; {r['signature']}; causes {causes}")
        if cause and (not causes or cause not in causes[0]):
            raise AssertionError(f"the first cause named is not {cause!r}: {causes}; {r['signature']}")
        if reason and reason not in json.dumps(r["gate"]) + r.get("failure", ""):
            raise AssertionError(f"the reason does not say {reason!r}: {r['gate']['reason']} {r.get('failure', '')}")
        text = f"{verdict}, KL {r['kl']['value']:.2g}"
        if r.get("typical"):
            text += f", {r['typical']['value']:.3g} × the floor typically, {r['ratio']['value']:.3g} × in the mean"
        if causes:
            text += f"; first cause: {causes[0]}"
        return text + (f"; {r['failure']}" if r.get("failure") else "")

    def print_table(self):
        print(f"\n{'candidate':<52} {'verdict':<13} {'typical':>9} {'mean':>9} {'KL':>9} {'prompts':>7} {'tokens':>7} {'seconds':>7}")
        number = lambda x: "–" if x is None else f"{x:.3g}"
        for r in self.rows:
            print(f"{r['name']:<52} {r['verdict']:<13} {number(r['typical']):>9} {number(r['ratio']):>9} {number(r['kl']):>9} {r['prompts']:>7} {r['tokens']:>7} {r['seconds']:>7.1f}")
        print("typical and mean are multiples of the floor (the reference in bf16 against itself in f32); seconds with the engines running\n")


def vllm_cases(bench):
    """name, directory, engine flags, wanted verdict, first cause, gate flags. Each is one start of vLLM."""
    qwen, deepseek = bench.dirs["qwen3"], bench.dirs["deepseek_v3"]
    return [
        ("vLLM, deepseek_v3, float32, default operations", deepseek, ["--dtype", "float32"], deepseek, "fail", "rotary embedding", QUICK),
        ("vLLM, deepseek_v3, float32, no rotary kernel", deepseek, ["--dtype", "float32", *ROTARY], deepseek, "pass", None, QUICK),
        ("vLLM, qwen3, float32", qwen, ["--dtype", "float32"], qwen, "pass", None, QUICK),
        ("vLLM, qwen3, bfloat16", qwen, ["--dtype", "bfloat16"], qwen, "pass", None, [*QUICK, *NEAR_TIES]),
        ("vLLM, qwen3, bfloat16, rope_theta 1e6 read as 1e4", bench.dirs["qwen3 rope"], ["--dtype", "bfloat16"], qwen, "fail", "positions", QUICK),
        ("vLLM, qwen3, compressed-tensors W8A8", bench.converted("qwen3", "w8a8-compressed"), ["--dtype", "float32"], qwen, "pass", None, [*QUICK, *QUANTISED]),
    ]


def run_vllm(bench, checks, cases):
    """Two at a time: a start takes a minute of imports and 4 GB."""
    for pair in (cases[i:i + 2] for i in range(0, len(cases), 2)):
        with contextlib.ExitStack() as stack:
            servers = [stack.enter_context(bench.vllm(c[1], *c[2])) for c in pair]
            for (name, _, _, reference, want, cause, flags), server in zip(pair, servers):
                checks.run(name, lambda: bench.judge(name, want, reference, server.ready().url, *flags, cause=cause))


def run_llama(bench, checks):
    qwen = bench.dirs["qwen3"]
    for name, directory, form, want, cause, flags in [
        ("llama.cpp, qwen3, float32", qwen, "f32", "pass", None, PREFIXES),
        ("llama.cpp, qwen3, Q8_0", qwen, "gguf-q8_0", "pass", None, [*PREFIXES, *QUANTISED]),
        ("llama.cpp, qwen3, float32, rope_theta 1e6 read as 1e4", bench.dirs["qwen3 rope"], "f32", "fail", "positions", PREFIXES),
    ]:
        def one():
            with bench.llama(bench.gguf(directory, form)) as server:
                return bench.judge(name, want, qwen, server.ready().url, *flags, cause=cause)
        checks.run(name, one)


def run_gateways(bench, checks):
    """What stands in between, before our own server."""
    qwen = bench.dirs["qwen3"]
    with bench.tarbert.serve(qwen, bench.tmp / "ours.log") as ours:
        url = ours.ready().url
        port = free_port()
        router = [bench.env / "bin/vllm-router", "--worker-urls", url, "--host", "127.0.0.1", "--port", port, "--policy", "round_robin"]

        def behind_router():
            if not router[0].exists():
                raise Skip("vllm-router is not installed here")
            with Server(router, f"http://127.0.0.1:{port}", 60, bench.tmp / "router.log", env=ENV) as s:
                return bench.judge("vllm-router before our server", "pass", qwen, s.ready().url, *QUICK)
        checks.run("vllm-router before our server", behind_router)

        def behind_portkey():
            start = bench.node / "@portkey-ai/gateway/build/start-server.js" if bench.node else None
            if not start or not start.exists():
                raise Skip("Portkey's gateway is not installed here")
            port = free_port()
            with Server(["node", start, f"--port={port}", "--headless"], f"http://127.0.0.1:{port}", 60, bench.tmp / "portkey.log", env=ENV) as s:
                wait_for(s.url + "/")
                return bench.judge("Portkey before our server", "inconclusive", qwen, s.url, *QUICK, "--model", "tiny", "--tokenizer", qwen,
                                   "--candidate-header", "x-portkey-provider: openai", "--candidate-header", f"x-portkey-custom-host: {url}/v1",
                                   "--candidate-header", "Authorization: Bearer none", reason="Portkey")
        checks.run("Portkey before our server", behind_portkey)

        gateways = bench.env.parent / "gateways/bin"

        def behind_sglang_router():
            if not (gateways / "smg").exists():
                raise Skip("sglang-router is not installed here")
            port = free_port()
            command = [gateways / "smg", "launch", "--worker-urls", url, "--host", "127.0.0.1", "--port", port, "--prometheus-port", free_port()]
            with Server(command, f"http://127.0.0.1:{port}", 60, bench.tmp / "smg.log", env=ENV) as s:
                wait_for(s.url + "/health")
                return bench.judge("sglang-router before our server", "inconclusive", qwen, s.url, *QUICK, "--model", "tiny", "--tokenizer", qwen, reason="token-id prompts")
        checks.run("sglang-router before our server", behind_sglang_router)

        def behind_litellm():
            if not (gateways / "litellm").exists():
                raise Skip("LiteLLM is not installed here")
            port = free_port()
            config = bench.tmp / "litellm.yaml"
            config.write_text(json.dumps({"model_list": [{"model_name": "tiny", "litellm_params": {"model": "hosted_vllm/tiny", "api_base": f"{url}/v1", "api_key": "none"}}]}))
            env = {**ENV, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": "sk-" + secrets.token_hex(16), "PATH": f"{gateways}:{os.environ['PATH']}"}
            with Server([gateways / "litellm", "--config", config, "--host", "127.0.0.1", "--port", port], f"http://127.0.0.1:{port}", 120, bench.tmp / "litellm.log", env=env) as s:
                wait_for(s.url + "/health/liveliness", 120)
                return bench.judge("LiteLLM before our server", "inconclusive", qwen, s.url, *QUICK, "--model", "tiny", "--tokenizer", qwen,
                                   "--candidate-header", f"Authorization: Bearer {env['LITELLM_MASTER_KEY']}", reason="LiteLLM")
        checks.run("LiteLLM before our server", behind_litellm)


def wait_for(url, seconds=60):
    import time
    import urllib.error
    import urllib.request
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tarbert")
    args.add_argument("--env", type=pathlib.Path, required=True)
    args.add_argument("--node", type=pathlib.Path)
    args.add_argument("--llama-cpp", type=pathlib.Path)
    args.add_argument("--seed", type=int, default=secrets.randbits(32))
    args.add_argument("--only", default="vllm,llama,gateways", help="parts, or text in a vLLM case's name")
    args = args.parse_args()
    end_on_signals()
    torch.set_num_threads(1)
    print(f"the gate on real engines, seed {args.seed}", flush=True)
    checks = Checks()
    with scratch() as tmp:
        bench = Bench(Tarbert(args.tarbert), args.env.resolve(), args.node and args.node.resolve(), args.llama_cpp and args.llama_cpp.resolve(), args.seed, tmp)
        parts = args.only.split(",")
        if "gateways" in parts:
            run_gateways(bench, checks)
        if "llama" in parts:
            run_llama(bench, checks)
        cases = [c for c in vllm_cases(bench) if "vllm" in parts or any(p in c[0] for p in parts)]
        run_vllm(bench, checks, cases)
        bench.print_table()
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
