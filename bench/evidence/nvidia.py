"""A real crossing: train on this machine's NVIDIA chip under supervision, kill the
trainer twice, bring the checkpoint to the CPU reference and judge the chip by it.

usage: nvidia.py TARBERT      (run by a Python that has torch and transformers 5)

Writes what it did, raw, into bench/evidence/nvidia/DATE: commands, the machine,
every event, the supervisor's report, scores and figures. Needs no network and no
Go, ten minutes at most. TARBERT_EVIDENCE_DEVICE=cpu and TARBERT_EVIDENCE_SIZE=tiny
prove the script where no chip is at hand; that writes to .../rehearsal instead and
is evidence of nothing but the script.
"""

import contextlib
import json
import math
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SUMS = ROOT / "examples" / "sums"
DEVICE, SIZE = os.environ.get("TARBERT_EVIDENCE_DEVICE", "cuda"), os.environ.get("TARBERT_EVIDENCE_SIZE", "full")
# Sizes: changes to the example's config, steps of SFT and GRPO, batch, rates, kills (after which step).
SIZES = {
    "full": ({"hidden_size": 384, "intermediate_size": 1536, "moe_intermediate_size": 384, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
              "kv_lora_rank": 128, "qk_nope_head_dim": 32, "qk_rope_head_dim": 16, "v_head_dim": 32, "initializer_range": 0.03}, 400, 20, 64, 1e-3, 2e-5, (150, 408), 100),
    "tiny": ({"hidden_size": 32, "intermediate_size": 64, "moe_intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
              "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}, 24, 3, 16, 3e-3, 1e-4, (10, 21), 8),
}
# The chip trains, this machine's processors judge and serve; in a rehearsal they do all of it.
POOLS = {True: "[{name: chip, vendor: nvidia, roles: [preferred]}, {name: host, vendor: cpu, roles: [reference, target]}]",
         False: "[{name: host, vendor: cpu, roles: [preferred, target]}]"}
SPEC = """name: crossing
pools: {pools}
label: {{annotations: {sums}/data/annotations.jsonl}}
plan: {{deadline: 24h}}
qualify: {{twin_steps: 4}}
train:
  trainer: torchrun
  model: model
  torchrun: {{python: {python}, device: {device}, precision: bfloat16, micro_tokens: 16384}}
  checkpoint: {{every: {every}}}
  sft: {{steps: {sft}, batch: {batch}, router_bias: 0.001, optimizer: {{learning_rate: {rate}, warmup: {warmup}, floor: 0.2, weight_decay: 0.01}}}}
  grpo: {{steps: {grpo}, problems: {sums}/data/problems.jsonl, prompts: 32, samples: 8, max_tokens: 48, optimizer: {{learning_rate: {rl}, warmup: 2}}}}
convert: {{formats: [bf16]}}
verify: {{margin: {{ratio: 20, delta_nll: 0.01, top1: 0.9}}}}
compare: {{problems: {sums}/data/held-out.jsonl, non_inferiority: 1, max_tokens: 48}}
serve: {{smoke: "1+1="}}
"""


class Evidence:
    """The folder that everything goes into, and the commands run."""

    def __init__(self, directory):
        self.dir, self.commands, self.began = directory, [], time.monotonic()
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(parents=True)

    def run(self, command, name, check=True, **kw):
        """Runs a command; its output is kept as NAME.out and NAME.err."""
        command = [str(c) for c in command]
        began = time.monotonic()
        print(f"[{began - self.began:4.0f} s] {' '.join(command)[:150]}", flush=True)
        done = subprocess.run(command, capture_output=True, timeout=500, **kw)
        self.note(command, time.monotonic() - began, done.returncode)
        (self.dir / f"{name}.out").write_bytes(done.stdout)
        if done.stderr:
            (self.dir / f"{name}.err").write_bytes(done.stderr)
        if check and done.returncode:
            raise RuntimeError(f"{command[0]} exited with {done.returncode}: {done.stderr.decode(errors='replace')[-1500:]}")
        return done

    def note(self, command, seconds, code):
        self.commands.append(f"{seconds:7.1f} s  exit {code}  {' '.join(command)}")
        (self.dir / "commands.txt").write_text("\n".join(self.commands) + "\n")

    def write(self, name, value):
        (self.dir / name).write_text(value if isinstance(value, str) else json.dumps(value, indent=1) + "\n")


def machine():
    import torch
    import transformers
    told = {"uname": " ".join(os.uname()), "cpus": os.cpu_count(), "torch": torch.__version__, "transformers": transformers.__version__, "cuda": torch.version.cuda,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none", "asked for": DEVICE, "size": SIZE}
    with contextlib.suppress(OSError):
        told["nvidia-smi"] = subprocess.run(["nvidia-smi"], capture_output=True, encoding="utf-8", timeout=30).stdout
    with contextlib.suppress(OSError):
        told["cpu"] = next(line.partition(":")[2].strip() for line in open("/proc/cpuinfo") if line.startswith("model name"))
    return told


def trainers(home):
    """Processes that run the harness of this home."""
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().split(b"\0")
                if any(a.startswith(str(home).encode()) and a.endswith(b"launch.py") for a in line):
                    yield int(entry.name)


def steps_of(home):
    out = {}
    for path in sorted(home.glob("releases/*/train-*/attempts/*.jsonl")):
        for line in path.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                e = json.loads(line)
                if e.get("event") in ("step", "mismatch"):
                    out.setdefault(e["step"], {}).update(e)
    return out


def train(e, tarbert, home, place, kills):
    """tarbert train, the trainer killed by SIGKILL after the given steps."""
    command = [str(c) for c in (tarbert, "--home", home, "--json", "train", place)]
    print(f"[{time.monotonic() - e.began:4.0f} s] {' '.join(command)}", flush=True)
    began, killed = time.monotonic(), []
    with open(e.dir / "train.out", "wb") as out, open(e.dir / "train.err", "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        try:
            while process.poll() is None:
                if time.monotonic() - began > 450:
                    raise RuntimeError("training is not done after 450 s")
                if len(killed) < len(kills) and max(steps_of(home), default=0) >= kills[len(killed)]:
                    found = list(trainers(home))
                    for pid in found:
                        os.kill(pid, signal.SIGKILL)
                    if found:
                        killed.append({"after step": max(steps_of(home)), "pids": found, "second": round(time.monotonic() - began, 1)})
                        print(f"        killed {found} after step {killed[-1]['after step']}", flush=True)
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)
    e.note(command, time.monotonic() - began, process.returncode)
    if process.returncode:
        raise RuntimeError(f"tarbert train exited with {process.returncode}: {(e.dir / 'train.err').read_text(errors='replace')[-1500:]}")
    if len(killed) < len(kills):
        raise RuntimeError(f"only {len(killed)} of {len(kills)} kills happened: the run was too fast for them")
    return killed


def differences(a, b):
    """|Δ log p| of two score files, token by token."""
    rows = []
    for x, y in zip(map(json.loads, a.splitlines()), map(json.loads, b.splitlines()), strict=True):
        rows += [abs(p - q) for p, q in zip(x["logprobs"][1:], y["logprobs"][1:], strict=True)]
    rows.sort()
    if not rows or not all(map(math.isfinite, rows)):
        raise RuntimeError("a score is not a number")
    return {"tokens": len(rows), "mean": sum(rows) / len(rows), "p99": rows[int(0.99 * (len(rows) - 1))], "max": rows[-1]}


@contextlib.contextmanager
def server(e, command, port):
    with open(e.dir / "server.err", "wb") as err:
        process = subprocess.Popen([str(c) for c in command], stderr=err)
        e.note([str(c) for c in command], 0, "(server)")
        try:
            for _ in range(1200):
                if process.poll() is not None:
                    raise RuntimeError((e.dir / "server.err").read_text(errors="replace")[-1500:])
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def main():
    tarbert = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "bin" / "tarbert").resolve()
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    told = machine()
    if DEVICE == "cuda" and told["device"] == "none":
        sys.exit("nvidia.py: PyTorch sees no CUDA device here. TARBERT_EVIDENCE_DEVICE=cpu TARBERT_EVIDENCE_SIZE=tiny rehearses the script.")
    real = DEVICE == "cuda"
    e = Evidence(ROOT / "bench" / "evidence" / "nvidia" / (time.strftime("%Y-%m-%d") if real else "rehearsal"))
    e.write("machine.json", told)
    change, sft, grpo, batch, rate, rl, kills, every = SIZES[SIZE]
    with tempfile.TemporaryDirectory(prefix="tarbert-evidence-") as tmp:
        tmp = pathlib.Path(tmp)
        home, place = tmp / "home", tmp / "spec"
        shutil.copytree(SUMS / "model", place / "model")
        config = json.loads((place / "model" / "config.json").read_text()) | change
        (place / "model" / "config.json").write_text(json.dumps(config, indent=1))
        (place / "release.yaml").write_text(SPEC.format(pools=POOLS[real], sums=SUMS, python=sys.executable, device=DEVICE, every=every, sft=sft, grpo=grpo, batch=batch, rate=rate, rl=rl, warmup=max(sft // 12, 2)))
        shutil.copy(place / "release.yaml", e.dir)
        shutil.copy(place / "model" / "config.json", e.dir)
        killed = train(e, tarbert, home, place, kills)
        for path in home.glob("releases/*/train-*/attempts/*.jsonl"):
            shutil.copy(path, e.dir)
        for path in home.glob("releases/*/train-*/*.json"):
            shutil.copy(path, e.dir)
        fit = json.loads(next(home.glob("releases/*/qualify-*/report.json")).read_text())
        e.write("qualify.json", fit)
        for path in home.glob("releases/*/qualify-*/trial-*/*.jsonl"):
            shutil.copy(path, e.dir / f"qualify-{path.name}")
        final = max(home.glob(f"releases/*/train-*/checkpoints/**/step-{sft + grpo:08d}"), key=lambda p: p.stat().st_mtime)
        for name in ("state.json", "manifest.json"):
            shutil.copy(final / name, e.dir)
        # What the chip and the reference make of the same tokens: held-out problems with their answers.
        lines = [json.loads(x) for x in (SUMS / "data" / "held-out.jsonl").read_text().splitlines()][:100]
        texts = "".join(json.dumps({"id": p["id"], "text": p["prompt"] + p["answer"]}) + "\n" for p in lines)
        (tmp / "texts.jsonl").write_text(texts)
        tokens = tmp / "tokens.jsonl"
        made = e.run([tarbert, "tokenize", final, "--input", tmp / "texts.jsonl"], "tokens").stdout.decode()
        tokens.write_text("".join(json.dumps({"id": x["id"], "tokens": x["tokens"]}) + "\n" for x in map(json.loads, made.splitlines())))
        scored = {"reference f32": e.run([tarbert, "score", final, "--tokens", tokens, "--precision", "f32"], "score-reference-f32").stdout,
                  "reference bf16": e.run([tarbert, "score", final, "--tokens", tokens, "--precision", "bf16"], "score-reference-bf16").stdout}
        script = ROOT / "harness" / "score.py"
        for precision in ("float32", "bfloat16"):
            scored[f"{DEVICE} {precision}"] = e.run([sys.executable, script, final, "--tokens", tokens, "--device", DEVICE, "--precision", precision], f"score-{DEVICE}-{precision}").stdout
        base = scored.pop("reference f32")
        apart = {name: differences(base, other) for name, other in scored.items()}
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        with server(e, [sys.executable, script, final, "--serve", port, "--device", DEVICE, "--precision", "bfloat16"], port) as url:
            verdict = e.run([tarbert, "--home", home, "--json", "verify", "--reference", final, "--candidate", url, "--prompts", SUMS / "data" / "held-out.jsonl",
                             "--count", 100, "--max-tokens", 48, "--stages", "prefill"], "verify", check=False)  # the server scores and does nothing else
        steps = steps_of(home)
    report = json.loads((e.dir / "train.out").read_text() or "{}")
    figures = {"device": told["device"] if real else "CPU rehearsal, not evidence of any chip", "steps": len(steps), "kills": killed,
               "attempts": len(list(e.dir.glob("attempt-*.jsonl"))), "loss": {s: steps[s]["loss"] for s in (1, sft // 2, sft) if s in steps},
               "qualify": {c["name"]: f"{c['verdict']}: {c['detail']}" for c in fit["gate"]["checks"]},
               "reward": {s: steps[s].get("reward") for s in range(sft + 1, sft + grpo + 1)},
               "mismatch": max((x["mean_abs_dlogp"] for x in steps.values() if "mean_abs_dlogp" in x), default=None),
               "|Δ log p| against the CPU reference in float32": apart, "verify exit code": verdict.returncode,
               "train": report.get("verdict"), "verify": json.loads(verdict.stdout or "{}").get("gate", {}).get("verdict"), "seconds": round(time.monotonic() - e.began)}
    e.write("figures.json", figures)
    print(json.dumps(figures, indent=1, ensure_ascii=False))
    print(f"written to {e.dir}")
    # In float32 chip and reference compute the same model, or the crossing failed.
    if figures["|Δ log p| against the CPU reference in float32"][f"{DEVICE} float32"]["max"] > 1e-2:
        sys.exit("nvidia.py: the chip's float32 scores are not the reference's")


if __name__ == "__main__":
    main()
