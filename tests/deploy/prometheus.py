"""The real Prometheus with the configuration that is shipped, a second between two scrapes."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import yaml

from tests.processes import PATIENCE, until

CONFIGURATION = Path(__file__).parents[2] / "deploy/prometheus/prometheus.yml"
SCRAPE_SECONDS = 1

Labels = dict[str, str]
Points = list[tuple[float, float]]  # seconds since the epoch, value; none that is NaN


def configuration(targets: Mapping[str, str]) -> dict[str, Any]:
    """The shipped configuration with other intervals, and addresses by the names of its jobs."""
    given: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text())
    given["global"] = dict.fromkeys(given["global"], f"{SCRAPE_SECONDS}s")
    given["rule_files"] = [str(CONFIGURATION.parent / path) for path in given["rule_files"]]
    jobs = given["scrape_configs"]
    assert {job["job_name"] for job in jobs} == set(targets)
    for job in jobs:
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
    return given


class Prometheus:
    """A process on a free port, with its data in a folder."""

    def __init__(self, folder: Path, targets: Mapping[str, str]) -> None:
        self._folder = folder
        self._file = folder / "prometheus.yml"
        self._file.write_text(yaml.safe_dump(configuration(targets)))
        self._log = folder / "prometheus.log"

    def __enter__(self) -> Self:
        command = ["prometheus", f"--config.file={self._file}"]
        command += [f"--storage.tsdb.path={self._folder / 'tsdb'}"]
        command += ["--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage"]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True
            )
        self._started = time.time()
        until(lambda: self._address() is not None and self._ready())
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(PATIENCE)

    def _address(self) -> str | None:
        """Where it listens, as its log says."""
        assert self._process.poll() is None, self._log.read_text()
        found = re.search(r'"?Listening on"? "?address"?[=:]"?([\d.]+:\d+)', self._log.read_text())
        return found[1] if found else None

    def _ready(self) -> bool:
        try:
            urllib.request.urlopen(f"http://{self._address()}/-/ready", timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            return False
        return True

    def _get(self, path: str, **query: object) -> Any:
        url = f"http://{self._address()}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def series(self, expr: str) -> list[tuple[Labels, Points]]:
        """What an expression was at every second since the start; series without a number left
        out."""
        found = self._get(
            "query_range", query=expr, start=self._started, end=time.time(), step=SCRAPE_SECONDS
        )
        series = [(one["metric"], _numbers(one["values"])) for one in found["result"]]
        return [(labels, points) for labels, points in series if points]

    def now(self, expr: str) -> list[tuple[Labels, float]]:
        """What an expression is."""
        found = self._get("query", query=expr)["result"]
        return [(one["metric"], value) for one in found for _, value in _numbers([one["value"]])]

    def firing(self) -> list[Labels]:
        """The labels of all alerts that fire."""
        alerts = self._get("alerts")["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]


def _numbers(points: list[list[Any]]) -> Points:
    return [(when, number) for when, text in points if not math.isnan(number := float(text))]
