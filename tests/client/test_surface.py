"""The public surface: what can be imported, and that both clients offer the same."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys

import pytest

import carousel.client as package
from carousel.client import (
    AsyncClient,
    AsyncSession,
    AsyncTokenStream,
    Client,
    Session,
    TokenStream,
)
from carousel.client._async_datasets import AsyncDatasets
from carousel.client._async_jobs import AsyncJobs
from carousel.client._datasets import Datasets
from carousel.client._jobs import Jobs


def public(kind: type) -> dict[str, object]:
    names = {name for name in dir(kind) if not name.startswith("_")}
    return {name: inspect.getattr_static(kind, name) for name in names}


def test_all_is_what_can_be_imported() -> None:
    for name in package.__all__:
        getattr(package, name)  # what is for training comes when it is asked for
    found = {name for name in vars(package) if not name.startswith("_")}
    assert set(package.__all__) == found
    assert package.__all__ == sorted(package.__all__, key=lambda name: (name.upper() != name, name))


def test_modules_are_private() -> None:
    modules = [module.name for module in pkgutil.iter_modules(package.__path__)]
    assert modules
    assert all(name.startswith("_") for name in modules)


def test_the_client_needs_neither_torch_nor_model_nor_server() -> None:
    code = (
        "import sys, carousel.client\n"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('torch', 'pydantic', 'uvloop')\n"
        "       or m.startswith(('carousel.model', 'carousel.server'))]\n"
        "sys.exit(', '.join(bad) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("plain", "asynchronous"),
    [
        (Client, AsyncClient),
        (Session, AsyncSession),
        (TokenStream, AsyncTokenStream),
        (Datasets, AsyncDatasets),
        (Jobs, AsyncJobs),
    ],
)
def test_both_clients_offer_the_same(plain: type, asynchronous: type) -> None:
    ours, theirs = public(plain), public(asynchronous)
    assert set(ours) == set(theirs)
    for name, method in ours.items():
        if not inspect.isfunction(method):
            continue
        other = theirs[name]
        assert inspect.isfunction(other)
        mine, its = inspect.signature(method), inspect.signature(other)
        assert list(mine.parameters) == list(its.parameters), name
        for parameter in list(mine.parameters)[1:]:
            assert mine.parameters[parameter].default == its.parameters[parameter].default, name
            assert mine.parameters[parameter].kind == its.parameters[parameter].kind, name


@pytest.mark.parametrize(
    "kind",
    [Client, AsyncClient, Session, AsyncSession, Datasets, AsyncDatasets, Jobs, AsyncJobs],
)
def test_options_are_keywords_and_everything_is_documented(kind: type) -> None:
    for name, method in public(kind).items():
        if inspect.isfunction(method):
            assert method.__doc__, name
            positional = [
                parameter
                for parameter in list(inspect.signature(method).parameters.values())[1:]
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            ]
            # Steps of held states need all of a model, its states and their inputs.
            assert len(positional) <= (3 if name in ("step_states", "chunk_states") else 2), name
            assert all(one.default is one.empty for one in positional[1:]), name
