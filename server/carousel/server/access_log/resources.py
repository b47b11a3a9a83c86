"""Which resources a message is about, by the names of its fields."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

LONGEST = 200  # characters of a name that is shown
MOST = 16  # names of a list that are shown

# Handles are not among them: whoever has one may step the session.
NAMES = frozenset(
    {
        "alias",
        "bookmark",
        "checkpoint",
        "dataset",
        "job",
        "job_id",
        "model",
        "name",
        "parent",
        "path",
        "session",
        "session_id",
        "session_ids",
        "successor",
        "uri",
        "version",
    }
)

Resources = dict[str, str | int | list[str]]


def resources(message: Message) -> Resources:
    """By field; of messages within it, as a header, by `field.field`."""
    found = _own(message, "")
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE and not field.is_repeated:
            found |= _own(value, f"{field.name}.")
    return found


def results(message: Message) -> Resources:
    """What a response names: the resource that it is, or those that were made."""
    found: Resources = {}
    for field, value in message.ListFields():
        if field.name in ("name", "version") and isinstance(value, str):
            found["result"] = value[:LONGEST]
        elif field.is_repeated and "name" in _fields(field):
            named = [str(one.name)[:LONGEST] for one in value[:MOST]]
            found["results"] = named
    return found


def _own(message: Message, prefix: str) -> Resources:
    found: Resources = {}
    for field, value in message.ListFields():
        if field.name not in NAMES or field.type == FieldDescriptor.TYPE_MESSAGE:
            continue
        if field.is_repeated:
            found[prefix + field.name] = [str(one)[:LONGEST] for one in value[:MOST]]
        else:
            found[prefix + field.name] = value if isinstance(value, int) else str(value)[:LONGEST]
    return found


def _fields(field: FieldDescriptor) -> set[str]:
    """Of the messages that a field holds; of a map, which is none, nothing."""
    held = field.message_type
    if held is None or held.GetOptions().map_entry:
        return set()
    return {one.name for one in held.fields}
