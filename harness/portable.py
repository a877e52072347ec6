"""The portable checkpoint (docs/formats.md): plain files under a temporary name,
on disk before they get their own. Byte for byte what internal/checkpoint writes,
so that either side resumes the other's. No pickle.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import struct

from contract import Refused, file_digest

VERSION = 1
COMPANIONS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json",
              "generation_config.json", "added_tokens.json", "vocab.json", "merges.txt")
WIDTHS = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
          "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}


def name_of(step):
    return f"step-{step:08d}"


def committed(root):
    """Steps of the checkpoints whose manifest is there, rising."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(root):
            m = re.fullmatch(r"step-(\d{8,})", name)
            if m and name_of(int(m[1])) == name and os.path.lexists(os.path.join(root, name, "manifest.json")):
                found.append(int(m[1]))
    return sorted(found)


def text_of(value):
    """JSON as Go's encoder writes it with an indent of two."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029") + "\n").encode()


def verify(directory):
    """Proves a checkpoint whole: every file of the manifest with its size and sha256, and no other. Gives its state."""
    path = os.path.join(directory, "manifest.json")
    try:
        with open(path, "rb") as f:
            raw = f.read(64 << 20)
        m = json.loads(raw)
        files = {f["name"]: (f["size"], f["sha256"]) for f in m["files"]}
        if m["version"] != VERSION:
            raise Refused(f"{path}: version {m['version']}; this program reads version {VERSION}")
        if text_of(m) != raw:
            raise Refused(f"{path}: not as it was written")
        there = set(os.listdir(directory)) - {"manifest.json"}
        if there != set(files):
            raise Refused(f"{directory}: missing {sorted(set(files) - there)}, not in the manifest {sorted(there - set(files))}")
        for name, (size, digest) in files.items():
            at = os.path.join(directory, name)
            if os.path.basename(name) != name or not os.path.isfile(at) or os.path.islink(at):
                raise Refused(f"{at}: not a regular file of the checkpoint")
            if os.path.getsize(at) != size:
                raise Refused(f"{at}: {os.path.getsize(at)} bytes, the manifest says {size}: truncated or replaced")
            if file_digest(at) != digest:
                raise Refused(f"{at}: sha256 differs from the manifest's: the file has changed")
        with open(os.path.join(directory, "state.json"), "rb") as f:
            state = json.load(f)
        if state["version"] != VERSION or state["step"] != m["step"]:
            raise Refused(f"{directory}: state.json is of step {state['step']}, the manifest of step {m['step']}")
        return state
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise Refused(f"resume {directory}: not a checkpoint: {type(e).__name__}: {e}") from e


def file_order(tensors):
    """The order of a file's tensors: wide dtypes first, then by name."""
    return sorted(tensors, key=lambda n: (-WIDTHS[tensors[n][0]], n))


def tensor_file(path, tensors, fetch):
    """Writes a safetensors file. tensors is {name: (dtype, shape)}; fetch(name) gives its bytes and is
    called in the file's order. Gives (size, sha256)."""
    order = file_order(tensors)
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name in order:
        dtype, shape = tensors[name]
        size = WIDTHS[dtype]
        for d in shape:
            size *= d
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with open(path, "xb") as f:
        def put(b):
            f.write(b)
            digest.update(b)
        put(struct.pack("<Q", len(text)))
        put(text)
        for name in order:
            b = memoryview(fetch(name)).cast("B")
            start, end = header[name]["data_offsets"]
            if len(b) != end - start:
                raise ValueError(f"tensor {name}: {len(b)} bytes for shape {tensors[name][1]}")
            put(b)
        f.flush()
        os.fsync(f.fileno())
        return f.tell(), digest.hexdigest()


def sync_directory(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Writer:
    """A checkpoint being written by rank 0. The lock on its folder tells the living from the dead."""

    def __init__(self, root, step):
        self.root, self.step, self.files = root, step, {}
        os.makedirs(root, exist_ok=True)
        self._sweep()
        self.dir = os.path.join(root, f".tmp-{name_of(step)}-{secrets.token_hex(5)}")
        os.mkdir(self.dir, 0o755)
        self.hold = os.open(self.dir, os.O_RDONLY)
        fcntl.flock(self.hold, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _sweep(self):
        """Removes what dead writers left."""
        for name in os.listdir(self.root):
            if not name.startswith((".tmp-", ".trash-")):
                continue
            path = os.path.join(self.root, name)
            try:
                fd = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path)
            except BlockingIOError:
                pass
            finally:
                os.close(fd)

    def tensors(self, name, tensors, fetch):
        self.files[name] = tensor_file(os.path.join(self.dir, name), tensors, fetch)

    def put(self, name, content):
        with open(os.path.join(self.dir, name), "xb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        self.files[name] = len(content), hashlib.sha256(content).hexdigest()

    def companions(self, source):
        for name in COMPANIONS:
            path = os.path.join(source, name)
            if os.path.exists(path):
                with open(path, "rb") as f:
                    self.put(name, f.read())

    def commit(self, state):
        """State, then manifest, then the folder's own name: its presence is the commit."""
        self.put("state.json", text_of({"version": VERSION, "step": self.step} | state))
        files = [{"name": n, "size": s, "sha256": d} for n, (s, d) in sorted(self.files.items())]
        manifest = text_of({"version": VERSION, "step": self.step, "files": files})
        self.put("manifest.json", manifest)
        sync_directory(self.dir)
        final = os.path.join(self.root, name_of(self.step))
        trash = None
        if self._same(final, manifest):
            self.abort()
            return final
        if os.path.lexists(final):
            trash = os.path.join(self.root, ".trash-" + os.path.basename(self.dir))
            os.rename(final, trash)
        os.rename(self.dir, final)
        sync_directory(self.root)
        if trash:
            shutil.rmtree(trash)
        os.close(self.hold)
        return final

    @staticmethod
    def _same(final, manifest):
        """Whether an intact checkpoint with this very content is there already."""
        try:
            with open(os.path.join(final, "manifest.json"), "rb") as f:
                if f.read() != manifest:
                    return False
            verify(final)
        except (OSError, Refused):
            return False
        return True

    def abort(self):
        shutil.rmtree(self.dir, ignore_errors=True)
        os.close(self.hold)


def prune(root, keep):
    """Removes the checkpoints whose step is not in keep; the newest stays. Each is renamed first: none is seen half gone."""
    for step in committed(root)[:-1]:
        if step not in keep:
            trash = os.path.join(root, f".trash-{name_of(step)}-{secrets.token_hex(5)}")
            os.rename(os.path.join(root, name_of(step)), trash)
            shutil.rmtree(trash)
    sync_directory(root)
