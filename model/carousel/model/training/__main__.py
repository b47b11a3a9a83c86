"""The process of a job: python -m carousel.model.training FOLDER, alone or under torchrun."""

import os
import sys
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
    workers = Workers.from_environment()
    status = run(Path(sys.argv[1]), workers)
    if status == 0:
        workers.leave()
    return status


if __name__ == "__main__":
    sys.exit(main())
