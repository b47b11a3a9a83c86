"""`carousel serve` from the outside."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from tests.processes import PATIENCE

from carousel.cli import serve_options
from carousel.client import Client
from carousel.server.settings import Settings

from .conftest import COMMAND, Command, environment


def test_every_setting_is_a_flag_with_its_help() -> None:
    flags = {flag.name: flag for flag in serve_options.all_options()}
    assert list(flags) == list(Settings.model_fields)
    for name, flag in flags.items():
        [option] = flag.annotation.__metadata__
        if name != "load":  # a list in the settings, one by one on the command line
            assert option.help.startswith(Settings.model_fields[name].description), name


def test_every_default_that_help_names_is_the_default() -> None:
    named = {
        flag.name: flag.annotation.__metadata__[0].help.rpartition("Default: ")[2].removesuffix(".")
        for flag in serve_options.all_options()
    }
    in_words = {
        "page": "on loopback",
        "access_log": "where callers have credentials",
        "access_log_bytes": "64MiB",
        "tls_cert": "none",
        "tls_key": "none",
        "tls_client_ca": "none",
        "api_keys": "none",
        "jwt_issuer": "none",
        "jwt_audience": "none",
        "jwt_jwks": "none",
        "jwt_operator": "none",
        "spiffe_ids": "none",
        "store": "~/.local/share/carousel/models",
        "import_root": "none",
        "load": "all",
        "session_store": "beside the data",
        "device_rows": "as many as sessions",
        "host_sessions": "all",
        "kernel": "fastest",
        "max_tenant_queue": "half",
        "state_key_file": "a key of its own",
        "quotas": "no limits",
        "max_message_bytes": "64MiB",
        "max_metadata_bytes": "16KiB",
        "connection_age": "off",
        "prefix_cache_bytes": "64MiB",
        "data": "beside the store",
        "dataset_roots": "none",
        "database_url": "SQLite",
        "otlp_endpoint": "none",
        "trace_ratio": "all",
    }
    for name, field in Settings.model_fields.items():
        default = field.default
        if isinstance(default, bool):
            default = "yes" if default else "no"
        elif isinstance(default, float):
            default = f"{default:.10g}"
        assert named[name] == in_words.get(name, str(default)), name


def test_flag_over_environment_over_file_over_default(carousel: Command, tmp_path: Path) -> None:
    file = tmp_path / "carousel.toml"
    file.write_text("port = 1\nmax_batch = 2\nmax_chunk = 3\n")
    shown = carousel(
        "serve", "--config", file, "--port", 7, "--show-settings", CAROUSEL_PORT="5",
        CAROUSEL_MAX_BATCH="6",
    ).json  # fmt: skip
    assert shown["port"] == 7
    assert shown["max_batch"] == 6
    assert shown["max_chunk"] == 3
    assert shown["max_tokens"] == 4096


def test_a_misspelt_variable_is_wrong_usage(carousel: Command) -> None:
    done = carousel("serve", "--show-settings", CAROUSEL_PRT="1")
    assert (done.code, done.out) == (2, "")
    assert "CAROUSEL_PRT is not a setting; did you mean port?" in done.err


def test_a_port_in_use_is_exit_code_4(carousel: Command, tmp_path: Path) -> None:
    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        done = carousel(
            "serve", "--host", "127.0.0.1", "--port", port, "--http-port", 0, "--store", tmp_path,
            "--no-shipped",
        )  # fmt: skip
    assert (done.code, done.out) == (4, "")
    assert done.err == (
        f"error: can't listen on 127.0.0.1:{port}: the port is in use or the address is not ours; "
        "--port 0 takes a free one\n"
    )


@pytest.mark.parametrize(("host", "named"), [("localhost", "localhost"), ("::1", "[::1]")])
def test_it_says_where_it_listens_and_drains_on_a_signal(
    tmp_path: Path, host: str, named: str
) -> None:
    words = ["--port", "0", "--http-port", "0", "--store", str(tmp_path), "--no-shipped"]
    words += ["--host", host]
    if host == "::1":
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind((host, 0))
            except OSError:
                pytest.skip("this machine has no IPv6")
    process = subprocess.Popen(
        [*COMMAND, "serve", "--json", "--max-batch", "17", "--log-level", "error", *words],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["http"].startswith(f"http://{named}:")
        assert ready["target"].startswith(f"{named}:")
        with Client(ready["target"]) as client:
            assert client.server_info().max_batch == 17
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        process.stdout.close()
    finally:
        process.kill()
        process.wait()


def test_without_the_server_extra_it_says_what_to_install(carousel: Command) -> None:
    """None in sys.modules makes an import fail as if the package were not there."""
    program = (
        "import sys; sys.modules['pydantic_settings'] = None; sys.modules['torch'] = None\n"
        "sys.argv = ['carousel', 'serve']\n"
        "from carousel.cli import main; main()"
    )
    done = subprocess.run(
        [COMMAND[0], "-c", program],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )
    assert (done.returncode, done.stdout) == (4, "")
    assert "pip install 'carousel-rnn[server]'" in done.stderr
