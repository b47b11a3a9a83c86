"""What an experiment leaves on disk: one JSON file each, from which tables and plots are made."""

import json
from pathlib import Path
from typing import Any

import torch

from carousel.model.experiments.catalogue import NAMES

Record = dict[str, Any]


def environment() -> Record:
    """What the numbers depend on beside the settings."""
    return {"torch": torch.__version__, "device": "cpu", "threads": torch.get_num_threads()}


def write(folder: Path, record: Record) -> None:
    """Write `<experiment>.json` anew, one key and one run a line."""
    folder.mkdir(parents=True, exist_ok=True)
    runs = ",\n  ".join(json.dumps(run, allow_nan=False) for run in record["runs"])
    head = [f' "{k}": {json.dumps(v, allow_nan=False)},' for k, v in record.items() if k != "runs"]
    text = "\n".join(["{", *head, f' "runs": [\n  {runs}\n ]', "}"])
    (folder / f"{record['experiment']}.json").write_text(text + "\n")


def read_all(folder: Path) -> list[Record]:
    """Every record there is, in the order of the catalogue."""
    paths = [folder / f"{name}.json" for name in NAMES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]
