"""Events: read from a job's events.jsonl, kept in the table, shown in the job's record."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Final

from sqlalchemy import select
from sqlalchemy.orm import Session

from carousel.server.training.job_folder import JobFolder
from carousel.server.training.records import EventRecord, JobRecord, Object

READ_BYTES = 1024**2
FINAL = ("finished", "stopped", "failed")
TELLING = ("started", "progress", *FINAL)  # where a process stands
NEWS = ("progress", "evaluation", "gradients", "checkpoint", "warning")
STATE: Final = "state"


def read_new(file: Path, offset: int) -> tuple[list[Object], int]:
    """Whole lines from an offset on, at most a mebibyte of them, and the offset after them."""
    try:
        with file.open("rb") as lines:
            lines.seek(offset)
            data = lines.read(READ_BYTES)
    except FileNotFoundError:
        return [], offset
    whole = data[: data.rfind(b"\n") + 1]
    events = [event for line in whole.splitlines() if (event := _parse(line)) is not None]
    return events, offset + len(whole)


def append(session: Session, job: JobRecord, kind: str, body: Object, at: float = 0.0) -> None:
    """Add an event after all others of the job, whose row this transaction holds."""
    job.last_sequence += 1
    session.add(
        EventRecord(
            job=job.number,
            sequence=job.last_sequence,
            time=at or time.time(),
            attempt=max(job.attempts, 1),
            type=kind,
            body=body,
        )
    )


def take_in(session: Session, job: JobRecord, event: Object, folder: JobFolder) -> None:
    """Bring the job's record up to an event that its process wrote, and add it if it is news."""
    kind = str(event["type"])
    job.attempts = max(job.attempts, int(event.get("attempt", 1)))
    if kind in TELLING:
        job.said = event
    if kind in NEWS:
        append(session, job, kind, event, at=float(event["time"]))
    if kind == "started":
        job.parameters = event["parameters"]
        job.started = job.started or event["time"]
        job.progress = {
            **(job.progress or {}),
            "step": event["step"],
            "max_steps": event["max_steps"],
        }
    elif kind == "progress":
        job.progress = {"max_steps": (job.progress or job.recipe)["max_steps"], **event}
    elif kind == "evaluation" and event["split"] == "test":
        job.evaluation = event
    elif kind == "checkpoint":
        job.fruitless = 0
        job.checkpoints = _checkpoints(job.checkpoints, event, folder)


def after(session: Session, job: int, sequence: int, limit: int) -> list[EventRecord]:
    """Events of a job after a sequence, in their order."""
    query = (
        select(EventRecord)
        .where(EventRecord.job == job, EventRecord.sequence > sequence)
        .order_by(EventRecord.sequence)
        .limit(limit)
    )
    return list(session.scalars(query))


def _checkpoints(known: list[Object], event: Object, folder: JobFolder) -> list[Object]:
    """The job's checkpoints after one more: those that retention removed are gone."""
    others = [dict(c) for c in known if c["step"] != event["step"]]
    if event["best"]:
        others = [c | {"best": False} for c in others]
    here = [c for c in others if folder.checkpoint(c["step"]).is_dir()]
    return sorted([*here, event], key=lambda checkpoint: int(checkpoint["step"]))


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line, parse_constant=lambda _: None)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "type" in event and "time" in event else None
