"""Sealed states: whoever has the key can go on from them, and nobody can make or change one."""

from __future__ import annotations

import hmac
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from carousel.errors import SealBroken, SnapshotMismatch
from carousel.model import Features, Linear, ModelConfig, Network, save
from carousel.server.app import StartError
from carousel.server.held.sealer import FORMAT, MAGIC, SEAL_BYTES, Sealer
from tests.conftest import RunningServer
from tests.server.engines import version_of
from tests.server.holder import RNG, Holder, features, outputs

OLD, NEW = b"0123456789abcdef" * 2, b"fedcba9876543210" * 2


def key_file(folder: Path, *keys: bytes) -> Path:
    file = folder / f"keys-{len(list(folder.iterdir()))}"
    file.write_bytes(b"\n".join([*keys, b""]))
    return file


def test_servers_with_one_key_file_serve_the_steps_of_one_stream_in_turn(
    serve: Callable[..., RunningServer],
    connect: Callable[[RunningServer], Holder],
    hold: Holder,
    tmp_path: Path,
) -> None:
    key = key_file(tmp_path, OLD)
    holders = [
        connect(serve(shipped=False, state_key_file=key, data=tmp_path / name))
        for name in ("one", "other")
    ]
    inputs, state, got = features(20, 3), b"", []
    for step in range(20):
        response = holders[step % 2]([state], inputs[step : step + 1])
        got.append(outputs(response))
        [state] = response.states
    want = hold.wire.outputs([hold.wire.create().handle], [0], inputs, [20])
    np.testing.assert_allclose(np.concatenate(got), want, rtol=1e-5, atol=1e-6)
    foreign = connect(serve(shipped=False, state_key_file=key_file(tmp_path, NEW)))
    assert foreign.reasons([state], inputs[:1]) == {0: "SEAL_BROKEN"}


def test_a_server_s_own_key_is_kept_for_its_next_start_and_read_by_nobody_else(
    serve: Callable[..., RunningServer],
    connect: Callable[[RunningServer], Holder],
    tmp_path: Path,
) -> None:
    first = serve(shipped=False, data=tmp_path / "data")
    [state] = connect(first)([b""], features(1, 3)).states
    first.stop()
    file = tmp_path / "data" / "state.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".")] == []
    again = connect(serve(shipped=False, data=tmp_path / "data"))
    assert again.reasons([state], features(1, 3)) == {}
    stranger = connect(serve(shipped=False, data=tmp_path / "other"))
    assert stranger.reasons([state], features(1, 3)) == {0: "SEAL_BROKEN"}


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (None, "No such file"),
        ([], "it has none"),
        ([b"", b"  "], "it has none"),
        ([OLD, b"short"], "at least 32 bytes a line.*key 2 has 5"),
    ],
)
def test_a_file_of_keys_that_can_not_be_used_stops_the_start(
    serve: Callable[..., RunningServer], tmp_path: Path, keys: list[bytes] | None, says: str
) -> None:
    file = tmp_path / "nothing" if keys is None else key_file(tmp_path, *keys)
    with pytest.raises(StartError, match=says):
        serve(shipped=False, state_key_file=file)


def test_the_first_key_seals_and_all_open(server: RunningServer) -> None:
    version = version_of(server, "tiny")
    row = features(version.schema.width)
    old, new = Sealer([OLD]), Sealer([NEW])
    both = Sealer([NEW, OLD])
    for sealed in (old, new, both):
        index, got = both.open(sealed.seal(version.digest, 7, row), version, field="")
        assert index == 7
        assert np.array_equal(got, row)
    new.open(both.seal(version.digest, 7, row), version, field="")
    with pytest.raises(SealBroken):
        old.open(both.seal(version.digest, 7, row), version, field="")


def test_a_state_with_a_seal_and_of_another_size_is_refused(server: RunningServer) -> None:
    """As another release with the same key might have made it."""
    version = version_of(server, "tiny")
    sealer = Sealer([OLD])
    row = features(version.schema.width)
    for wrong in (row[:-1], np.append(row, row), row[:0]):
        with pytest.raises(SnapshotMismatch, match="a state of models/tiny/versions/1 must have"):
            sealer.open(sealer.seal(version.digest, 7, wrong), version, field="")
    body = sealer.seal(version.digest, 7, row)[:-SEAL_BYTES]
    for cut in range(len(body)):
        state = body[:cut] + hmac.digest(OLD, body[:cut], "sha256")
        with pytest.raises(SnapshotMismatch):
            sealer.open(state, version, field="")


def test_a_change_of_any_byte_breaks_the_seal(hold: Holder) -> None:
    [state] = hold([b""], features(1, 3)).states
    changed = []
    for place in range(len(state)):
        other = bytearray(state)
        other[place] ^= int(RNG.integers(1, 256))
        changed.append(bytes(other))
    states = [*changed, state]
    reasons = hold.reasons(states, features(len(states), 3))
    assert reasons == dict.fromkeys(range(len(changed)), "SEAL_BROKEN")


def test_a_state_that_was_cut_or_grew_has_a_broken_seal(hold: Holder) -> None:
    [state] = hold([b""], features(1, 3)).states
    wrong = [state[:length] for length in range(1, len(state))]
    wrong += [state[length:] for length in range(1, len(state))]
    wrong += [state + b"\0", b"\0" + state, state * 2]
    reasons = hold.reasons(wrong, features(len(wrong), 3))
    assert reasons == dict.fromkeys(range(len(wrong)), "SEAL_BROKEN")


def test_a_state_of_other_weights_of_the_same_shape_is_a_mismatch(
    serve: Callable[..., RunningServer],
    connect: Callable[[RunningServer], Holder],
    tmp_path: Path,
) -> None:
    config = ModelConfig(cell="lstm", layers=1, hidden_size=4, input=Features(3), head=Linear(2))
    for number in (1, 2):
        torch.manual_seed(number)
        save(tmp_path / "models" / "twins" / str(number), Network(config))
    server = serve(
        shipped=False, store=tmp_path / "models", load="twins/versions/1,twins/versions/2"
    )
    hold = connect(server)
    one, two = (f"models/twins/versions/{number}" for number in (1, 2))
    [state] = hold([b""], features(1, 3), model=one).states
    assert hold.reasons([state, b""], features(2, 3), model=two) == {0: "SNAPSHOT_MISMATCH"}
    assert hold.reasons([state], features(1, 3), model=one) == {}


def test_a_state_of_another_format_is_a_mismatch_though_its_seal_holds(
    serve: Callable[..., RunningServer],
    connect: Callable[[RunningServer], Holder],
    tmp_path: Path,
) -> None:
    hold = connect(serve(shipped=False, state_key_file=key_file(tmp_path, OLD)))
    [state] = hold([b""], features(1, 3)).states
    body = state[:-SEAL_BYTES]
    head = MAGIC + FORMAT.to_bytes(8, "little")
    assert body.startswith(head)
    others = [
        MAGIC + (FORMAT + 1).to_bytes(8, "little") + body[len(head) :],
        b"elsewhat" + body[len(MAGIC) :],
        b"",
    ]
    states = [other + hmac.digest(OLD, other, "sha256") for other in (*others, body)]
    reasons = hold.reasons(states, features(4, 3))
    assert reasons == dict.fromkeys(range(3), "SNAPSHOT_MISMATCH")
