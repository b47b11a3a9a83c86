"""The options of `carousel serve`: one for each setting of the server.

Written out and not read from the server's settings, so that help and completion work, and work at
once, where the server is not installed; a test holds that both say the same. The server alone
checks values. Modules with signatures for typer can't postpone the evaluation of annotations.
"""

import inspect
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from carousel.cli.access_options import access_options
from carousel.cli.connection_options import connection_options
from carousel.cli.serve_flag import flag, listening

_models = partial(flag, "Models and device")
_audit = partial(flag, "Sessions")
_limit = partial(flag, "Limits")
_seconds = partial(_limit, metavar="SECONDS")
_training = partial(flag, "Training")
_log = partial(flag, "Logs and traces")


def all_options() -> list[inspect.Parameter]:
    """Of the whole command, in the order of its help."""
    parts = (connection_options, access_options, options)
    return [one for part in parts for one in inspect.signature(part).parameters.values()]


def options(
    host: Annotated[str | None, listening("localhost", "Address to listen on.")] = None,
    port: Annotated[int | None, listening("50051", "Port of gRPC; 0: a free one.")] = None,
    frontends: Annotated[
        int | None,
        listening(
            "0",
            "Processes that take the calls, sharing the port, beside the engine's; 0: it takes "
            "them itself.",
        ),
    ] = None,
    http_port: Annotated[
        str | None,
        listening("9464", "Port of /metrics and health; 0: a free one; off: none."),
    ] = None,
    page: Annotated[
        bool | None,
        listening(
            "on loopback",
            "Show the status page on the port of /metrics; unset: where host is loopback.",
        ),
    ] = None,
    insecure: Annotated[
        bool | None,
        listening(
            "no",
            "Listen on any address, though what is said can be read or anyone may call; only as "
            "a flag.",
        ),
    ] = None,
    store: Annotated[
        Path | None,
        _models("~/.local/share/carousel/models", "Folder of the models; made at first need."),
    ] = None,
    import_root: Annotated[
        Path | None,
        _models("none", "Folder that models may be imported from; unset: importing is refused."),
    ] = None,
    shipped: Annotated[
        bool | None, _models("yes", "Serve the models that come with Carousel.")
    ] = None,
    load: Annotated[
        list[str] | None,
        _models(
            "all",
            "Model to load at start, may be given several times; none: `stable`, or else the "
            "newest, of each.",
            metavar="MODEL",
        ),
    ] = None,
    session_store: Annotated[
        str | None,
        _models(
            "beside the data",
            "Where durable sessions lie: a file, or valkey://HOST:PORT, which servers may share; "
            "unset: `sessions.db` in the folder of data. A password is better kept in "
            "CAROUSEL_SESSION_STORE: arguments can be seen by everyone.",
            metavar="FILE|URL",
        ),
    ] = None,
    durable: Annotated[
        bool | None,
        _models("yes", "Keep sessions in the store; else all live in memory only."),
    ] = None,
    default_durability: Annotated[
        str | None,
        _models("async", "What a session gets that asks for nothing: memory, async or sync."),
    ] = None,
    store_refresh: Annotated[
        str | None,
        _models(
            "2",
            "How often to look for what others brought into the store; off: never.",
            metavar="SECONDS",
        ),
    ] = None,
    audit_state_every: Annotated[
        int | None, _audit("256", "Steps after which an audit log has the state again.")
    ] = None,
    audit_keep: Annotated[
        float | None,
        _audit("2592000", "How long an audit log is kept after its session.", metavar="SECONDS"),
    ] = None,
    device: Annotated[
        str | None,
        _models("auto", "Where models run: auto, cpu, cuda or cuda:N; auto: cuda if there is one."),
    ] = None,
    kernel: Annotated[
        str | None,
        _models("fastest", "Name of the step kernel; unset: the fastest for the device."),
    ] = None,
    precision: Annotated[
        Literal["float32", "int8", "bfloat16", "float16"] | None,
        _models(
            "float32",
            "In what numbers models compute that are not loaded in another: float32; int8, for "
            "CPUs; bfloat16 or float16, for GPUs. All but float32 are up to a hundredth off.",
        ),
    ] = None,
    threads: Annotated[int | None, _models("1", "Threads that compute on the CPU.")] = None,
    bit_exact: Annotated[
        bool | None,
        _models("no", "Give every session the same bits whatever its neighbours; costs time."),
    ] = None,
    batch_audit_every: Annotated[
        int | None,
        _models("1000", "Turns after which one session is run again alone, to compare; 0: never."),
    ] = None,
    gate_sample_seconds: Annotated[
        float | None,
        _models(
            "0.1",
            "How often, at most, gates of each model version are sampled; 0: never.",
            metavar="SECONDS",
        ),
    ] = None,
    state_key_file: Annotated[
        Path | None,
        _models(
            "a key of its own",
            "File of the keys that seal held states, one a line, shared by servers that take "
            "each other's; the first seals, all open; unset: a key of its own beside the data.",
        ),
    ] = None,
    import_unsealed: Annotated[
        bool | None,
        _models("no", "Take snapshots too that no server with the same keys has sealed."),
    ] = None,
    max_sessions: Annotated[
        int | None, _limit("1048576", "Live sessions, all models together.")
    ] = None,
    device_rows: Annotated[
        int | None,
        _limit(
            "as many as sessions",
            "States on the device, of each model version; sessions that idle longest are parked "
            "in memory when more are needed. Unset: as many as sessions.",
        ),
    ] = None,
    host_sessions: Annotated[
        int | None,
        _limit(
            "all", "Parked sessions in memory; the rest go to the store of sessions. Unset: all."
        ),
    ] = None,
    max_batch: Annotated[int | None, _limit("256", "Rows in one turn.")] = None,
    chunk_slice: Annotated[
        int | None, _limit("16", "Steps of one chunk that ride in one turn.")
    ] = None,
    max_chunk: Annotated[int | None, _limit("16384", "Steps of one item of one message.")] = None,
    max_queue: Annotated[int | None, _limit("131072", "Items that may wait for one model.")] = None,
    max_tenant_queue: Annotated[
        int | None,
        _limit(
            "half",
            "Items of one tenant, or of all callers without one, that may wait for one model; "
            "unset: half of max_queue.",
        ),
    ] = None,
    quotas: Annotated[
        Path | None,
        _limit(
            "no limits",
            "File of what tenants may use, read again when it changes; unset: no limits.",
            metavar="FILE",
        ),
    ] = None,
    max_message_bytes: Annotated[
        str | None, _limit("64MiB", "Bytes of one message, such as 64MiB.", metavar="SIZE")
    ] = None,
    prefix_cache_bytes: Annotated[
        str | None,
        _limit(
            "64MiB",
            "Memory for rows that prefixes of sessions lead to, such as 64MiB; 0: none.",
            metavar="SIZE",
        ),
    ] = None,
    max_tokens: Annotated[int | None, _limit("4096", "Tokens of one generation.")] = None,
    default_ttl: Annotated[
        float | None, _seconds("3600", "Idle time of a session that asks for none.")
    ] = None,
    max_ttl: Annotated[
        float | None, _seconds("604800", "Longest idle time that a session may ask for.")
    ] = None,
    drain_timeout: Annotated[
        float | None, _seconds("30", "How long a shutdown waits for what still runs.")
    ] = None,
    data: Annotated[
        Path | None,
        _training(
            "beside the store", "Folder of datasets and jobs; unset: `data` beside the store."
        ),
    ] = None,
    dataset_roots: Annotated[
        list[Path] | None,
        _training(
            "none",
            "Folders whose files jobs may read by their uri; empty: none may be.",
            "--dataset-root",
        ),
    ] = None,
    database_url: Annotated[
        str | None,
        _training(
            "SQLite",
            "PostgreSQL that servers share; unset: SQLite in the folder of data. A password is "
            "better kept in CAROUSEL_DATABASE_URL: arguments can be seen by everyone.",
            metavar="URL",
        ),
    ] = None,
    training_jobs_at_once: Annotated[
        int | None, _training("1", "Training jobs that run side by side; 0: none.")
    ] = None,
    training_queue: Annotated[
        int | None, _training("100", "Training jobs that may wait for their turn.")
    ] = None,
    training_threads: Annotated[
        int | None, _training("1", "Threads of each process that trains.")
    ] = None,
    training_niceness: Annotated[
        int | None,
        _training("10", "How far processes that train give way to others, the server too; 0: not."),
    ] = None,
    training_grace: Annotated[
        float | None,
        _training(
            "30", "How long a job that must stop has for its last checkpoint.", metavar="SECONDS"
        ),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"] | None,
        _log("info", "The least important messages that are logged."),
    ] = None,
    log_format: Annotated[
        Literal["auto", "json", "text"] | None,
        _log("auto", "Lines of JSON or of text; auto: text on a terminal, otherwise JSON."),
    ] = None,
    otlp_endpoint: Annotated[
        str | None,
        _log(
            "none",
            "OTLP collector (gRPC) that traces go to, such as http://localhost:4317; unset: "
            "OTEL_EXPORTER_OTLP_ENDPOINT, and without that there are none.",
            metavar="URL",
        ),
    ] = None,
    trace_ratio: Annotated[
        float | None,
        _log(
            "all",
            "Share of requests that are traced, 0 to 1, where the caller did not decide; unset: "
            "OTEL_TRACES_SAMPLER, or else all.",
        ),
    ] = None,
    access_log: Annotated[
        str | None,
        _log(
            "where callers have credentials",
            "File of who did what, a line of JSON each; off: none; unset: `access.log` in the "
            "folder of data where callers have credentials.",
            metavar="FILE",
        ),
    ] = None,
    access_log_bytes: Annotated[
        str | None,
        _log(
            "64MiB",
            "Size at which the file is put aside as FILE.1, such as 64MiB.",
            metavar="SIZE",
        ),
    ] = None,
    access_log_keep: Annotated[
        int | None, _log("5", "How many files that were put aside are kept.")
    ] = None,
    channelz: Annotated[
        bool | None,
        _log("no", "Answer grpc.channelz, which shows connections and their callers."),
    ] = None,
) -> None:
    """None means that the flag was not given; only the signature is used."""
