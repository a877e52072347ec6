"""The same weights through vLLM, llama.cpp, transformers and ours, in float32;
evaluation and load clients against our server and vLLM's.

usage: engines.py TARBERT --env VENV [--node NODE_MODULES] [--llama-cpp TREE] [--seed S]

VENV, NODE_MODULES and TREE are what interop/setup installs. A part that is not there is skipped by name.
vLLM starts slowly, so it starts first and is asked last.
"""

import argparse
import json
import math
import os
import pathlib
import random
import secrets
import shutil
import subprocess
import sys

import torch

import texts
import tiny
from checks import Checks, Server, Skip, Tarbert, end_on_signals, equal, free_port, output, post, scratch, tail
from golden import NEAR_TIE, STEPS, TOLERANCE, TOP, Expected

HERE = pathlib.Path(__file__).parent
ENV = os.environ | {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1",
                    "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
LENGTHS = (2, 5, 17, 64, 200)  # of the scored sequences
PROMPTS = 3                    # of them continued greedily
# Shapes that every engine takes: vLLM's CPU attention wants heads of 32 or 64.
QWEN = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
SHAPES = {
    "qwen3": QWEN | {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "qwen3_moe": QWEN | {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True, "decoder_sparse_step": 1,
                         "mlp_only_layers": [], "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
    "deepseek_v3": {"hidden_size": 128, "intermediate_size": 192, "moe_intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
                    "num_key_value_heads": 4, "n_routed_experts": 8, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 3, "n_shared_experts": 1,
                    "first_k_dense_replace": 1, "norm_topk_prob": True, "routed_scaling_factor": 2.5, "q_lora_rank": 48, "kv_lora_rank": 64,
                    "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64, "rms_norm_eps": 1e-6, "max_position_embeddings": 512,
                    "num_mtp_layers": 0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
}


class Bench:
    """The models, what transformers computes of them, and the tools."""

    def __init__(self, tarbert, env, node, llama_cpp, seed, tmp):
        self.tarbert, self.env, self.node, self.llama_cpp, self.tmp = tarbert, env, node, llama_cpp, tmp
        self.rng = random.Random(seed)
        self.dirs, self.expected, self.table = {}, {}, {}
        tok = texts.train("qwen", 480, self.rng)
        template = (HERE.parent / "internal/reference/tokenizer/testdata/qwen/chat_template.jinja").read_text()
        for family, shape in SHAPES.items():
            config = shape | {"vocab_size": 512, "bos_token_id": None, "eos_token_id": tok.token_to_id("<|im_end|>")}
            self.dirs[family] = tmp / family
            tiny.write(tiny.build(family, config, self.rng.getrandbits(32)), self.dirs[family], "bfloat16", "published")
            self.fast = texts.save(tok, "qwen", self.dirs[family], template)
            self.expected[family] = self.draw(tiny.load(self.dirs[family]))
        self.ours = {f: tarbert.score(d, self.sequences(f), TOP) for f, d in self.dirs.items()}

    def draw(self, model):
        """Prompts in which routing is decided."""
        made = []
        for length in LENGTHS:
            for _ in range(50):
                e = Expected(model, [self.rng.randrange(512) for _ in range(length)])
                if e.routing >= 1e-5:
                    break
            else:
                raise AssertionError("no prompt without a routing tie in 50 draws")
            made.append(e)
        return made

    def sequences(self, family):
        return [e.tokens for e in self.expected[family]]

    def job(self, **extra):
        """What vllm_score.py and llama.mjs read."""
        return {"top": TOP, "steps": STEPS, "models": {
            f: {"sequences": self.sequences(f), "prompts": [e.prompt for e in self.expected[f][:PROMPTS]]} | {k: v[f] for k, v in extra.items()}
            for f in self.dirs}}

    def compare(self, engine, family, result):
        """Holds our scores against an engine's, and its greedy continuations against transformers'."""
        worst = 0.0
        for (logprobs, top), actual, scores in zip(self.ours[family], result["actual"], result["scores"], strict=True):
            if len(actual) != len(logprobs):
                raise AssertionError(f"{len(actual)} positions, ours has {len(logprobs)}")
            for t in range(1, len(logprobs)):
                theirs = {int(i): p for i, p in scores[t].items()}
                gaps = [abs(logprobs[t] - actual[t])]
                gaps += [abs(p - theirs[i]) for i, p in top[t] if i in theirs]
                gaps += [abs(p - q) for (_, p), q in zip(top[t], sorted(theirs.values(), reverse=True))]
                if not max(gaps) <= math.inf or any(math.isnan(g) for g in gaps):
                    raise AssertionError(f"position {t}: not a number")
                worst = max(worst, *gaps)
        decided = equal_steps = 0
        for e, got in zip(self.expected[family], result["greedy"]):
            n = e.decided()
            decided += n
            equal_steps += sum(a == b for a, b in zip(got[:n], e.tokens[len(e.prompt):][:n]))
        positions = sum(len(s) - 1 for s in self.sequences(family))
        self.table[family, engine] = (worst, positions, equal_steps, decided)
        if worst > TOLERANCE or equal_steps < decided:
            raise AssertionError(f"max |Δ log p| {worst:.3g} over {positions} positions; greedy equal in {equal_steps} of {decided} steps")
        return f"max |Δ log p| {worst:.1e} over {positions} positions × {TOP + 1}; greedy equal in {equal_steps} of {decided} steps"

    def transformers(self, family):
        """transformers' scores, and our server's continuations, which the table's first rows show."""
        result = {"actual": [], "scores": []}
        for e in self.expected[family]:
            best = e.logp.topk(TOP)
            result["actual"].append([None] + [e.logp[t - 1, e.tokens[t]].item() for t in range(1, len(e.tokens))])
            result["scores"].append([None] + [dict(zip(best.indices[t].tolist(), best.values[t].tolist())) for t in range(len(e.tokens) - 1)])
        with self.tarbert.serve(self.dirs[family], self.tmp / "greedy.log") as server:
            result["greedy"] = continuations(server.ready().url, [e.prompt for e in self.expected[family]])
        return self.compare("transformers", family, result)

    def llama(self):
        """Converts and runs all models in llama.cpp; one result per family."""
        if not self.node or not self.llama_cpp or not shutil.which("node"):
            raise Skip("node, node-llama-cpp or llama.cpp's converter is not installed here")
        files = {f: str(self.tmp / f"{f}.gguf") for f in self.dirs}
        output([self.env / "bin/python", HERE / "llama_gguf.py", self.llama_cpp, *(f"{files[f]}={d}" for f, d in self.dirs.items())], 300, env=ENV)
        (self.tmp / "llama-job.json").write_text(json.dumps(self.job(gguf=files)))
        output(["node", HERE / "llama.mjs", self.node, self.tmp / "llama-job.json", self.tmp / "llama-out.json"], 300)
        return json.loads((self.tmp / "llama-out.json").read_text())

    def print_table(self):
        print(f"\n{'model':<12} {'against':<13} {'max |Δ log p|':>13} {'positions':>9}   greedy")
        for (family, engine), (worst, positions, same, decided) in self.table.items():
            print(f"{family:<12} {engine:<13} {worst:>13.1e} {positions:>9}   {same} of {decided} steps equal")
        print(f"every position compares the token and the {TOP} likeliest; greedy stops at a near-tie (< {NEAR_TIE:g})\n")


def continuations(url, prompts):
    """Greedy continuations over HTTP, all prompts in one request."""
    answer = post(url + "/v1/completions", {"model": "tiny", "prompt": prompts, "max_tokens": STEPS, "temperature": 0,
                                            "ignore_eos": True, "return_token_ids": True}, 120)
    return [c["token_ids"] for c in sorted(answer["choices"], key=lambda c: c["index"])]


def wire(bench, url, reference):
    """prompt_logprobs over HTTP: the same ids, ranks and decoded tokens as vLLM's."""
    sequences = bench.sequences("qwen3")
    body = {"model": "tiny", "prompt": sequences, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 5}
    ours, theirs = (sorted(post(u + "/v1/completions", body)["choices"], key=lambda c: c["index"]) for u in (url, reference))
    entries = ties = 0
    for a, b in zip(ours, theirs, strict=True):
        for t, (x, y) in enumerate(zip(a["prompt_logprobs"], b["prompt_logprobs"], strict=True)):
            if x is None or y is None:
                equal("a first entry", x, y)
                continue
            values = sorted((e["logprob"] for e in y.values()), reverse=True)
            if min((p - q for p, q in zip(values, values[1:])), default=1) < NEAR_TIE or x.keys() != y.keys():
                ties += 1  # ranks, or the last of the likeliest, may be either way round
                continue
            for token, e in y.items():
                if x[token]["decoded_token"] != e["decoded_token"] or x[token]["rank"] != e["rank"] or abs(x[token]["logprob"] - e["logprob"]) > TOLERANCE:
                    raise AssertionError(f"position {t}, token {token}: ours {x[token]}, vLLM's {e}")
                entries += 1
    if ties > entries / 20:
        raise AssertionError(f"{ties} positions differ in ids or are near-ties, {entries} entries compared")
    return f"{entries} entries equal in id, rank and decoded token; {ties} positions with a near-tie left out"


def tokenizing(bench, url, reference):
    """/tokenize and /detokenize: the same answers as vLLM's, to texts and to conversations."""
    plain, chats = 0, 0
    for i in range(60):
        text = texts.text(bench.rng)
        body = {"model": "tiny", "prompt": text, "add_special_tokens": i % 2 == 0, "return_token_strs": i % 3 == 0}
        ours, theirs = (post(u + "/tokenize", body) for u in (url, reference))
        if ours != theirs:
            raise AssertionError(f"/tokenize of {body}: ours {ours}, vLLM's {theirs}")
        if theirs["tokens"]:
            body = {"model": "tiny", "tokens": theirs["tokens"]}
            equal(f"/detokenize of {body}", *(post(u + "/detokenize", body)["prompt"] for u in (url, reference)))
        plain += 1
    for _ in range(30):
        messages = [{"role": role, "content": texts.text(bench.rng)} for role in ("system", "user", "assistant", "user")]
        body = {"model": "tiny", "messages": messages, "add_generation_prompt": True}
        ours, theirs = (post(u + "/tokenize", body) for u in (url, reference))
        if ours != theirs:
            raise AssertionError(f"/tokenize of {body}: ours {ours}, vLLM's {theirs}")
        chats += 1
    return f"{plain} texts and {chats} conversations answered alike"


def lm_eval(bench, url, name):
    """Scores and samples of one evaluation run."""
    work = bench.tmp / f"lm-{name}"
    shutil.copytree(HERE / "lmtask", work)
    arguments = f"model=tiny,base_url={url}/v1/completions,tokenizer={bench.dirs['qwen3']},tokenized_requests=True,num_concurrent=1,max_length=512"
    output([bench.env / "bin/lm_eval", "run", "--model", "local-completions", "--model_args", arguments, "--tasks", "tiny_mc,tiny_ppl,tiny_gen",
            "--include_path", work, "--output_path", work / "out", "--log_samples"], 300, env=ENV, cwd=work)
    (scores,) = (work / "out").rglob("results_*.json")
    samples = {}
    for path in (work / "out").rglob("samples_*.jsonl"):
        task = path.name.split("_2")[0].removeprefix("samples_")
        samples[task] = [json.loads(line) for line in path.read_text().split("\n") if line]
    return json.loads(scores.read_text())["results"], samples


def same_scores(bench, ours, theirs):
    """lm_eval's scores and every response behind them, ours against vLLM's."""
    (scores, samples), (their_scores, their_samples) = ours, theirs
    told = []
    for task in ("tiny_mc", "tiny_ppl", "tiny_gen"):
        for metric, value in scores[task].items():
            if isinstance(value, float):
                other = their_scores[task][metric]
                exact = task != "tiny_ppl"
                if not (value == other or not exact and math.isclose(value, other, rel_tol=1e-4) or math.isnan(value) and math.isnan(other)):
                    raise AssertionError(f"{task} {metric}: ours {value}, vLLM's {other}")
                told.append(f"{metric.split(',')[0]} {value:.4g}")
        for a, b in zip(sorted(samples[task], key=lambda s: s["doc_id"]), sorted(their_samples[task], key=lambda s: s["doc_id"]), strict=True):
            same_response(task, a, b)
    return f"{', '.join(t for t in told if 'stderr' not in t)}; {sum(map(len, samples.values()))} samples' responses equal"


def same_response(task, a, b):
    for x, y in zip(a["resps"], b["resps"], strict=True):
        x, y = x[0], y[0]
        if task == "tiny_gen":
            equal(f"generation {a['doc_id']}", x, y)
        elif task == "tiny_ppl":
            x, y = (float(v[0] if isinstance(v, list) else v) for v in (x, y))
            if not abs(x - y) <= 1e-3:
                raise AssertionError(f"rolling log-likelihood of {a['doc_id']}: ours {x}, vLLM's {y}")
        elif abs(float(x[0]) - float(y[0])) > 1e-3 or str(x[1]) != str(y[1]):
            raise AssertionError(f"choice of {a['doc_id']}: ours {x}, vLLM's {y}")


def vllm_bench(bench, url):
    n = 6
    output([bench.env / "bin/vllm", "bench", "serve", "--backend", "openai", "--dataset-name", "random", "--model", "tiny", "--tokenizer", bench.dirs["qwen3"],
            "--base-url", url, "--num-prompts", n, "--random-input-len", 32, "--random-output-len", 8, "--disable-tqdm",
            "--save-result", "--result-dir", bench.tmp, "--result-filename", "bench.json"], 300, env=ENV, cwd=bench.tmp)
    got = json.loads((bench.tmp / "bench.json").read_text())
    if got["completed"] != n or got.get("failed", 0) or got["total_output_tokens"] != n * 8:
        raise AssertionError(f"{got['completed']} of {n} completed, {got.get('failed')} failed, {got['total_output_tokens']} tokens")
    return f"{n} requests, {got['total_output_tokens']} tokens streamed, median TTFT {got['median_ttft_ms']:.0f} ms"


def guidellm(bench, url):
    n, report = 4, bench.tmp / "guide.json"
    output([bench.env / "bin/guidellm", "run", "--backend", f"kind=openai_http,target={url},model=tiny", "--profile", "kind=synchronous",
            "--constraint", f"kind=max_requests,count={n}", "--tokenizer", f"kind=hf_auto,model={bench.dirs['qwen3']}",
            "--data", "kind=synthetic_text,prompt_tokens=8,output_tokens=4", "--output", f"kind=json,path={report}", "--disable-console"],
           300, env=ENV, cwd=bench.tmp)
    (run,) = json.loads(report.read_text())["benchmarks"]
    done = run["requests"]
    if len(done["successful"]) != n or done["errored"]:
        raise AssertionError(f"{len(done['successful'])} of {n} successful, errors: {tail(json.dumps(done['errored']), 500)}")
    return f"{n} chats streamed, none failed"


def published_templates(bench):
    """Chat templates as published, which llama.cpp's tree collects: Qwen's and DeepSeek's."""
    if not bench.llama_cpp:
        raise Skip("llama.cpp's tree is not installed here")
    directory = bench.tmp / "template"
    shutil.copytree(bench.dirs["qwen3"], directory, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    names, compared, refused = [], 0, 0
    for path in sorted((bench.llama_cpp / "models/templates").glob("*.jinja")):
        if not any(f in path.name.lower() for f in ("qwen", "qwq", "deepseek")):
            continue
        template = path.read_text()
        (directory / "chat_template.jinja").write_text(template)
        samples, wanted = [], []
        for _ in range(40):
            messages, options = texts.conversation(bench.rng)
            try:
                wanted.append(bench.fast.apply_chat_template(messages, chat_template=template, tokenize=False, **options))
                samples.append({"id": str(len(samples)), "messages": messages, "options": options})
            except Exception:  # the template refuses this conversation
                refused += 1
        for o, want in zip(bench.tarbert.tokenize(directory, samples), wanted, strict=True):
            equal(path.name, o["text"], want)
        names.append(path.stem)
        compared += len(samples)
    if len(names) < 5:
        raise AssertionError(f"only {names} found")
    return f"{len(names)} templates, {compared} conversations equal, {refused} that a template refuses left out"


def result_of(server, seconds, path):
    """What a background process wrote, once it has ended."""
    try:
        code = server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"not done after {seconds} s: {tail(server.text())}") from None
    if code:
        raise RuntimeError(f"exited with {code}: {tail(server.text())}")
    return json.loads(path.read_text())


def run(bench, checks):
    job, scores = bench.tmp / "vllm-job.json", bench.tmp / "vllm-out.json"
    whole = bench.job(dir={f: str(d) for f, d in bench.dirs.items()})
    del whole["models"]["qwen3"]  # that one is asked over HTTP
    job.write_text(json.dumps(whole))
    port = free_port()
    command = [bench.env / "bin/vllm", "serve", bench.dirs["qwen3"], "--host", "127.0.0.1", "--port", port, "--dtype", "float32", "--max-model-len", 512,
               "--served-model-name", "tiny", "--enforce-eager", "--max-logprobs", TOP]
    with (Server(command, f"http://127.0.0.1:{port}", 300, bench.tmp / "vllm.log", env=ENV, cwd=bench.tmp) as vllm,
          Server([bench.env / "bin/python", HERE / "vllm_score.py", job, scores], "", 300, bench.tmp / "score.log", env=ENV, cwd=bench.tmp) as scorer,
          bench.tarbert.serve(bench.dirs["qwen3"], bench.tmp / "ours.log") as ours):
        for family in SHAPES:
            checks.run(f"transformers, {family}", bench.transformers, family)
        against_llama(bench, checks)
        ours.ready()
        checks.run("published chat templates", published_templates, bench)
        mine = {}
        checks.run("lm_eval against our server", lambda: mine.update(run=lm_eval(bench, ours.url, "ours")) or "multiple choice, rolling, generate")
        checks.run("guidellm against our server", guidellm, bench, ours.url)
        for family in ("qwen3_moe", "deepseek_v3"):
            checks.run(f"vLLM, {family}", lambda f: bench.compare("vLLM", f, result_of(scorer, 300, scores)[f]), family)
        checks.run("vllm bench serve against our server", vllm_bench, bench, ours.url)
        checks.run("vLLM, qwen3, over HTTP", lambda: bench.compare("vLLM", "qwen3", over_http(bench, vllm.ready().url)))
        checks.run("prompt_logprobs on the wire, ours and vLLM's", lambda: wire(bench, ours.url, vllm.ready().url))
        checks.run("/tokenize and /detokenize, ours and vLLM's", tokenizing, bench, ours.url, vllm.url)
        checks.run("lm_eval's scores, ours and vLLM's", lambda: same_scores(bench, mine["run"], lm_eval(bench, vllm.ready().url, "vllm")))
    bench.print_table()


def against_llama(bench, checks):
    results = {}
    checks.run("llama.cpp converts and loads the models", lambda: results.update(bench.llama()) or f"{len(results)} GGUF files, float32")
    for family in SHAPES:
        checks.run(f"llama.cpp, {family}", lambda f: bench.compare("llama.cpp", f, results[f]) if results else skip("see above"), family)


def skip(why):
    raise Skip(why)


def over_http(bench, url):
    """vLLM's scores through its own API."""
    sequences, result = bench.sequences("qwen3"), {"scores": [], "actual": [], "greedy": []}
    answer = post(url + "/v1/completions", {"model": "tiny", "prompt": sequences, "max_tokens": 1, "temperature": 0, "prompt_logprobs": TOP}, 120)
    for s, c in zip(sequences, sorted(answer["choices"], key=lambda c: c["index"]), strict=True):
        result["scores"].append([p and {i: e["logprob"] for i, e in p.items()} for p in c["prompt_logprobs"]])
        result["actual"].append([p and p[str(i)]["logprob"] for i, p in zip(s, c["prompt_logprobs"])])
    result["greedy"] = continuations(url, [e.prompt for e in bench.expected["qwen3"][:PROMPTS]])
    return result


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("tarbert")
    args.add_argument("--env", type=pathlib.Path, required=True)
    args.add_argument("--node", type=pathlib.Path)
    args.add_argument("--llama-cpp", type=pathlib.Path)
    args.add_argument("--seed", type=int, default=secrets.randbits(32))
    args = args.parse_args()
    end_on_signals()
    torch.set_num_threads(1)
    print(f"real engines beside ours, seed {args.seed}", flush=True)
    checks = Checks()
    with scratch() as tmp:
        run(Bench(Tarbert(args.tarbert), args.env.resolve(), args.node, args.llama_cpp, args.seed, tmp), checks)
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
