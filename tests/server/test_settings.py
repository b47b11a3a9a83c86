"""Settings: who wins, what is refused, and what the refusal says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from carousel.server.settings import Settings, SettingsError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CAROUSEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "carousel.toml"
    path.write_text('port = 7001\nmax_batch = 7\nload = ["a", "b/versions/2"]\nhttp_port = "off"\n')
    return path


def refusal(config_file: Any = None, **flags: Any) -> str:
    with pytest.raises(SettingsError) as refused:
        Settings.read(config_file, **flags)
    return str(refused.value)


def test_flag_wins_over_environment_over_file_over_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings.read().port == 50_051
    assert Settings.read(file).port == 7001
    monkeypatch.setenv("CAROUSEL_PORT", "7002")
    assert Settings.read(file).port == 7002
    assert Settings.read(file, port=7003).port == 7003
    assert Settings.read(file, port=None).port == 7002  # a flag that was not given
    assert Settings.read(file, port=7003).max_batch == 7


def test_the_environment_can_name_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAROUSEL_CONFIG", str(file))
    assert Settings.read().port == 7001


def test_lists_sizes_and_absence_can_be_written_everywhere(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.read(file)
    assert settings.load == ("models/a", "models/b/versions/2")
    assert settings.http_port is None
    monkeypatch.setenv("CAROUSEL_LOAD", "c, models/d/aliases/stable")
    monkeypatch.setenv("CAROUSEL_MAX_MESSAGE_BYTES", "8MiB")
    monkeypatch.setenv("CAROUSEL_HTTP_PORT", "0")
    settings = Settings.read(file)
    assert settings.load == ("models/c", "models/d/aliases/stable")
    assert settings.max_message_bytes == 8 * 1024**2
    assert settings.http_port == 0


def test_unknown_keys_are_errors_wherever_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(prot=1) == "prot is not a setting; did you mean port?"
    file = tmp_path / "carousel.toml"
    file.write_text("max_bacth = 1\n")
    assert "max_bacth is not a setting; did you mean max_batch?" in refusal(file)
    monkeypatch.setenv("CAROUSEL_TREADS", "1")
    assert "CAROUSEL_TREADS is not a setting; did you mean threads?" in refusal()


@pytest.mark.parametrize("endpoint", ["localhost:4317", "http://", "grpc://collector:4317", ""])
def test_the_endpoint_of_traces_is_a_url(endpoint: str) -> None:
    told = f"otlp_endpoint must be as in http://localhost:4317, got {endpoint!r}"
    assert refusal(otlp_endpoint=endpoint) == told


def test_every_wrong_setting_is_told_with_what_was_given_and_what_is_allowed() -> None:
    lines = refusal(port=70_000, max_batch="x", log_level="loud", device="gpu").splitlines()
    assert lines == [
        "port must be a whole number between 0 and 65,535, got 70000",
        "device must be auto, cpu, cuda or cuda:N, got 'gpu'",
        "max_batch must be a whole number between 1 and 65,536, got 'x'",
        "log_level must be one of debug, info, warning, error, got 'loud'",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("threads", 0),
        ("threads", 1.5),
        ("max_sessions", 0),
        ("max_message_bytes", "1KiB"),
        ("default_ttl", 0),
        ("default_ttl", "nan"),
        ("max_ttl", float("inf")),
        ("drain_timeout", -1),
        ("host", ""),
        ("shipped", "perhaps"),
        ("load", "No Such/Name"),
        ("device", "cuda:"),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    assert name in refusal(**{name: value})


def test_settings_must_fit_together() -> None:
    assert (
        refusal(default_ttl=100, max_ttl=10) == "default_ttl must be at most max_ttl, 10, got 100"
    )


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.com"])
def test_other_hosts_than_this_one_need_tls_and_credentials_or_insecure(host: str) -> None:
    tls: dict[str, Any] = {"tls_cert": "cert.pem", "tls_key": "key.pem"}
    callers = "credentials of callers (api_keys, jwt_issuer or tls_client_ca)"
    either = "TLS (tls_cert and tls_key)", callers
    for given, missing in [({}, " and ".join(either)), (tls, either[1])]:
        assert refusal(host=host, **given) == (
            f"host must be localhost or a loopback address without {missing}, unless the flag "
            f"--insecure is given, got {host!r}"
        )
    assert Settings.read(host=host, **tls, tls_client_ca="ca.pem").host == host
    assert Settings.read(host=host, **tls, api_keys="keys.jsonl").host == host
    assert Settings.read(host=host, insecure=True).host == host


@pytest.mark.parametrize("value", ["1", "true", "yes", "0"])
def test_insecure_is_nothing_to_inherit(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "insecure can't stand in the environment or in a file: it is given as --insecure"
    file = tmp_path / "carousel.toml"
    file.write_text("insecure = true")
    assert refusal(file) == told
    monkeypatch.setenv("CAROUSEL_INSECURE", value)
    assert refusal() == told
    assert refusal(host="0.0.0.0", insecure=True) == told


@pytest.mark.parametrize(
    "given",
    [{"tls_cert": "a"}, {"tls_key": "a"}, {"tls_client_ca": "a"}],
    ids=lambda given: str(given),
)
def test_a_certificate_is_given_with_its_key(given: dict[str, str]) -> None:
    assert "tls_cert and tls_key" in refusal(**given)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_loopback_hosts_need_nothing(host: str) -> None:
    assert Settings.read(host=host).host == host


def test_what_kubernetes_injects_is_neither_a_setting_nor_an_error(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "CAROUSEL_PORT": "tcp://10.0.0.1:50051",
        "CAROUSEL_SERVICE_HOST": "10.0.0.1",
        "CAROUSEL_SERVICE_PORT": "50051",
        "CAROUSEL_SERVICE_PORT_GRPC": "50051",
        "CAROUSEL_PORT_50051_TCP": "tcp://10.0.0.1:50051",
        "CAROUSEL_PORT_50051_TCP_ADDR": "10.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert Settings.read().port == 50_051
    assert Settings.read(file).port == 7001


def test_a_file_that_is_missing_or_no_toml_is_an_error(tmp_path: Path) -> None:
    assert "can't be read" in refusal(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("port = = 1")
    assert "can't be read" in refusal(tmp_path / "bad.toml")


def test_the_store_is_where_xdg_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert Settings.read().store == tmp_path / "carousel" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert Settings.read().store == Path.home() / ".local" / "share" / "carousel" / "models"
    assert Settings.read(store="~/models").store == Path.home() / "models"


def test_settings_never_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings.read().port = 1


def test_every_setting_says_what_it_is() -> None:
    assert [n for n, field in Settings.model_fields.items() if not field.description] == []
