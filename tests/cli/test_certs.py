"""`carousel certs`, and commands over what it makes."""

from __future__ import annotations

import json
import shlex
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509
from tests.conftest import RunningServer, running
from tests.papers import Papers
from tests.processes import PATIENCE, ServerProcess

from carousel.client import TLS, Client

from .conftest import COMMAND, Command, environment
from .test_exporter import exporter


@pytest.fixture(scope="module")
def mutual(model_store: Path, papers: Papers) -> Iterator[RunningServer]:
    with running(store=model_store, shipped=False, **papers.serving(mutual=True)) as server:
        yield server


def names(file: Path) -> x509.SubjectAlternativeName:
    found = x509.load_pem_x509_certificate(file.read_bytes())
    return found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_the_two_commands_that_it_prints_work_together(
    inside: Command, tmp_path: Path, model_store: Path
) -> None:
    done = inside("certs", tmp_path / "certs")
    assert (done.code, done.err) == (0, "")
    serve, info = (shlex.split(line) for line in done.out.splitlines())
    assert serve[:2] == ["carousel", "serve"]
    assert info[:2] == ["carousel", "info"]
    flags = {
        name.removeprefix("--").replace("-", "_"): Path(file)
        for name, file in zip(serve[2::2], serve[3::2], strict=True)
    }
    with running(store=model_store, shipped=False, **flags) as server:
        ran = subprocess.run(
            [*COMMAND, *info[1:], "--target", server.target, "--json"],
            capture_output=True, text=True, timeout=PATIENCE, env=environment(),
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["instance_id"] == server.server.instance_id


def test_certificates_have_the_names_that_they_need_and_keys_are_secret(
    inside: Command, tmp_path: Path
) -> None:
    words = ["--host", "carousel.internal", "--host", "10.1.2.3", "--days", "7"]
    done = inside("certs", tmp_path, *words, "--spiffe", "spiffe://example.org/forecasts")
    assert done.code == 0, done.err
    server = names(tmp_path / "server.pem")
    assert server.get_values_for_type(x509.DNSName) == ["localhost", "carousel.internal"]
    addresses = server.get_values_for_type(x509.IPAddress)
    assert list(map(str, addresses)) == ["127.0.0.1", "::1", "10.1.2.3"]
    client = names(tmp_path / "client.pem")
    assert client.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://example.org/forecasts"
    ]
    for name in ("server", "client"):
        found = x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes())
        assert 7 <= (found.not_valid_after_utc - found.not_valid_before_utc).days < 8
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert {mode for name, mode in modes.items() if name.endswith(".key")} == {0o600}
    assert len(modes) == 6  # and nothing is left over


def test_what_is_there_is_replaced_only_when_told_and_the_authority_never(
    inside: Command, tmp_path: Path
) -> None:
    def files() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    assert inside("certs", tmp_path).code == 0
    first = files()
    done = inside("certs", tmp_path)
    assert done.code == 2
    assert "server.pem" in done.err
    assert "exist already; --force replaces them" in " ".join(done.err.split())
    assert files() == first
    assert inside("certs", tmp_path, "--only", "client", "--client", "second").code == 0
    assert files().items() > first.items()
    assert inside("certs", tmp_path, "--force").code == 0
    again = files()
    kept = {name for name, content in first.items() if again[name] == content}
    assert kept == {"ca.pem", "ca.key"}
    assert inside("certs", tmp_path / "other").code == 0
    assert (tmp_path / "other/ca.pem").read_bytes() != first["ca.pem"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--spiffe", "http://example.org"], "a SPIFFE id begins with spiffe://"),
        (["--client", "server"], "not ca or server"),
        (["--client", "../out"], "not ca or server"),
    ],
)
def test_what_can_not_be_meant_is_wrong_usage(
    words: list[str], told: str, inside: Command, tmp_path: Path
) -> None:
    done = inside("certs", tmp_path, *words)
    assert done.code == 2
    assert told in " ".join(done.err.split())


def test_an_authority_that_ends_too_soon_signs_nothing(inside: Command, papers: Papers) -> None:
    done = inside("certs", papers.folder, "--client", "late", "--only", "client", "--days", "365")
    assert done.code == 2
    assert "must be good for 365 days, and is for 364" in " ".join(done.err.split())


def test_commands_reach_a_server_of_mutual_tls(
    inside: Command, mutual: RunningServer, papers: Papers
) -> None:
    there = ["--target", mutual.target]
    assert inside("info", *there, *papers.flags("client")).code == 0
    assert inside("models", "list", *there, *papers.flags("client")).code == 0


def test_without_a_certificate_the_command_says_what_is_missing(
    carousel: Command, mutual: RunningServer, papers: Papers
) -> None:
    done = carousel("info", "--target", mutual.target, *papers.flags())
    assert (done.code, done.out) == (3, "")
    assert done.err == (
        "error: the server wants a client certificate (cert and key of TLS), and got none "
        "[TLS_FAILED]\n"
        "--ca FILE says whom to trust, --cert FILE and --key FILE show who calls\n"
    )
    misfit = ["--cert", papers.cert("client"), "--key", papers.key("server")]
    done = carousel("info", "--target", mutual.target, *misfit)
    assert done.code == 2
    assert "is another one's" in done.err


def test_the_exporter_asks_over_mutual_tls_and_answers_over_it(
    mutual: RunningServer, papers: Papers
) -> None:
    own = ["--tls-cert", str(papers.cert("server")), "--tls-key", str(papers.key("server"))]
    own += ["--tls-client-ca", str(papers.cert("ca"))]
    context = ssl.create_default_context(cafile=str(papers.cert("ca")))
    context.load_cert_chain(papers.cert("client"), papers.key("client"))
    with exporter("--target", mutual.target, *papers.flags("client"), *own) as url:
        assert url.startswith("https://localhost:")
        with urlopen(f"{url}/metrics", timeout=PATIENCE, context=context) as answer:
            text = answer.read().decode()
    assert f'carousel_exporter_up{{target="{mutual.target}"}} 1.0' in text


def test_insecure_must_be_given_in_full(carousel: Command) -> None:
    for word in ("--insec", "--insecur", "--inse"):
        done = carousel("serve", "--host", "0.0.0.0", word, "--show-settings")
        assert (done.code, done.out) == (2, "")
    done = carousel("serve", "--host", "0.0.0.0", "--show-settings", CAROUSEL_INSECURE="1")
    assert (done.code, done.out) == (2, "")
    assert "it is given as --insecure" in done.err
    assert carousel("serve", "--host", "0.0.0.0", "--insecure", "--show-settings").code == 0


def test_a_server_says_https_where_it_speaks_it(tmp_path: Path, papers: Papers) -> None:
    with ServerProcess(
        tmp_path, store=tmp_path / "store", http_port=0, **papers.serving()
    ) as server:
        assert server.http.startswith("https://localhost:")
        with Client(server.target, tls=TLS(ca=papers.cert("ca"))) as client:
            assert client.server_info().instance_id


def test_without_cryptography_it_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['cryptography'] = None; sys.argv = ['carousel', 'certs']\n"
        "from carousel.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True, text=True, timeout=PATIENCE, env=environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (4, "")
    assert "pip install 'carousel-rnn[server]'" in done.stderr
