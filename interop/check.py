"""Our files and endpoints, judged by other people's programs.

usage: check.py TARBERT HOME      (HOME holds a released examples/sums)

Every check prints one line; the last line counts them.
"""

import json
import pathlib
import shutil
import subprocess
import sys

from checks import Checks, Tarbert, end_on_signals, scratch

TARBERT, HOME = Tarbert(sys.argv[1]), pathlib.Path(sys.argv[2]).resolve()
CHECKS = Checks()
end_on_signals()


def check(name):
    """Runs the function at once, as a check of that name."""

    def wrap(f):
        CHECKS.run(name, f)
        return f

    return wrap


SHOW = json.loads(TARBERT.run("--home", HOME, "--json", "release", "show", "sums-1"))
MODELS = {m["name"]: pathlib.Path(HOME, m["path"]) for m in SHOW["models"]}
RELEASED, CHECKPOINT = MODELS["released"], MODELS["checkpoint"]


@check("model_signing verifies the released model")
def _():
    signature, key = pathlib.Path(HOME, SHOW["model_signature"]), pathlib.Path(HOME, SHOW["public_key"])
    cmd = [str(pathlib.Path(sys.executable).parent / "model_signing"), "verify", "key",
           "--public_key", str(key), "--signature", str(signature)]
    subprocess.run([*cmd, str(RELEASED)], check=True, capture_output=True, timeout=120)
    with scratch() as tmp:
        copy = tmp / "model"
        shutil.copytree(RELEASED, copy)
        victim = next(copy.glob("*.safetensors"))
        victim.chmod(0o644)
        data = bytearray(victim.read_bytes())
        data[-1] ^= 1
        victim.write_bytes(data)
        if subprocess.run([*cmd, str(copy)], capture_output=True, timeout=120).returncode == 0:
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
    with scratch() as tmp, TARBERT.serve(RELEASED, tmp / "log", "sums", "w8a8") as server:
        client = openai.OpenAI(base_url=server.ready().url + "/v1", api_key="none", timeout=60)
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
def _():
    from transformers import AutoTokenizer
    tok = AutoTokenizer.from_pretrained(RELEASED)
    texts = ["12+345=", "<think>7+8+0=15;</think>357", "naïve ☃ 数", "<|eos|>", ""]
    ours = [x["tokens"] for x in TARBERT.tokenize(RELEASED, [{"id": str(i), "text": t} for i, t in enumerate(texts)])]
    theirs = [tok(t, add_special_tokens=False)["input_ids"] for t in texts]
    assert ours == theirs, (ours, theirs)
    return f"{len(texts)} texts, ids equal"


@check("transformers computes the checkpoint's log-probabilities as we do")
def _():
    import torch
    from transformers import AutoModelForCausalLM
    model = AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32, attn_implementation="eager").eval()
    texts = ["12+345=", "999+999=<think>9+9+0=18;9+9+1=19;9+9+1=19</think>1998", "70+8="]
    prompts = [x["tokens"] for x in TARBERT.tokenize(CHECKPOINT, [{"id": str(i), "text": t} for i, t in enumerate(texts)])]
    ours = [logprobs for logprobs, _ in TARBERT.score(CHECKPOINT, prompts, top=1)]
    worst = 0.0
    for tokens, mine in zip(prompts, ours):
        with torch.no_grad():
            logp = model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        for t in range(1, len(tokens)):
            worst = max(worst, abs(logp[t - 1, tokens[t]].item() - mine[t]))
    assert worst <= 2e-4, worst
    return f"max |Δ log p| {worst:.2e} over {sum(map(len, prompts))} tokens"


sys.exit(CHECKS.finish())
