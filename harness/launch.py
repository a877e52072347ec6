"""Starts the trainer's ranks: this very process for one, torchrun for more, and
gives back the code by which a rank asked not to be restarted.

usage: launch.py    (the trainer contract's environment, docs/formats.md)
"""

import os
import runpy
import sys

import contract

HERE = os.path.dirname(os.path.abspath(__file__))


def main():
    try:
        path = os.environ.get("TARBERT_RECIPE", "")
        if not path:
            raise contract.Refused("TARBERT_RECIPE is not set: a trainer is started by its supervisor (docs/formats.md, trainer contract)")
        settings = contract.Recipe(path).torchrun
    except contract.Refused as e:
        print(f"tarbert torchrun: {e}", file=sys.stderr)
        return contract.DO_NOT_RESTART
    script, ranks = os.path.join(HERE, "train.py"), max(settings["nproc"], 1)
    if ranks == 1 and not settings["args"]:
        runpy.run_path(script, run_name="__main__")
        return 0
    try:
        from torch.distributed import run
        from torch.distributed.elastic.multiprocessing.api import SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    except ImportError as e:
        print(f"tarbert torchrun: {sys.executable} cannot import PyTorch: {e}\n  type: {sys.executable} -m pip install torch 'transformers>=5' safetensors", file=sys.stderr)
        return contract.DO_NOT_RESTART
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    # torchrun does not restart: that is the supervisor's, which knows a good checkpoint from a bad one.
    where = [] if any(a.startswith(("--rdzv", "--nnodes", "--master")) for a in settings["args"]) else ["--standalone"]
    try:
        run.main([*where, "--nproc-per-node", str(ranks), "--max-restarts", "0", *settings["args"], script])
    except ChildFailedError as e:
        codes = [f.exitcode for f in e.failures.values()]
        print(f"tarbert torchrun: ranks ended with {codes}", file=sys.stderr)
        for known in (contract.DO_NOT_RESTART, contract.STOPPED):
            if known in codes:
                return known
        return 1
    except SignalException:
        return contract.STOPPED
    return 0


if __name__ == "__main__":
    sys.exit(main())
