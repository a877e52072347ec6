"""A checkpoint's log-probabilities on this machine's chip, by transformers.

usage: score.py MODEL --tokens FILE.jsonl [--top K]     lines as `tarbert score` writes them
       score.py MODEL --serve PORT                      vLLM's dialect, as far as `tarbert verify` asks it

MODEL is a folder with config.json and float safetensors. --precision bfloat16
rounds weights and arithmetic to bfloat16, as an engine that serves does; the
router and the last softmax stay float32. The server scores prompts of token ids
(prompt_logprobs); it writes one greedy token and nothing longer: it is for
judging a chip where no engine is at hand, not for serving.
"""

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from contract import Refused
from models import Files, Model, read_config


class Scorer:
    def __init__(self, directory, device, precision):
        self.model = Model(read_config(directory), Files(directory), torch.device(device))
        self.positions, self.vocabulary = self.model.config.max_position_embeddings, self.model.config.vocab_size
        net = self.model.net.eval()
        if precision == "bfloat16":
            routers = {id(m) for m in net.modules() if type(m).__name__.endswith(("TopkRouter", "TopKRouter"))}
            for m in net.modules():
                if id(m) not in routers:
                    for p in m.parameters(recurse=False):
                        p.data = p.data.bfloat16()
            head = net.lm_head.weight
            net.lm_head.forward = lambda x: torch.nn.functional.linear(x.to(head.dtype), head)
        self.lock = threading.Lock()

    @torch.no_grad()
    def logp(self, tokens):
        """Natural-log probabilities after every token, [tokens, vocabulary], float32, on the host."""
        if not 1 <= len(tokens) <= self.positions or not all(isinstance(t, int) and 0 <= t < self.vocabulary for t in tokens):
            raise Refused(f"want 1 to {self.positions} token ids of a vocabulary of {self.vocabulary}")
        with self.lock:
            logits = self.model.net(input_ids=torch.tensor([tokens], device=self.model.device), use_cache=False).logits[0]
            return logits.float().log_softmax(-1).cpu()

    def line(self, name, tokens, top):
        logp = self.logp(tokens)
        out = {"id": name, "logprobs": [None] + [logp[t - 1, tokens[t]].item() for t in range(1, len(tokens))]}
        if top:
            best = logp.topk(min(top, logp.shape[1]), -1)
            out["top"] = [None] + [[[i, v] for i, v in zip(best.indices[t - 1].tolist(), best.values[t - 1].tolist())] for t in range(1, len(tokens))]
        return out

    def prompt_logprobs(self, tokens, k):
        logp = self.logp(tokens)
        best, out = logp.topk(min(k, logp.shape[1]), -1), [None]
        for t in range(1, len(tokens)):
            row = logp[t - 1]
            entry = {str(i): {"logprob": v, "rank": r + 1} for r, (i, v) in enumerate(zip(best.indices[t - 1].tolist(), best.values[t - 1].tolist()))}
            own = tokens[t]
            entry.setdefault(str(own), {"logprob": row[own].item(), "rank": int((row > row[own]).sum()) + 1})
            out.append(entry)
        return out, int(logp[-1].argmax())


def handler(scorer, name):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, code, value):
            body = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            known = {"/health": {}, "/version": {"version": f"harness on torch {torch.__version__}"},
                     "/v1/models": {"object": "list", "data": [{"id": name, "object": "model", "max_model_len": scorer.positions}]}}
            self.answer(200 if self.path in known else 404, known.get(self.path, {"error": {"message": f"no {self.path} here", "type": "NotFoundError"}}))

        def do_POST(self):
            try:
                q = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path != "/v1/completions":
                    return self.answer(404, {"error": {"message": f"no {self.path} here", "type": "NotFoundError"}})
                if not isinstance(q.get("prompt"), list) or q.get("max_tokens", 16) > 1 or q.get("n", 1) != 1 or q.get("temperature", 1) != 0 or q.get("stream") or q.get("logprobs") is not None:
                    raise Refused("this server scores a prompt of token ids (prompt_logprobs, max_tokens 1, temperature 0) and does nothing else")
                tokens = q["prompt"]
                scores, best = scorer.prompt_logprobs(tokens, min(max(int(q.get("prompt_logprobs") or 1), 1), 100))
                self.answer(200, {"object": "text_completion", "model": name, "choices": [{
                    "index": 0, "text": "", "finish_reason": "length", "prompt_logprobs": scores if q.get("prompt_logprobs") is not None else None,
                    "prompt_token_ids": tokens, "token_ids": [best]}],
                    "usage": {"prompt_tokens": len(tokens), "completion_tokens": 1, "total_tokens": len(tokens) + 1}})
            except (Refused, ValueError, KeyError, TypeError) as e:
                self.answer(400, {"error": {"message": str(e), "type": "BadRequestError"}})

    return Handler


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("model")
    args.add_argument("--tokens")
    args.add_argument("--top", type=int, default=0)
    args.add_argument("--serve", type=int)
    args.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    args = args.parse_args()
    if (args.tokens is None) == (args.serve is None):
        sys.exit("score.py: want --tokens FILE.jsonl or --serve PORT")
    try:
        scorer = Scorer(args.model, args.device, args.precision)
        if args.serve is not None:
            return ThreadingHTTPServer(("127.0.0.1", args.serve), handler(scorer, "checkpoint")).serve_forever()
        with open(args.tokens, encoding="utf-8") as f:
            for n, text in enumerate(f, 1):
                if text.strip():
                    q = json.loads(text)
                    print(json.dumps(scorer.line(q["id"], q["tokens"], args.top)), flush=True)
    except (Refused, OSError, ValueError, KeyError) as e:
        sys.exit(f"score.py: {type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
