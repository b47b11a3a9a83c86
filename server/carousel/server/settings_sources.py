"""Where settings come from beside flags: the environment and a file; and what may not be there."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from carousel.server.settings_error import SettingsError, unknown

PREFIX = "CAROUSEL_"

# Variables of the same prefix that the command, the client and the exporter read.
_ELSEWHERE = re.compile(r"CAROUSEL_(CONFIG|TARGET|TOKEN|EXPORTER_\w+)")
# What Kubernetes sets in every pod beside a service of the name `carousel`.
_INJECTED = re.compile(
    r"CAROUSEL_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)


def read_file(file: Path | None) -> dict[str, Any]:
    """The file of settings, or else the one that CAROUSEL_CONFIG names. Raises SettingsError."""
    if file is None:
        named = os.environ.get(f"{PREFIX}CONFIG")
        if not named:
            return {}
        file = Path(named)
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"the file of settings {file} can't be read: {error}") from None


def flags_only(*sources: dict[str, Any]) -> list[str]:
    """What opens a server is seen where it is started: nobody inherits it."""
    if not any("insecure" in source for source in sources):
        return []
    return ["insecure can't stand in the environment or in a file: it is given as --insecure"]


def unknown_variables(names: Iterable[str], fields: Mapping[str, FieldInfo]) -> list[str]:
    """Lines about variables that look like settings and are none."""
    strange = [
        name
        for name in sorted(names)
        if name.startswith(PREFIX)
        and name.removeprefix(PREFIX).lower() not in fields
        and not _ELSEWHERE.fullmatch(name)
        and not _INJECTED.fullmatch(name)
    ]
    return [
        unknown(name.removeprefix(PREFIX).lower(), f"the environment variable {name}", fields)
        for name in strange
    ]
