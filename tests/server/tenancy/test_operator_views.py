"""What the operator looks at, the status page and the command line, shows whose each thing is."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
from typing import Any

import pytest
from typer.testing import CliRunner

from carousel.cli.app import app
from carousel.client import AsyncClient, Client
from carousel.errors import ModelNotFound
from tests.conftest import RunningServer
from tests.processes import PATIENCE
from tests.server.tenancy.estate import Estate


def page(server: RunningServer, path: str) -> Any:
    url = f"http://localhost:{server.server.http_port}/page/{path}"
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
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


def test_models_of_tenants_stand_beside_one_s_own_with_whose_they_are(
    shared: RunningServer, estate: Estate
) -> None:
    def run(*words: str, tenant: str = "") -> Any:
        environment = {"CAROUSEL_TENANT": tenant, "CAROUSEL_TARGET": shared.target}
        result = CliRunner().invoke(app, [*words, "--json"], env=environment)
        assert result.exit_code == 0, result.output
        return json.loads(result.output)

    with Client(shared.target, tenant="acme") as client, client.session("mine"):
        listed = {(one["tenant"], one["name"]): one["versions"] for one in run("models", "list")}
        assert [one["sessions"] for one in listed["acme", "models/mine"]] == [1]
        assert len(listed["", "models/tiny"]) == 1
        ready = run("info")["ready_versions"]
        assert {"models/acme/mine/versions/1", "models/tiny/versions/1"} <= set(ready)
        seen = {one["name"]: one for one in run("top", "--once", "-i", "100ms")["models"]}
        assert (seen["acme/mine/1"]["sessions"], "mine/1" in seen) == (1, False)
        assert "models/mine/versions/1" in run("info", tenant="acme")["ready_versions"]
        own = {(one["tenant"], one["name"]) for one in run("models", "list", tenant="acme")}
        assert {("acme", "models/mine"), ("", "models/tiny")} <= own
    text = CliRunner().invoke(app, ["models", "list", "--server", shared.target]).output
    assert "acme/mine" in text


def test_both_clients_list_the_versions_of_a_tenant_s_model(
    shared: RunningServer, estate: Estate
) -> None:
    with Client(shared.target) as client:
        [mine] = [one for one in client.list_models() if one.tenant == "acme"]
        assert [one.number for one in client.list_versions(mine)] == [1]
        with pytest.raises(ModelNotFound):
            list(client.list_versions(mine.id))

    async def listed() -> list[int]:
        async with AsyncClient(shared.target) as client:
            return [one.number async for one in client.list_versions(mine)]

    assert asyncio.run(listed()) == [1]
