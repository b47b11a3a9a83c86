"""Short work in a process of its own: a module of this package that prints one JSON object.

Reading a stranger's file may take all memory or crash; it must not be the server's.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from carousel.errors import DatasetInvalid
from carousel.server.training.process import Share, environment, yield_to_server

log = logging.getLogger(__name__)

Object = dict[str, Any]


def run_child(module: str, *arguments: str, share: Share, seconds: float) -> Object:
    """What `python -m carousel.server.training.{module}` prints; blocks. Raises DatasetInvalid."""
    child = subprocess.Popen(
        [sys.executable, "-m", f"carousel.server.training.{module}", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(share),
        start_new_session=True,
    )
    yield_to_server(child.pid, share)
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
        raise DatasetInvalid(said["error"])
    return said


def answer(work: Callable[[], Object]) -> None:
    """Print what the work gives, or what is wrong with the data, as one JSON object."""
    try:
        said = work()
    except (ValueError, OSError, MemoryError) as error:
        said = {"error": str(error) or type(error).__name__}
    print(json.dumps(said))
