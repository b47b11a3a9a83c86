"""How sessions look."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carousel.cli import tables
from carousel.cli.quantities import count, size, span, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import SessionInfo


def sessions(listed: Sequence[SessionInfo]) -> RenderableType:
    if not listed:
        return "There are no live sessions."
    rows = [
        (
            tables.owned(one),
            _model(one),
            count(one.step_index),
            _state(one),
            span(one.ttl),
            when(one.last_use_time),
            when(one.expire_time),
        )
        for one in listed
    ]
    return tables.table("session", "model", "steps", "state", "ttl", "used", "ends", rows=rows,
                        numbers=("steps",))  # fmt: skip


def session(one: SessionInfo) -> RenderableType:
    pairs: dict[str, RenderableType] = {
        "session": tables.owned(one),
        "model": _model(one),
        "state": _state(one),
        "steps": count(one.step_index),
    }
    if one.end_reason is None:
        pairs |= {
            "ttl": span(one.ttl),
            "lifetime": "no limit" if one.lifetime is None else span(one.lifetime),
            "rewind depth": count(one.rewind_depth),
            "bookmarks": ", ".join(f"{n} at {count(i)}" for n, i in one.bookmarks.items())
            or "none",
            "durability": f"{one.durability}, {count(one.durable_index)} steps are stored",
            "state is in": _TIERS.get(one.tier or "", "none"),
            "state size": size(one.state_bytes),
            "used": when(one.last_use_time),
            "audited": "yes" if one.audited else "no",
        }
    pairs["made"] = when(one.create_time)
    pairs["ends" if one.end_reason is None else "ended"] = when(one.expire_time)
    return tables.facts(pairs)


def ended(done: Mapping[str, str]) -> RenderableType:
    return f"{done['ended']} has ended"


def exported(done: Mapping[str, Any]) -> RenderableType:
    return (
        f"{done['session']} at step {count(done['step_index'])} is in {done['file']}, "
        f"{size(done['bytes'])}"
    )


def _model(one: SessionInfo) -> str:
    """`king-james/2`, as one would write it."""
    return one.model_version.removeprefix("models/").replace("/versions/", "/")


_TIERS = {"device": "the device", "host": "the server's memory", "store": "the store"}


def _state(one: SessionInfo) -> RenderableType:
    return tables.state(one.state, one.end_reason or "")
