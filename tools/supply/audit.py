"""Known vulnerabilities: pip-audit asks PyPI's service, where that answers."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from tools.supply.packages import CONSTRAINTS

SECONDS = 120


@dataclass(frozen=True, slots=True)
class Audit:
    """What came of it: `asked` packages were looked up; `known` says what is wrong with them."""

    asked: int
    known: list[str]
    trouble: str = ""


def audit() -> Audit:
    """Look up every pin. Where the service does not answer, nothing was looked up."""
    program = shutil.which("pip-audit")
    if program is None:
        return Audit(0, [], "there is no pip-audit (pip install pip-audit)")
    command = [program, "--disable-pip", "--no-deps", "--requirement", str(CONSTRAINTS)]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "5"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        found = json.loads(ran.stdout)["dependencies"]
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return Audit(0, [], "the service of known vulnerabilities does not answer")
    return read(found)


def read(dependencies: list[dict[str, Any]]) -> Audit:
    """What pip-audit says. It takes a service that knows no package for one without complaints."""
    asked = [one for one in dependencies if "skip_reason" not in one]
    known = [
        f"{one['name']} {one['version']}: {flaw['id']}" for one in asked for flaw in one["vulns"]
    ]
    trouble = "" if asked else "the service of known vulnerabilities knows none of the packages"
    return Audit(len(asked), known, trouble)
