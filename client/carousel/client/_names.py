"""Names: what a caller writes, as the resource names of the contract."""

from __future__ import annotations

from carousel.errors import InvalidField


def model_name(given: str) -> str:
    """`king-james`, `king-james@stable`, `king-james/2` or a full resource name."""
    if given.startswith("models/"):
        return given
    model, at, alias = given.partition("@")
    if at:
        return f"models/{_part(model, given)}/aliases/{_part(alias, given)}"
    model, slash, number = given.partition("/")
    if slash:
        return version_name(model, number)
    return f"models/{_part(model, given)}"


def version_name(model: str, number: str) -> str:
    if not number.isdecimal():
        raise InvalidField(
            f"a version must be a number as in king-james/2, got {model}/{number}", field="name"
        )
    return f"models/{_part(model, model)}/versions/{int(number)}"


def parent_name(given: str) -> str:
    """`king-james` or `models/king-james`: a model without a version."""
    name = model_name(given)
    if name.count("/") != 1:
        raise InvalidField(f"name must be a model without a version, got {given!r}", field="name")
    return name


def session_name(given: str) -> str:
    """`abc` or `sessions/abc`."""
    return given if given.startswith("sessions/") else f"sessions/{_part(given, given)}"


def dataset_name(given: str) -> str:
    """`readings` or `datasets/readings`."""
    return given if given.startswith("datasets/") else f"datasets/{_part(given, given)}"


def job_name(given: str) -> str:
    """`abc` or `jobs/abc`."""
    return given if given.startswith("jobs/") else f"jobs/{_part(given, given)}"


def checkpoint_name(job: str, checkpoint: int | str) -> str:
    """The checkpoint of a step, or `best`."""
    if checkpoint != "best" and not str(checkpoint).isdecimal():
        raise InvalidField(
            f"checkpoint must be a step such as 1200, or best, got {checkpoint!r}", field="name"
        )
    return f"{job_name(job)}/checkpoints/{checkpoint}"


def _part(part: str, given: str) -> str:
    if not part or "/" in part:
        raise InvalidField(
            "name must be as in king-james, king-james@stable, king-james/2, models/king-james, "
            f"sessions/abc, datasets/abc or jobs/abc, got {given!r}",
            field="name",
        )
    return part
