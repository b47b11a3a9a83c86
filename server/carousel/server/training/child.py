"""Short work in a process of its own: a module of this package that prints one JSON object.

Reading a stranger's file may take all memory or crash; it must not be the server's.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from carousel.errors import DatasetInvalid
from carousel.model import ConfigError, ModelError
from carousel.server.training.process import Share, bound_memory, environment, yield_to_server

log = logging.getLogger(__name__)

Object = dict[str, Any]

# What reading a file may end with.
FAULTS = (ValueError, OSError, MemoryError)
HARMLESS_BYTES = 1024**2


def is_harmless(file: BinaryIO, kind: str) -> bool:
    """Whether it can do no harm, being plain and small, and need not wait for a process."""
    size = os.fstat(file.fileno()).st_size
    return kind in ("text", "csv", "jsonl") and size <= HARMLESS_BYTES


def run_child(
    module: str, *arguments: str, share: Share, seconds: float, data: BinaryIO | None = None
) -> Object:
    """What `python -m carousel.server.training.{module} < data` prints; blocks.

    Raises DatasetInvalid.
    """
    child = subprocess.Popen(
        [sys.executable, "-m", f"carousel.server.training.{module}", *arguments],
        stdin=data or subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(share),
        start_new_session=True,
    )
    yield_to_server(child.pid, share)
    bound_memory(child.pid)
    with child:
        try:
            out, err = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            raise DatasetInvalid(f"the data could not be read in {seconds:g} seconds") from None
    try:
        said: Object = json.loads(out)
    except ValueError:
        log.error("%s died: %s", module, err[-2000:].decode(errors="replace"))
        raise DatasetInvalid(
            f"the process that reads the data died with status {child.returncode}"
        ) from None
    if "error" in said:
        raise refusal(said)
    return said


def fault(error: BaseException) -> Object:
    """What ended the reading: its text, what is to blame ("data", "task", or "": neither), and
    where it is; `row` (from 1) and `column` are None where they are not known."""
    blame = "task" if isinstance(error, ConfigError) else "data"
    return {
        "error": str(error) or type(error).__name__,
        "blame": blame if isinstance(error, ModelError) else "",
        "row": getattr(error, "row", None),
        "column": getattr(error, "column", None),
    }


def refusal(fault: Object, *, field: str = "") -> DatasetInvalid:
    """The error that tells a caller of a fault, with `row` and `column` as metadata."""
    places = {name: str(fault[name]) for name in ("row", "column") if fault[name] is not None}
    return DatasetInvalid(fault["error"], field=field, metadata=places)


def answer(work: Callable[[], Object]) -> None:
    """Print what the work gives, or what is wrong with the data, as one JSON object."""
    try:
        said = work()
    except FAULTS as error:
        said = fault(error)
    print(json.dumps(said))
