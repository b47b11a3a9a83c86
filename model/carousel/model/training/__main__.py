"""The process of a job: python -m carousel.model.training FOLDER, alone or under torchrun."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from carousel.model.training.job import run
from carousel.model.training.workers import Workers


def main() -> int:
    if len(sys.argv) != 2:
        print("usage: python -m carousel.model.training FOLDER", file=sys.stderr)
        return 2
    if "OMP_NUM_THREADS" not in os.environ:
        # A server may compute beside it, and threads that spin slow both down a hundredfold.
        torch.set_num_threads(1)
    _keep_niceness()
    workers = Workers.from_environment()
    status = run(Path(sys.argv[1]), workers)
    if status == 0:
        workers.leave()
    return status


def _keep_niceness() -> None:
    """torchrun gives each worker a session, and Linux may give each session a share of its own."""
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            niceness = os.getpriority(os.PRIO_PROCESS, 0)
            Path("/proc/self/autogroup").write_text(str(niceness))


if __name__ == "__main__":
    sys.exit(main())
