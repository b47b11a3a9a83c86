"""Secrets that are planted in settings and calls show up nowhere."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import pytest

from carousel.server.training.process import members
from carousel.v1 import admin_service_pb2, admin_service_pb2_grpc, session_service_pb2
from tests.conftest import tiny_models
from tests.processes import PATIENCE, ServerProcess
from tests.server.contract import Wire
from tests.server.training.wire import FOX, Training, recipe

PASSWORD, TOKEN, KEY = "planted-pass-1", "planted-token-2", "planted-key-3" + "0" * 40


def command_lines() -> bytes:
    """Of every process here, as `ps` would show them."""
    found = b""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += entry.read_bytes()
        except OSError:  # gone meanwhile
            continue
    return found


def test_secrets_are_in_no_log_error_metric_or_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, keys = tmp_path / "models", tmp_path / "keys"
    tiny_models(store)
    keys.write_text(f"{KEY}\n")
    monkeypatch.setenv("CAROUSEL_SESSION_STORE", f"valkey://user:{PASSWORD}@localhost:1")
    said = b""
    with ServerProcess(
        tmp_path, store=store, state_key_file=keys, http_port=0, log_level="debug"
    ) as server:
        with grpc.insecure_channel(server.target) as channel:
            metadata = (("authorization", f"Bearer {TOKEN}"), ("x-api-key", TOKEN))
            wire = Wire(channel)
            calls: list[tuple[Any, Any]] = [
                (
                    wire.sessions.CreateSession,
                    session_service_pb2.CreateSessionRequest(model="models/tiny"),
                ),
                (
                    wire.sessions.GetSession,
                    session_service_pb2.GetSessionRequest(name="sessions/x"),
                ),
                (wire.sessions.GetSession, session_service_pb2.GetSessionRequest(name="wrong")),
            ]
            for call, request in calls:
                try:
                    said += call(request, metadata=metadata).SerializeToString()
                except grpc.RpcError as failure:
                    said += str(failure).encode() + str(failure.trailing_metadata()).encode()
            admin = admin_service_pb2_grpc.AdminServiceStub(channel)
            info = admin_service_pb2.GetServerInfoRequest()
            said += admin.GetServerInfo(info).SerializeToString()
        with urllib.request.urlopen(
            f"http://{server.http.removeprefix('http://').partition('/')[0]}/metrics"
        ) as page:
            said += page.read()
        said += command_lines()
        assert b"carousel.cli" in said
    said += (tmp_path / "server.log").read_bytes()
    assert b"valkey" in said.lower() or b"store" in said  # the failure to reach it was told
    for secret in (PASSWORD, TOKEN, KEY):
        assert secret.encode() not in said


def test_a_database_that_can_t_be_reached_is_told_of_without_its_password(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "CAROUSEL_DATABASE_URL": f"postgresql://user:{PASSWORD}@localhost:1/db?connect_timeout=1",
    }
    command = [sys.executable, "-m", "carousel.cli", "serve", "--show-settings", "--json"]
    shown = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE)
    assert shown.returncode == 0, shown.stderr
    assert PASSWORD.encode() not in shown.stdout + shown.stderr


def test_what_a_job_starts_knows_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Command line and environment of every process of a job that learns."""
    keys = tmp_path / "keys"
    keys.write_text(f"{KEY}\n")
    monkeypatch.setenv("CAROUSEL_SESSION_STORE", f"valkey://user:{PASSWORD}@localhost:1")
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"api-key={TOKEN}")
    monkeypatch.setenv("CAROUSEL_STATE_KEY_FILE", str(keys))
    with (
        ServerProcess(tmp_path, store=tmp_path / "models") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        training = Training(channel)
        training.upload(FOX, name="fox.txt", id="fox")
        training.create("job", recipe=recipe(max_steps=1_000_000, evaluate_every=500))
        training.until("job", "progress")
        [folder] = (tmp_path / "data" / "jobs").iterdir()
        job = members(folder)
        assert job
        said = command_lines()
        for pid in job:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"PATH=" in environment
            said += environment
        training.cancel("job")
        training.finish("job")
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != keys:
            said += path.read_bytes()
    for secret in (PASSWORD, TOKEN, KEY, str(keys)):
        assert secret.encode() not in said
