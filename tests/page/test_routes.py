"""The page's port without a browser: who may look, and what an answer carries."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from carousel.client import Client
from carousel.server.page.numbers import NEWS_SECONDS, SAMPLE_SECONDS, Past, numbers, read
from carousel.server.settings import Settings
from tests.conftest import RunningServer
from tests.processes import PATIENCE, until


def get(
    site: RunningServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, Any, str]:
    """Status, headers and body."""
    connection = http.client.HTTPConnection(
        "localhost", site.server.http_port or 0, timeout=PATIENCE
    )
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def test_every_answer_forbids_what_the_page_does_not_need(site: RunningServer) -> None:
    for path in ("/", "/page/main.js", "/page/status.json", "/page/sessions/none.json"):
        _, headers, _ = get(site, path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy, path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"


def test_a_foreign_name_for_this_host_is_refused(site: RunningServer) -> None:
    assert get(site, "/", Host="localhost")[0] == 200
    assert get(site, "/", Host="127.0.0.1:80")[0] == 200
    assert get(site, "/", Host="[::1]:80")[0] == 200
    for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "[", ""):
        status, _, body = get(site, "/page/status.json", Host=name)
        assert (status, json.loads(body)["error"]["reason"]) == (421, "WRONG_HOST"), name
        for path in ("/", "/metrics", "/page/main.js", "/nothing"):
            assert get(site, path, Host=name)[0] == 421, path
        for path in ("/healthz", "/readyz"):
            assert get(site, path, Host=name)[0] == 200, path


def test_other_sites_may_link_here_but_not_ask(site: RunningServer) -> None:
    for foreign in ("cross-site", "same-site"):
        assert get(site, "/page/sessions/any.json", Sec_Fetch_Site=foreign)[0] == 403
        assert get(site, "/", Sec_Fetch_Site=foreign)[0] == 200


def test_there_is_nothing_but_get_and_head(site: RunningServer) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"):
        status, headers, body = get(site, "/page/status.json", method)
        assert (status, headers["Allow"]) == (405, "GET, HEAD")
        assert "<" not in body


def timeless(headers: Any) -> dict[str, str]:
    """All but the time."""
    return {name: value for name, value in headers.items() if name != "Date"}


def test_head_is_get_without_the_body(site: RunningServer) -> None:
    for path in ("/", "/page/main.js", "/healthz", "/nothing", "/page/sessions/none.json"):
        status, headers, body = get(site, path)
        assert get(site, path, "HEAD")[::2] == (status, ""), path
        assert int(headers["Content-Length"]) == len(body.encode())
    assert get(site, "/metrics", "HEAD")[0] == 200
    assert get(site, "/", "HEAD", Host="evil.example")[0] == 421


def test_only_files_of_the_page_are_served(site: RunningServer) -> None:
    for path in ("/page/none.js", "/page/../looks.py", "/page/..%2Flooks.py", "/page/", "/page"):
        assert get(site, path)[0] == 404, path


def test_numbers_are_those_of_get_statistics(site: RunningServer) -> None:
    with Client(site.target) as client, client.session("letters") as session:
        session.step(1)
        statistics = client.statistics()
    [family] = [f for f in statistics.families if f.name == "carousel_steps"]
    wanted = {frozenset(s.labels.items()): s.value for s in family.samples}

    def numbers() -> Any:
        return json.loads(get(site, "/page/status.json")[2])["numbers"]

    def same() -> bool:
        found = numbers()["carousel_steps"]
        return {frozenset(one["labels"].items()): one["value"] for one in found} == wanted

    until(same)  # what is shown may be half a second old
    [one] = [s for s in numbers()["carousel_turn_batch_size"] if s["labels"]["model"] == "letters"]
    assert one["count"] == statistics.value("carousel_turn_batch_size_count", model="letters")
    assert one["buckets"][-1] == ["+Inf", one["count"]]


def test_a_number_that_json_does_not_have_is_null(site: RunningServer) -> None:
    difference = site.server.hall.registry.resolve("models/tiny").metrics.audit_difference

    def told() -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        found = json.loads(get(site, "/page/status.json")[2], parse_constant=refuse)["numbers"]
        name = "carousel_batch_audit_max_abs_difference"
        return {one["labels"]["model"]: one["value"] for one in found[name]}["tiny"]

    difference.set(math.inf)
    try:
        until(lambda: told() is None)  # what is shown may be half a second old
    finally:
        difference.set(0)
    until(lambda: told() == 0)


def test_values_and_sums_are_finite_or_null() -> None:
    gauge = Gauge("carousel_sessions", "Sessions.", ["model"], registry=None)
    for value in (math.inf, -math.inf, math.nan, 1.5):
        gauge.labels(str(value)).set(value)
    time = Histogram("carousel_turn_duration_seconds", "Time.", registry=None)
    time.observe(math.inf)
    registry = CollectorRegistry()
    registry.register(gauge)
    registry.register(time)
    found = json.loads(json.dumps(numbers(read(registry)), allow_nan=False))
    values = {one["labels"]["model"]: one["value"] for one in found["carousel_sessions"]}
    assert values == {"inf": None, "-inf": None, "nan": None, "1.5": 1.5}
    [one] = found["carousel_turn_duration_seconds"]
    assert (one["sum"], one["count"], one["buckets"][-1]) == (None, 1, ["+Inf", 1])


def test_counters_are_kept_as_they_were_up_to_five_minutes_ago() -> None:
    registry = CollectorRegistry()
    steps = Counter("carousel_steps_failed", "", registry=registry)
    Counter("carousel_steps", "", registry=registry)
    past, ages = Past(registry), []
    for sample in range(1, 100):
        assert past.first == {} or past.first.keys() == {"carousel_steps_failed"}
        steps.inc()
        past.sample()
        [first] = past.first.get("carousel_steps_failed", [{"value": 0}])
        ages.append((sample - first["value"]) * SAMPLE_SECONDS)
    assert max(ages) == ages[-1] == NEWS_SECONDS - SAMPLE_SECONDS


def test_sessions_are_found_by_how_their_ids_begin(site: RunningServer) -> None:
    def found(query: str) -> list[str]:
        answer = json.loads(get(site, f"/page/sessions.json?{query}")[2])
        return [one["name"].removeprefix("sessions/") for one in answer["sessions"]]

    ids = ["find", "find-0", "find-1", "finder", "fine", "fin"]
    with Client(site.target) as client:
        sessions = [client.session("tiny", session_id=one) for one in ids]
        sessions.append(client.session("letters", session_id="find-other"))
        assert found("begins=find") == ["find", "find-0", "find-1", "find-other", "finder"]
        assert found("begins=FIND-1") == ["find-1"]
        assert found("begins=find&model=models/letters") == ["find-other"]
        assert found("begins=nothing") == found("begins=%3Cb%3E") == []
        for session in sessions:
            session.close()


def test_a_list_goes_on_at_its_token(site: RunningServer) -> None:
    with Client(site.target) as client:
        sessions = [client.session("tiny", session_id=f"many-{i:02}") for i in range(40)]
        seen: list[str] = []
        query = "begins=many-"
        while True:
            answer = json.loads(get(site, f"/page/sessions.json?{query}")[2])
            seen += [one["name"] for one in answer["sessions"]]
            if not answer["next_page_token"]:
                break
            query = f"begins=many-&page_token={answer['next_page_token']}"
        assert seen == [f"sessions/many-{i:02}" for i in range(40)]
        for session in sessions:
            session.close()


def test_an_unknown_session_is_said_in_the_words_of_the_api(site: RunningServer) -> None:
    status, _, body = get(site, "/page/sessions/nobody.json")
    assert (status, json.loads(body)["error"]["reason"]) == (404, "SESSION_NOT_FOUND")
    status, _, body = get(site, "/page/jobs/nothing.json")
    assert (status, json.loads(body)["error"]["reason"]) == (404, "JOB_NOT_FOUND")


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, True),
        ({"host": "127.0.0.1"}, True),
        ({"page": False}, False),
        ({"host": "0.0.0.0", "insecure": True}, False),
        ({"host": "0.0.0.0", "insecure": True, "page": True}, True),
    ],
)
def test_beyond_this_machine_the_page_must_be_asked_for(
    settings: dict[str, object], shown: bool
) -> None:
    assert Settings.read(None, **settings).shows_page is shown


def test_without_the_page_there_are_metrics_and_health_alone(
    serve: Callable[..., RunningServer],
) -> None:
    site = serve(page=False, shipped=False)
    assert get(site, "/healthz")[0] == 200
    for path in ("/", "/page/status.json", "/page/main.js"):
        assert get(site, path)[0] == 404
