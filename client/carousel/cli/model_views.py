"""How models and their versions look."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carousel.cli import tables
from carousel.cli.quantities import count, size, when

if TYPE_CHECKING:
    from rich.console import RenderableType

    from carousel.client import HealthRule, Model, ModelVersion

_COLUMNS = ("model", "version", "aliases", "state", "network", "maps", "parameters", "sessions")
_NUMBERS = ("version", "parameters", "sessions")
_KEEPS = ("forget", "update")


def models(listed: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One row a version."""
    if not listed:
        return "There are no models: carousel models upload FOLDER MODEL brings one in."
    rows = [
        (
            f"{one['tenant']}/{version.model}" if one["tenant"] else version.model,
            str(version.number),
            ", ".join(a for a, number in one["aliases"].items() if number == version.number),
            tables.state(version.state),
            network(version),
            mapping(version),
            count(version.parameters),
            count(version.sessions),
        )
        for one in listed
        for version in one["versions"]
    ]
    return tables.table(*_COLUMNS, rows=rows, numbers=_NUMBERS)


def network(version: ModelVersion) -> str:
    """`lstm 2 x 512`."""
    config = version.config
    both = ", both ways" if config.bidirectional else ""
    return f"{config.cell} {config.layers} x {config.hidden_size}{both}"


def mapping(version: ModelVersion) -> str:
    """`63 tokens -> softmax 63`."""
    config = version.config
    one = config.input_size == 1
    kind = config.input_type.removesuffix("s") if one else config.input_type
    return f"{config.input_size} {kind} -> {config.head} {config.output_size}"


def version(one: ModelVersion) -> RenderableType:
    """Everything about a version, its card below."""
    schema = ", ".join(f"{name} {list(shape)}" for name, shape in one.state_schema.items())
    pairs: dict[str, RenderableType] = {
        "version": one.name,
        "state": tables.state(one.state, one.state_message),
        "network": network(one),
        "maps": mapping(one) + (", with a tokenizer" if one.config.has_tokenizer else ""),
        "parameters": f"{count(one.parameters)}, {size(one.weights_bytes)}",
        **({"computed in": one.precision} if one.precision else {}),
        "session state": schema or "none: it can't be stepped",
        "sessions": count(one.sessions),
        "came in": when(one.create_time),
        "digest": one.digest,
    }
    if one.baseline_json:
        pairs["on held-out data"] = _baseline(json.loads(one.baseline_json))
    if one.config.labels:
        pairs["labels"] = ", ".join(one.config.labels)
    return _with_card(tables.facts(pairs), one.card)


def _baseline(found: Mapping[str, Any]) -> str:
    """How its memory behaves: the gate that keeps, and how large the state is."""
    parts = []
    for layer in found["layers"]:
        norm, gates = layer["state_norm"], layer["gates"]
        kept = [f"{name} gate {gates[name]['mean']:.2f}, " for name in _KEEPS if name in gates]
        size_of = f"state norm {norm['mean']:.3g} +- {norm['std']:.2g}"
        parts.append(f"layer {layer['layer']}: {''.join(kept)}{size_of}")
    return "; ".join(parts)


def _with_card(above: RenderableType, card: str) -> RenderableType:
    if not card:
        return above
    from rich.console import Group
    from rich.markdown import Markdown

    return Group(above, "", Markdown(card) if sys.stdout.isatty() else card.strip())


def model(one: Model) -> RenderableType:
    return tables.facts(
        {
            "model": one.id,
            "versions": ", ".join(map(str, one.versions)),
            "aliases": ", ".join(f"{a} -> {n}" for a, n in one.aliases.items()) or "none",
        }
    )


def policy(rules: Sequence[HealthRule]) -> RenderableType:
    """One row a rule, in order."""
    if not rules:
        return "There are no rules for the states of its sessions."
    rows = [(rule.metric, f"{rule.threshold:g}", rule.action) for rule in rules]
    return tables.table("metric", "threshold", "action", rows=rows, numbers=("threshold",))


def exported(done: Mapping[str, str]) -> RenderableType:
    return f"{done['model']} is in {done['folder']}"


def deleted(done: Mapping[str, str]) -> RenderableType:
    return f"{done['deleted']} is deleted"
