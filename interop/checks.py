"""What every interop script needs: one line per check, processes that always
end, and our own program as a command and as a server.
"""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request


class Skip(Exception):
    """A check that cannot run here; the text says why. Never counted as passed."""


class Checks:
    """Prints one line per check and counts them.

    A broken check must not hide the others, so any exception fails its own
    check only. finish() prints the count and gives the exit status.
    """

    def __init__(self):
        self.passed = self.failed = self.skipped = 0
        self.started = time.monotonic()

    def run(self, name, check, *args, **kw):
        """Runs check(*args, **kw); what it returns is the figure printed."""
        try:
            detail = check(*args, **kw)
        except Skip as why:
            self.skipped += 1
            print(f"skip  {name}: {why}", flush=True)
        except Exception as e:
            self.failed += 1
            print(f"FAIL  {name}: {type(e).__name__}: {str(e)[:2000]}", flush=True)
        else:
            self.passed += 1
            print(f"ok    {name}: {detail}", flush=True)

    def finish(self):
        seconds = time.monotonic() - self.started
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped ({seconds:.0f} s)", flush=True)
        return 1 if self.failed else 0


def end_on_signals():
    """Makes SIGTERM and SIGHUP unwind the stack, so that servers die with us."""

    def stop(number, _):
        raise SystemExit(128 + number)

    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, stop)


@contextlib.contextmanager
def scratch():
    """A temporary directory, removed whatever happens."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="tarbert-interop-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def output(command, seconds, **kw):
    """The standard output of a command; its standard error is in the exception."""
    done = subprocess.run([str(c) for c in command], capture_output=True, encoding="utf-8", timeout=seconds, **kw)
    if done.returncode:
        raise RuntimeError(f"{pathlib.Path(str(command[0])).name} exited with {done.returncode}: {tail(done.stderr or done.stdout)}")
    return done.stdout


def tail(text, characters=1500):
    return text.strip()[-characters:]


def equal(what, ours, theirs):
    """Fails with both sides around the first difference of two sequences."""
    if ours == theirs:
        return
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    window = slice(max(0, at - 12), at + 24)
    raise AssertionError(f"{what}: at {at} ours has {ours[window]!r}, theirs {theirs[window]!r}")


def json_lines(command, records, seconds, **kw):
    """Feeds records to a command as JSON Lines and reads such lines back."""
    fed = "".join(json.dumps(r) + "\n" for r in records)
    return [json.loads(line) for line in output(command, seconds, input=fed, **kw).split("\n") if line]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """An HTTP server in a process group of its own, ended on leaving the block."""

    def __init__(self, command, url, seconds, log, **kw):
        self.command, self.url, self.seconds, self.log, self.kw = [str(c) for c in command], url, seconds, log, kw

    def __enter__(self):
        self.file = open(self.log, "wb")
        self.process = subprocess.Popen(self.command, stdout=self.file, stderr=subprocess.STDOUT, start_new_session=True, **self.kw)
        return self

    def ready(self):
        """Waits until /health answers 200; gives the server itself."""
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(self.url + "/health", timeout=5):
                    return self
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(f"{pathlib.Path(self.command[0]).name} is not ready after {self.seconds} s: {tail(self.text())}")

    def text(self):
        return pathlib.Path(self.log).read_text(errors="replace")

    def __exit__(self, *_):
        for how, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                break
        with contextlib.suppress(ProcessLookupError):  # children that outlived the leader
            os.killpg(self.process.pid, signal.SIGKILL)
        self.file.close()


def post(url, body, seconds=60):
    """Posts JSON and reads JSON; an error answer's text is in the exception."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=seconds) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as e:
        raise RuntimeError(f"{url} answered {e.code}: {tail(e.read().decode(errors='replace'))}") from e


class Tarbert:
    """Our program."""

    def __init__(self, path):
        self.path = pathlib.Path(path).resolve()
        if not os.access(self.path, os.X_OK):
            sys.exit(f"{self.path} is not a program: build it first (make build)")

    def run(self, *args, seconds=300):
        """The standard output of a command."""
        return output([self.path, *args], seconds)

    def score(self, model, sequences, top, precision="f32"):
        """Per token list: log-probabilities and the top-k pairs, entry 0 null."""
        records = [{"id": str(i), "tokens": t} for i, t in enumerate(sequences)]
        lines = json_lines([self.path, "score", model, "--tokens", "-", "--precision", precision, "--top", top], records, 300)
        if [l["id"] for l in lines] != [r["id"] for r in records]:
            raise AssertionError("score's lines do not answer the lines it read")
        return [(l["logprobs"], l["top"]) for l in lines]

    def tokenize(self, model, records):
        return json_lines([self.path, "tokenize", model, "--input", "-"], records, 300)

    def serve(self, model, log, name="tiny", precision="f32"):
        port = free_port()
        return Server([self.path, "serve", model, "--precision", precision, "--addr", f"127.0.0.1:{port}", "--name", name],
                      f"http://127.0.0.1:{port}", 60, log)
