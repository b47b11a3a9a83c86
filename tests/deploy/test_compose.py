"""The compose stack and its images: valid, and with nothing open that need not be."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest
import yaml

from tests.processes import PATIENCE

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
SERVER_OF = {"cpu": "server", "gpu": "server-gpu"}
BYTES = re.compile(r"[0-9]+[mg]")


def compose() -> list[str] | None:
    """The command that reads compose files, the plugin or Debian's."""
    plugin = ["docker", "compose"]
    if which("docker") and not subprocess.run([*plugin, "version"], capture_output=True).returncode:
        return plugin
    return ["docker-compose"] if which("docker-compose") else None


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_the_stack_is_valid_in_each_profile(profile: str) -> None:
    command = compose()
    if command is None:
        pytest.skip("there is no docker compose: apt-get install docker-compose")
    ran = subprocess.run(
        [*command, "config"],
        cwd=ROOT,
        env={**os.environ, "COMPOSE_PROFILES": profile},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ran.returncode == 0, ran.stderr
    assert {SERVER_OF[profile], "exporter", "prometheus", "grafana"} <= set(
        yaml.safe_load(ran.stdout)["services"]
    )


def test_one_server_runs_in_each_profile_and_is_found_under_the_same_name() -> None:
    for profile, name in SERVER_OF.items():
        assert [n for n in SERVICES if SERVICES[n].get("profiles") == [profile]] == [name]
        networks = SERVICES[name].get("networks", {"default": {}})
        assert "server" in {name, *networks["default"].get("aliases", ())}
    others = SERVICES.keys() - SERVER_OF.values()
    assert not any("profiles" in SERVICES[name] for name in others)
    assert (ROOT / ".env").read_text().endswith("COMPOSE_PROFILES=cpu\n")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_more_rights_and_room_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    assert service["cpus"] > 0
    assert service["pids_limit"] > 0
    assert BYTES.fullmatch(service["mem_limit"])
    assert service["image"].split(":")[1] != "latest"
    assert "privileged" not in service
    assert "network_mode" not in service
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_published_on_loopback_alone(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    if "healthcheck" in service:
        assert service["healthcheck"]["test"][0] == "CMD"
    else:
        assert ancestor(service["build"]["target"], "HEALTHCHECK --interval")


def stages() -> dict[str, tuple[str, str]]:
    """Of each stage of the Dockerfile: what it is made from, and its instructions."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.M)[1:]
    return {
        name: (base, text)
        for base, name, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    }


def ancestor(stage: str, words: str) -> str | None:
    """The nearest stage from which one inherits an instruction."""
    made = stages()
    while stage in made:
        base, text = made[stage]
        if words in text:
            return stage
        stage = base
    return None


@pytest.mark.parametrize("target", ["cpu", "cuda", "client"])
def test_an_image_runs_as_nobody_special_and_has_no_tools_to_build_with(target: str) -> None:
    assert ancestor(target, "USER 10001:10001") == "base"
    assert ancestor(target, "pip uninstall --yes") == "base"
    assert ancestor(target, "-perm /6000 -exec chmod a-s") == "base"
    assert not ancestor(target, "USER root")
    assert not ancestor(target, "apt-get")
    assert not ancestor(target, "pip wheel")


def test_an_image_is_made_of_files_that_its_context_has() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_default_target_is_the_cpu() -> None:
    assert list(stages())[-1] == "cpu"
    assert json.dumps("serve") in DOCKERFILE
