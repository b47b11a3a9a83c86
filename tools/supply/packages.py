"""The packages that `constraints.txt` pins, and what is installed of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONSTRAINTS = ROOT / "constraints.txt"


@dataclass(frozen=True, slots=True)
class Package:
    """A pin: the name as its project writes it, and the one version that is meant."""

    name: str
    version: str

    @property
    def key(self) -> str:
        """The name as indexes have it."""
        return re.sub(r"[-_.]+", "-", self.name).lower()


def pinned(file: Path = CONSTRAINTS) -> list[Package]:
    """In the order of their keys. Raises ValueError for a line that pins nothing exactly."""
    found = []
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        parts = re.fullmatch(r"([A-Za-z0-9][\w.-]*)==([\w.!+]+)", line)
        if parts is None:
            raise ValueError(f"each line of {file.name} must be as in numpy==2.4.6, got {line!r}")
        found.append(Package(parts[1], parts[2]))
    return sorted(found, key=lambda package: package.key)


def not_as_pinned(packages: list[Package]) -> list[str]:
    """What is installed at another version than its pin, a sentence each, or not pinned."""
    wrong = []
    installed = {
        Package(one.name, "").key: one.version for one in metadata.distributions() if one.name
    }
    for package in packages:
        # The CPU wheel of torch is 2.13.0+cpu, and the pin without it means it too.
        version = installed.get(package.key, package.version).partition("+")[0]
        if version != package.version:
            wrong.append(f"{package.name} must be {package.version} as pinned, got {version}")
    return wrong


def metadata_of(package: Package) -> metadata.PackageMetadata | None:
    """What an installed package says of itself; None where it is not installed."""
    try:
        return metadata.metadata(package.name)
    except metadata.PackageNotFoundError:
        return None
