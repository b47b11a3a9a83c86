"""What the operator looks at, the status page and the command line, shows whose each thing is."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from typer.testing import CliRunner

from carousel.cli.app import app
from tests.conftest import RunningServer
from tests.server.tenancy.estate import Estate


def page(server: RunningServer, path: str) -> Any:
    url = f"http://localhost:{server.server.http_port}/page/{path}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def test_the_page_shows_the_things_of_all_tenants_by_their_keys(
    shared: RunningServer, estate: Estate
) -> None:
    listed = page(shared, "sessions.json")["sessions"]
    assert "sessions/acme/mine" in [one["name"] for one in listed]
    assert page(shared, "sessions.json?begins=acme/mine")["sessions"][0]["tenant"] == "acme"
    of_model = page(shared, "sessions.json?model=models/acme/mine")["sessions"]
    assert of_model == []
    inside = page(shared, "sessions/acme%2Fmine.json")
    assert inside["session"]["name"] == "sessions/acme/mine"
    assert "jobs/acme/mine" in [one["name"] for one in page(shared, "jobs.json")["jobs"]]
    assert page(shared, "jobs/acme%2Fmine.json")["job"]["tenant"] == "acme"
    found = {one["name"]: one for one in page(shared, "models.json")["models"]}
    [version] = found["models/acme/mine"]["versions"]
    assert version["name"] == "models/acme/mine/versions/1"


@pytest.mark.parametrize(
    "path", ["sessions/mine.json", "sessions/A%2Fmine.json", "jobs/x%2Fy.json"]
)
def test_what_is_no_key_or_nobody_s_is_refused(
    shared: RunningServer, estate: Estate, path: str
) -> None:
    with pytest.raises(urllib.error.HTTPError) as failure:
        page(shared, path)
    with failure.value as answer:
        assert 400 <= answer.code < 500


def test_the_command_line_works_in_the_tenant_that_the_environment_names(
    shared: RunningServer, estate: Estate
) -> None:
    def run(*words: str, tenant: str = "") -> str:
        environment = {"CAROUSEL_TENANT": tenant, "CAROUSEL_TARGET": shared.target}
        result = CliRunner().invoke(app, [*words], env=environment)
        assert result.exit_code == 0, result.output
        return result.output

    assert "acme/mine" in run("sessions", "list")
    assert json.loads(run("sessions", "show", "mine", "--json", tenant="acme"))["tenant"] == "acme"
    everyone = json.loads(run("quotas", "--json"))
    assert "acme" in [one["tenant"] for one in everyone]
    [own] = json.loads(run("quotas", "--json", tenant="acme"))
    assert {one["name"]: one["in_use"] for one in own["quotas"]}["jobs"] == 1
    assert "dataset_bytes" in run("quotas", tenant="acme")
