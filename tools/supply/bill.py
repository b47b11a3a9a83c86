"""The bill of materials: `deploy/sbom.json`, CycloneDX 1.6, made of the constraints alone.

It has no time and no serial number, so that it is the same wherever it is made.
"""

from __future__ import annotations

import json
import tomllib
from typing import Any

from tools.supply.packages import ROOT, Package

FILE = ROOT / "deploy" / "sbom.json"
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def bill(packages: list[Package]) -> str:
    """The bill as it stands in its file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    own = _component("application", Package(project["name"], project["version"]))
    own["licenses"] = [{"license": {"id": project["license"]}}]
    document = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": own},
        "components": [_component("library", package) for package in packages],
        "dependencies": [
            {"ref": own["bom-ref"], "dependsOn": [_purl(package) for package in packages]}
        ],
    }
    return json.dumps(document, indent=2) + "\n"


def _component(kind: str, package: Package) -> dict[str, Any]:
    purl = _purl(package)
    return {
        "type": kind,
        "bom-ref": purl,
        "name": package.name,
        "version": package.version,
        "purl": purl,
    }


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package.key}@{package.version}"
