"""Beneath a root: whatever is exchanged, and when, nothing outside of it is ever opened."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from carousel.server import beneath

PARTS = ["sub", "deep", "data.txt"]
REFUSED = r"symbolic links|Not a directory"
WATCHERS: list[Callable[[str], None]] = []


def _tell(event: str, arguments: tuple[object, ...]) -> None:
    """Called by the interpreter just before a file is opened; it can't be taken back."""
    if event == "open" and WATCHERS and not isinstance(arguments[0], int):
        WATCHERS[-1](str(arguments[0]))


@pytest.fixture(scope="module")
def told() -> None:
    sys.addaudithook(_tell)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root and, beside it, the same names with a secret."""
    for place, words in (("root", "good"), ("outside", "secret")):
        folder = tmp_path / place / "sub" / "deep"
        folder.mkdir(parents=True)
        (folder / "data.txt").write_text(words)
    yield tmp_path / "root"
    assert open_below(tmp_path) == []


def open_below(folder: Path) -> list[str]:
    """What this process has open there; other threads of it open and close elsewhere."""
    found = []
    for one in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            found.append(os.readlink(f"/proc/self/fd/{one}"))
    return [path for path in found if Path(path).is_relative_to(folder)]


def read(root: Path) -> str:
    with beneath.open_below(root, PARTS) as file:
        return file.read().decode()


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("opens", [0, 1, 2, 3])
def test_what_is_exchanged_for_a_link_at_any_moment_leads_nowhere(
    told: None, root: Path, depth: int, opens: int
) -> None:
    """Exchanged just before the file of so many opens is opened."""
    victim = root.joinpath(*PARTS[:depth])
    twin = (root.parent / "outside").joinpath(*PARTS[:depth])
    seen: list[str] = []

    def exchange(path: str) -> None:
        if len(seen) == opens:
            victim.rename(root / "former")
            victim.symlink_to(twin)
        seen.append(path)

    WATCHERS.append(exchange)
    try:
        if opens > depth:  # what is open already stays what it is
            assert read(root) == "good"
        else:
            with pytest.raises(OSError, match=REFUSED):
                read(root)
    finally:
        WATCHERS.clear()
    assert victim.is_symlink()
    assert seen == [str(root), *PARTS][: len(seen)]


def test_an_open_file_is_the_same_whatever_its_name_leads_to(root: Path) -> None:
    with beneath.open_below(root, PARTS) as file:
        root.joinpath(*PARTS).unlink()
        root.joinpath(*PARTS).symlink_to(root.parent.joinpath("outside", *PARTS))
        assert beneath.path_of(file).read_text() == "good"
        assert beneath.path_of(file).read_text() == "good"  # each time from its beginning


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("link", "symbolic links"),
        ("folder", "not a regular file"),
        ("pipe", "not a regular file"),
        ("missing", "No such file"),
    ],
)
def test_only_a_regular_file_is_opened(root: Path, kind: str, why: str) -> None:
    file = root.joinpath(*PARTS)
    file.rename(root / "former")
    if kind == "link":
        file.symlink_to(root / "former")
    elif kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)  # nobody writes: it must not be waited for
    with pytest.raises(OSError, match=why):
        read(root)


def test_a_device_is_not_opened() -> None:
    with pytest.raises(OSError, match="not a regular file"):
        beneath.open_below(Path("/dev"), ["null"])


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    (root.parent / "way").symlink_to(root)
    assert read(root.parent / "way") == "good"


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/./b", "a\0", "a/" * 2048 + "b"],
)
def test_a_path_that_may_lead_out_has_no_parts(path: str) -> None:
    assert beneath.parts_of(path) == []


def test_other_paths_are_taken_apart() -> None:
    assert beneath.parts_of("a/..b/...") == ["a", "..b", "..."]


def test_a_folder_is_opened_by_the_same_rules(root: Path) -> None:
    class Descriptor(int):
        def close(self) -> None:
            os.close(self)

    with closing(Descriptor(beneath.open_folder(root, PARTS[:2]))) as folder:
        assert os.listdir(folder) == ["data.txt"]
    for parts in (PARTS, ["sub", "none"]):
        with pytest.raises(OSError, match=r"No such file|Not a directory"):
            beneath.open_folder(root, parts)
