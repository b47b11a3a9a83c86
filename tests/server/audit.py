"""What tests of audit logs say often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest

from carousel import tensors
from carousel.errors import CarouselError
from carousel.server.audit.entry import Entry, read
from carousel.server.audit.folder import newest_life, parts_in
from carousel.server.audit.reader import Scan, scan
from carousel.v1 import session_pb2
from carousel.v1 import session_service_pb2 as pb
from tests.conftest import RunningServer
from tests.processes import PATIENCE
from tests.server.contract import Floats, Wire, error_of


def inputs(count: int) -> Floats:
    return np.random.default_rng(count).standard_normal((count, 3)).astype(np.float32)


def replay(wire: Wire, name: str, **fields: object) -> list[pb.ReplaySessionResponse]:
    request = pb.ReplaySessionRequest(name=name, **fields)  # type: ignore[arg-type]
    return list(wire.sessions.ReplaySession(request, timeout=PATIENCE))


def info(wire: Wire, session: session_pb2.Session) -> session_pb2.Session:
    return wire.sessions.GetSession(pb.GetSessionRequest(name=session.name))


def outputs(responses: list[pb.ReplaySessionResponse]) -> Floats:
    found = [tensors.decode(one.outputs) for one in responses if one.steps]
    return np.concatenate(found)


def refusal(call: Callable[[], object]) -> CarouselError:
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return error_of(failure.value)


def file_of(server: RunningServer, session: session_pb2.Session) -> Path:
    return parts_in(server.settings.audit_folder / session.name.split("/")[1])[-1].path


def entries_of(file: Path) -> list[Entry]:
    with file.open("rb") as opened:
        return [placed.entry for placed in read(opened)]


def look(path: Path) -> Scan:
    """Read a log that nobody writes."""
    return scan(path.parent.name, newest_life(parts_in(path.parent)), None)
