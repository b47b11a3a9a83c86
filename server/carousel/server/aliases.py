"""A model's aliases in its folder: read with care, replaced whole."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from carousel.errors import WeightsInvalid
from carousel.server.staging import Staging

ALIASES = "aliases.json"


def read_aliases(folder: Path) -> dict[str, int]:
    """Version numbers by alias; none where there is no file. Raises WeightsInvalid (damaged)."""
    file = folder / ALIASES
    if folder.is_symlink() or file.is_symlink() or not file.is_file():
        return {}
    try:
        aliases = json.loads(file.read_bytes())
        return {str(alias): int(number) for alias, number in aliases.items()}
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        # Going on without them would serve another version than the operator chose.
        raise WeightsInvalid(f"{ALIASES} of models/{folder.name} is damaged: {error}") from None


def aliases_moment(folder: Path) -> int:
    """When they last changed, in nanoseconds since 1970; 0 where there are none."""
    return changed_moment(folder / ALIASES)


def changed_moment(path: str | Path) -> int:
    """When a file, or what is in a folder, last changed; 0 where there is none."""
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return 0


def write_aliases(folder: Path, aliases: Mapping[str, int], staging: Staging) -> None:
    """Replace the file in one rename. Raises StoreUnwritable."""
    staging.replace_json(folder / ALIASES, aliases)
