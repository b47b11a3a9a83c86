"""The arrows between the top folders, as the README draws them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Who may import what of carousel, by the package's first name below it.
PARTS = {
    "v1": ROOT / "proto/carousel/v1",
    "exposition": ROOT / "proto/carousel/exposition",
    "model": ROOT / "model/carousel/model",
    "server": ROOT / "server/carousel/server",
    "client": ROOT / "client/carousel/client",
    "exporter": ROOT / "client/carousel/exporter",
    "cli": ROOT / "client/carousel/cli",
}
PROTO = {"v1", "errors", "tensors", "exposition"}
ALLOWED = {
    "v1": PROTO,
    "exposition": PROTO,
    "model": set(),
    "server": PROTO | {"model"},
    "client": PROTO,
    "exporter": PROTO | {"client"},
    # `carousel serve`, `exporter` and `bench` start what they are named after, and only then.
    "cli": PROTO | {"client", "exporter", "server", "model"},
}


def imports(folder: Path, *, at_import: bool = False) -> set[str]:
    """Absolute names that the files of a folder import; `at_import`: while it is imported."""
    names: set[str] = set()
    for file in folder.rglob("*.py"):
        tree = ast.parse(file.read_text())
        inside = {
            id(node)
            for outer in ast.walk(tree)
            if isinstance(outer, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(outer, ast.If) and ast.unparse(outer.test) == "TYPE_CHECKING")
            for node in ast.walk(outer)
        }
        for node in ast.walk(tree):
            if at_import and id(node) in inside:
                continue
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def parts_of(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("carousel.")}


@pytest.mark.parametrize("part", PARTS)
def test_each_part_imports_only_what_its_arrows_allow(part: str) -> None:
    assert parts_of(imports(PARTS[part])) - {part} <= ALLOWED[part]


def test_model_knows_no_grpc_and_client_no_torch() -> None:
    model = {name.split(".")[0] for name in imports(PARTS["model"])}
    assert not model & {"grpc", "google"}
    light = [imports(PARTS[part]) for part in ("client", "exporter", "v1")]
    client = {name.split(".")[0] for name in set().union(*light)}
    assert not client & {"torch", "onnxruntime", "safetensors", "pydantic_settings"}


def test_the_command_line_reaches_the_server_only_inside_functions() -> None:
    late = {"server", "model", "exporter", "exposition"}
    assert not parts_of(imports(PARTS["cli"], at_import=True)) & late


def test_scheduling_holds_no_tensors() -> None:
    tree = ast.parse((PARTS["server"] / "scheduler.py").read_text())
    names = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    assert "torch" not in names


@pytest.mark.parametrize("module", ["carousel.client", "carousel.cli"])
def test_the_client_imports_without_the_server_s_packages(module: str) -> None:
    heavy = ["torch", "onnxruntime", "pydantic_settings", "prometheus_client", "safetensors"]
    heavy += ["opentelemetry"]
    code = f"import sys, {module}; print(*(m for m in {heavy!r} if m in sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


def test_no_init_file_hides_a_portion_of_the_namespace() -> None:
    assert not list(ROOT.glob("*/carousel/__init__.py"))


def test_the_readme_s_diagram_shows_the_same_arrows() -> None:
    """Every arrow of the diagram is allowed, and every import is drawn."""
    text = (ROOT / "README.md").read_text()
    diagram = re.search(r"```mermaid\n(.*?)```", text, re.S)
    assert diagram is not None
    drawn = {
        (source, target)
        for source, target in re.findall(
            r'^\s*(\w+)(?:\["[^"]*"\])? -->\|imports\| (\w+)', diagram[1], re.M
        )
    }
    folded = dict.fromkeys(PROTO, "proto")
    real = {
        (folded.get(part, part), folded.get(target, target))
        for part in PARTS
        for target in parts_of(imports(PARTS[part]))
    }
    assert drawn == {(source, target) for source, target in real if source != target}
