"""A job that was only checked: what it would be, and that nothing was made."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from carousel.cli import job_views, tables
from carousel.client import Job

if TYPE_CHECKING:
    from rich.console import RenderableType


class CheckedJob(Job):
    """As JSON the job that it would be."""

    @classmethod
    def of(cls, job: Job) -> CheckedJob:
        return cls(**{field.name: getattr(job, field.name) for field in fields(job)})


def view(checked: CheckedJob) -> RenderableType:
    pairs: dict[str, RenderableType] = {
        "learns from": job_views.data(checked),
        "task": job_views.task(checked),
        "network": job_views.network(checked),
        "goes to": job_views.goes_to(checked),
        "checked": checked.state_message or "recipe and data are good; no job was made",
    }
    return tables.facts(pairs)
