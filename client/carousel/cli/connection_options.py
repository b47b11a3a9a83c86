"""The options of `carousel serve` about connections and streams.

Modules with signatures for typer can't postpone the evaluation of annotations.
"""

from functools import partial
from typing import Annotated

from carousel.cli.serve_flag import flag

_connection = partial(flag, "Connections")
_patience = partial(_connection, metavar="SECONDS")


def connection_options(
    max_connections: Annotated[
        int | None,
        _connection("10000", "Connections of gRPC at once; more are closed at once."),
    ] = None,
    max_connection_streams: Annotated[
        int | None,
        _connection("4096", "Calls at once on one connection; more wait at the caller."),
    ] = None,
    max_metadata_bytes: Annotated[
        str | None,
        _connection("16KiB", "Bytes of a call's metadata, such as 16KiB.", metavar="SIZE"),
    ] = None,
    connection_idle: Annotated[
        str | None,
        _patience("900", "How long a connection without calls is kept; off: for ever."),
    ] = None,
    connection_age: Annotated[
        str | None,
        _patience(
            "off",
            "How long a connection is kept before its client must make a new one; off: for ever.",
        ),
    ] = None,
    connection_grace: Annotated[
        float | None,
        _patience("600", "How long calls may still run on a connection that is too old."),
    ] = None,
    keepalive: Annotated[
        str | None,
        _patience("60", "Silence after which a connection is asked whether it lives; off: never."),
    ] = None,
    keepalive_timeout: Annotated[
        float | None, _patience("20", "How long such an answer may take.")
    ] = None,
    reader_timeout: Annotated[
        str | None,
        _patience(
            "60",
            "How long an answer on a stream may wait for a caller that does not read; off: for "
            "ever.",
        ),
    ] = None,
    upload_timeout: Annotated[
        str | None, _patience("60", "How long an upload may bring nothing; off: for ever.")
    ] = None,
    stream_idle: Annotated[
        str | None,
        _patience("3600", "How long nothing may be said on a stream of steps; off: for ever."),
    ] = None,
    max_resets: Annotated[
        str | None,
        _connection(
            "500",
            "Calls a second that one network may take back where hardly any of its calls are "
            "answered; above that it is shut out. off: any number.",
            metavar="COUNT",
        ),
    ] = None,
    shut_out: Annotated[float | None, _patience("30", "How long a network is shut out.")] = None,
) -> None:
    """None means that the flag was not given; only the signature is used."""
