"""What a message is about is found in every message there is, and nothing else of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from carousel.server.access_log.resources import LONGEST, MOST, NAMES, resources, results
from carousel.server.services import SERVICES
from carousel.v1 import session_service_pb2 as pb

KINDS = {
    kind.full_name: kind
    for service in SERVICES.values()
    for method in service.methods
    for kind in (method.input_type, method.output_type)
}


def filled(kind: Descriptor, depth: int = 3) -> Message:
    """A message with something in every field, as far down as is looked."""
    message = message_factory.GetMessageClass(kind)()
    for field in kind.fields:
        held: Any = field.message_type
        if held is not None:
            if held.GetOptions().map_entry:
                fill_map(getattr(message, field.name), field)
            elif depth and field.is_repeated:
                getattr(message, field.name).add().MergeFrom(filled(held, depth - 1))
            elif depth:
                getattr(message, field.name).MergeFrom(filled(held, depth - 1))
        elif field.is_repeated:
            getattr(message, field.name).append(value(field))
        else:
            setattr(message, field.name, value(field))
    return message


def fill_map(container: Any, field: FieldDescriptor) -> None:
    entry: Any = field.message_type
    key, held = entry.fields
    if held.message_type is not None:
        container[value(key)].SetInParent()
    else:
        container[value(key)] = value(held)


def value(field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return f"secret-{field.name}"
    return b"secret-bytes" if field.type == FieldDescriptor.TYPE_BYTES else 1


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_message_is_read_and_only_fields_that_are_listed_are_told(kind: Descriptor) -> None:
    message = filled(kind)
    found = resources(message)
    assert {name.rpartition(".")[2] for name in found} <= NAMES
    assert results(message).keys() <= {"result", "results"}
    told = json.dumps([found, results(message)])
    assert "secret-bytes" not in told
    for field in ("secret-text", "secret-prefix_text", "secret-stop", "secret-next_page_token"):
        assert field not in told


def test_long_names_and_lists_are_cut() -> None:
    message = pb.ForkSessionRequest(name="x" * 1000, session_ids=["y" * 1000] * 100)
    found = resources(message)
    assert found == {"name": "x" * LONGEST, "session_ids": ["y" * LONGEST] * MOST}
