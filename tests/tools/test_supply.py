"""The supply chain: pins, licences, the bill of materials, and what pip-audit says."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path

import pytest
from tools.supply import audit, bill, licences
from tools.supply.packages import Package, not_as_pinned, pinned


def test_the_bill_has_every_pin_and_is_the_one_that_is_committed() -> None:
    packages = pinned()
    text = bill.bill(packages)
    assert bill.FILE.read_text() == text, "make sbom"
    document = json.loads(text)
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    found = {one["purl"] for one in document["components"]}
    assert found == {f"pkg:pypi/{one.key}@{one.version}" for one in packages}
    assert set(document["dependencies"][0]["dependsOn"]) == found
    assert "pkg:pypi/typing-extensions@" in text  # in the index's spelling


def test_another_version_than_the_pinned_one_is_told() -> None:
    version = metadata.version("pytest")
    assert not_as_pinned([Package("PyTest", version), Package("not-installed-at-all", "1")]) == []
    assert not_as_pinned([Package("pytest", "1.0")]) == [
        f"pytest must be 1.0 as pinned, got {version}"
    ]


@pytest.mark.parametrize("line", ["numpy>=2", "numpy", "numpy==2 ; python_version > '3'"])
def test_what_pins_nothing_exactly_is_an_error(line: str, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text(f"# why\nrich==1.0\n{line}\n")
    with pytest.raises(ValueError, match=r"must be as in numpy==2\.4\.6"):
        pinned(tmp_path / "constraints.txt")


def test_every_licence_is_known_and_allowed_and_others_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert licences.refused(pinned()) == []
    monkeypatch.setattr(licences, "ALLOWED", licences.ALLOWED - {"Apache-2.0"})
    names = {line.split()[0] for line in licences.refused(pinned())}
    assert {"grpcio", "torch"} <= names  # alone, and in an expression
    assert "numpy" not in names


def test_a_service_that_knows_nothing_is_no_clean_bill() -> None:
    skipped = {"name": "numpy", "skip_reason": "Dependency not found on PyPI"}
    assert audit.read([skipped]).trouble
    flaw = {"id": "PYSEC-1", "fix_versions": []}
    looked = audit.read(
        [
            skipped,
            {"name": "rich", "version": "1.0", "vulns": [flaw]},
            {"name": "typer", "version": "2.0", "vulns": []},
        ]
    )
    assert (looked.asked, looked.known, looked.trouble) == (2, ["rich 1.0: PYSEC-1"], "")
