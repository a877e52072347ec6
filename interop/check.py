"""Our files and endpoints, judged by other people's programs.

usage: check.py TARBERT HOME      (HOME holds a released examples/sums)

Every check prints one line; the last line counts them. A check that was not
run says why and is counted as skipped, never as passed.
"""

import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

TARBERT, HOME = sys.argv[1], pathlib.Path(sys.argv[2]).resolve()
ENGINES = os.environ.get("TARBERT_ENGINES") == "yes"
results = {"passed": 0, "failed": 0, "skipped": 0}


def check(name):
    def wrap(f):
        if getattr(f, "needs_engines", False) and not ENGINES:
            results["skipped"] += 1
            print(f"skip  {name}: PyTorch and transformers are not installed here")
            return f
        try:
            detail = f()
        except Exception as e:  # one broken check must not hide the others
            results["failed"] += 1
            print(f"FAIL  {name}: {type(e).__name__}: {e}")
            return f
        results["passed"] += 1
        print(f"ok    {name}: {detail}")
        return f

    return wrap


def engines(f):
    f.needs_engines = True
    return f


def tarbert(*args, **kw):
    return subprocess.run([TARBERT, "--home", str(HOME), *map(str, args)], check=True, capture_output=True, text=True, **kw)


SHOW = json.loads(tarbert("--json", "release", "show", "sums-1").stdout)
MODELS = {m["name"]: pathlib.Path(HOME, m["path"]) for m in SHOW["models"]}
RELEASED, CHECKPOINT = MODELS["released"], MODELS["checkpoint"]


@contextlib.contextmanager
def serving(model, precision):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p = subprocess.Popen([TARBERT, "serve", str(model), "--precision", precision, "--addr", f"127.0.0.1:{port}", "--name", "sums"],
                         stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(url + "/health", timeout=1)
                break
            if p.poll() is not None:
                raise RuntimeError(p.stderr.read().decode())
            time.sleep(0.05)
        yield url
    finally:
        p.terminate()
        p.wait(10)


@check("model_signing verifies the released model")
def _():
    signature, key = pathlib.Path(HOME, SHOW["model_signature"]), pathlib.Path(HOME, SHOW["public_key"])
    cmd = [str(pathlib.Path(sys.executable).parent / "model_signing"), "verify", "key",
           "--public_key", str(key), "--signature", str(signature)]
    subprocess.run([*cmd, str(RELEASED)], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as tmp:
        copy = pathlib.Path(tmp, "model")
        shutil.copytree(RELEASED, copy)
        victim = next(copy.glob("*.safetensors"))
        victim.chmod(0o644)
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
        if subprocess.run([*cmd, str(copy)], capture_output=True).returncode == 0:
            raise AssertionError("it also accepts the model with one bit changed")
    return "accepted as released, refused with one bit changed"


@check("safetensors reads every file of the release")
def _():
    from safetensors import safe_open
    count = files = 0
    for directory in MODELS.values():
        for path in sorted(directory.glob("*.safetensors")):
            with safe_open(path, framework="numpy") as f:
                count += len(list(f.keys()))
                files += 1
    return f"{count} tensors in {files} files"


@check("OpenAI's SDK completes, chats, streams and reads prompt_logprobs")
def _():
    import openai
    with serving(RELEASED, "w8a8") as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key="none")
        name = client.models.list().data[0].id
        done = client.completions.create(model=name, prompt="12+34=", max_tokens=48, temperature=0,
                                         extra_body={"prompt_logprobs": 5, "return_token_ids": True})
        entry = done.choices[0].prompt_logprobs
        assert entry[0] is None and all(len(e) >= 5 for e in entry[1:]), entry
        chat = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "12+34="}], max_tokens=48, temperature=0)
        pieces = [c.choices[0].delta.content or "" for c in client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "12+34="}], max_tokens=48, temperature=0, stream=True) if c.choices]
        assert "".join(pieces) == chat.choices[0].message.content, (pieces, chat)
        try:
            client.completions.create(model="nobody", prompt="1")
            raise AssertionError("an unknown model was served")
        except openai.NotFoundError:
            pass
        return f"answer to 12+34=: {done.choices[0].text!r}"


@check("tokenizers and transformers read our tokenizer as we do")
@engines
def _():
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(RELEASED)
    texts = ["12+345=", "<think>7+8+0=15;</think>357", "naïve ☃ 数", "<|eos|>", ""]
    lines = "".join(json.dumps({"id": str(i), "text": t}) + "\n" for i, t in enumerate(texts))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        f.write(lines)
        f.flush()
        ours = [json.loads(x)["tokens"] for x in tarbert("tokenize", RELEASED, "--input", f.name).stdout.splitlines()]
    theirs = [tok(t, add_special_tokens=False)["input_ids"] for t in texts]
    assert ours == theirs, (ours, theirs)
    return f"{len(texts)} texts, ids equal"


@check("transformers computes the checkpoint's log-probabilities as we do")
@engines
def _():
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32, attn_implementation="eager").eval()
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        prompts = []
        for i, text in enumerate(["12+345=", "999+999=<think>9+9+0=18;9+9+1=19;9+9+1=19</think>1998", "70+8="]):
            f.write(json.dumps({"id": str(i), "text": text}) + "\n")
        f.flush()
        prompts = [json.loads(x)["tokens"] for x in tarbert("tokenize", CHECKPOINT, "--input", f.name).stdout.splitlines()]
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as f:
        for i, p in enumerate(prompts):
            f.write(json.dumps({"id": str(i), "tokens": p}) + "\n")
        f.flush()
        ours = [json.loads(x)["logprobs"] for x in tarbert("score", CHECKPOINT, "--tokens", f.name, "--precision", "f32").stdout.splitlines()]
    worst = 0.0
    for tokens, mine in zip(prompts, ours):
        with torch.no_grad():
            logp = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for t in range(1, len(tokens)):
            worst = max(worst, abs(logp[t - 1, tokens[t]].item() - mine[t]))
    assert worst <= 2e-4, worst
    return f"max |Δ log p| {worst:.2e} over {sum(map(len, prompts))} tokens"


print(f"{results['passed']} passed, {results['failed']} failed, {results['skipped']} skipped")
sys.exit(1 if results["failed"] else 0)
