"""`python -m carousel.server.training.prepare FORMAT FOLDER < FILE`: a dataset to a job's corpus.

The recipe is in FOLDER/job.json. `corpus` is there when all of it is; what is wrong with the
data is in prepare.json.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from carousel.model.data import prepare, task_from_dict
from carousel.server.training.child import FAULTS, fault
from carousel.server.training.process import DATA


def main(file: Path, kind: str, folder: Path) -> bool:
    """Whether the corpus is there now."""
    recipe = json.loads((folder / "job.json").read_text())["recipe"]
    part = folder / "corpus.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        prepare(
            file,
            task_from_dict(recipe["task"]),
            part,
            format=kind,
            validation_share=recipe["validation_share"],
            test_share=recipe["test_share"],
            seed=recipe["seed"],
        )
    except FAULTS as error:
        (folder / "prepare.json").write_text(json.dumps(fault(error)))
        return False
    part.rename(folder / "corpus")
    return True


if __name__ == "__main__":
    sys.exit(not main(DATA, sys.argv[1], Path(sys.argv[2])))
