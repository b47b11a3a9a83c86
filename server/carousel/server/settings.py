"""Settings: what an operator can choose, checked when the server starts.

A flag wins over the environment (`CAROUSEL_PORT`), that over the TOML file, that over the default.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import ByteSize, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import EnvSettingsSource, SettingsConfigDict

from carousel.exposition import is_loopback
from carousel.server.access.settings import AccessSettings
from carousel.server.limits import DAY, ConnectionLimits
from carousel.server.setting_types import (
    DEFAULT_PORT,
    DatabaseUrl,
    Device,
    Endpoint,
    Folders,
    FrontEnds,
    Models,
    Off,
    Port,
    UserPath,
    default_store,
    is_injected,
)
from carousel.server.settings_error import SettingsError, explain
from carousel.server.settings_sources import PREFIX, flags_only, read_file, unknown_variables

__all__ = ["Settings", "SettingsError"]

MIB = 1024**2


class Settings(AccessSettings, ConnectionLimits):
    """Everything that an operator can choose. Times are in seconds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    host: str = Field("localhost", description="Address to listen on.", min_length=1)
    port: Port = Field(DEFAULT_PORT, description="Port of gRPC; 0: a free one.", ge=0, le=65_535)
    frontends: FrontEnds = Field(
        0,
        description="Processes that take the calls, sharing the port, beside the engine's; 0: it "
        "takes them itself.",
        ge=0,
        le=64,
    )
    http_port: Annotated[int | None, Off] = Field(
        9464, description="Port of /metrics and health; 0: a free one; off: none.", ge=0, le=65_535
    )
    page: bool | None = Field(
        None,
        description="Show the status page on the port of /metrics; unset: where host is loopback.",
    )
    insecure: bool = Field(
        False,
        description="Listen on any address, though what is said can be read or anyone may call; "
        "only as a flag.",
    )
    store: UserPath = Field(
        default_factory=default_store, description="Folder of the models; made at first need."
    )
    import_root: UserPath | None = Field(
        None, description="Folder that models may be imported from; unset: importing is refused."
    )
    shipped: bool = Field(True, description="Serve the models that come with Carousel.")
    load: Models = Field(
        (), description="Models to load at start; empty: `stable`, or else the newest, of each."
    )
    session_store: SecretStr | None = Field(
        None,
        description="Where durable sessions lie: a file, or valkey://HOST:PORT, which servers may "
        "share; unset: `sessions.db` in the folder of data.",
    )
    durable: bool = Field(
        True, description="Keep sessions in the store; else all live in memory only."
    )
    default_durability: Literal["memory", "async", "sync"] = Field(
        "async",
        description="What a session gets that asks for nothing: memory, async or sync.",
    )
    store_refresh: Annotated[float | None, Off] = Field(
        2.0,
        description="How often to look for what others brought into the store; off: never.",
        ge=0.01,
        le=DAY,
    )
    audit_state_every: int = Field(
        256, description="Steps after which an audit log has the state again.", ge=1, le=65_536
    )
    audit_keep: float = Field(
        30 * DAY,
        description="How long an audit log is kept after its session.",
        ge=0,
        le=3650 * DAY,
    )
    device: Device = Field(
        "auto",
        description="Where models run: auto, cpu, cuda or cuda:N; auto: cuda if there is one.",
    )
    kernel: str | None = Field(
        None, description="Name of the step kernel; unset: the fastest for the device."
    )
    precision: Literal["float32", "int8", "bfloat16", "float16"] = Field(
        "float32",
        description="In what numbers models compute that are not loaded in another: float32; int8, "
        "for CPUs; bfloat16 or float16, for GPUs. All but float32 are up to a hundredth off.",
    )
    threads: int = Field(1, description="Threads that compute on the CPU.", ge=1, le=1024)
    bit_exact: bool = Field(
        False, description="Give every session the same bits whatever its neighbours; costs time."
    )
    batch_audit_every: int = Field(
        1000,
        description="Turns after which one session is run again alone, to compare; 0: never.",
        ge=0,
        le=2**31 - 1,
    )
    gate_sample_seconds: float = Field(
        0.1,
        description="How often, at most, gates of each model version are sampled; 0: never.",
        ge=0,
        le=DAY,
    )
    state_key_file: UserPath | None = Field(
        None,
        description="File of the keys that seal held states, one a line, shared by servers that "
        "take each other's; the first seals, all open; unset: a key of its own beside the data.",
    )
    import_unsealed: bool = Field(
        False, description="Take snapshots too that no server with the same keys has sealed."
    )
    max_sessions: int = Field(
        1_048_576, description="Live sessions, all models together.", ge=1, le=2**31 - 1
    )
    device_rows: int | None = Field(
        None,
        description="States on the device, of each model version; sessions that idle longest are "
        "parked in memory when more are needed. Unset: as many as sessions.",
        ge=1,
        le=2**31 - 1,
    )
    host_sessions: int | None = Field(
        None,
        description="Parked sessions in memory; the rest go to the store of sessions. Unset: all.",
        ge=0,
        le=2**31 - 1,
    )
    max_batch: int = Field(256, description="Rows in one turn.", ge=1, le=65_536)
    chunk_slice: int = Field(
        16, description="Steps of one chunk that ride in one turn.", ge=1, le=65_536
    )
    max_chunk: int = Field(16_384, description="Steps of one item of one message.", ge=1, le=2**24)
    max_queue: int = Field(
        131_072, description="Items that may wait for one model.", ge=1, le=2**31 - 1
    )
    max_tenant_queue: int | None = Field(
        None,
        description="Items of one tenant, or of all callers without one, that may wait for one "
        "model; unset: half of max_queue.",
        ge=1,
        le=2**31 - 1,
    )
    quotas: UserPath | None = Field(
        None,
        description="File of what tenants may use, read again when it changes; unset: no limits.",
    )
    # An upload's header, with a config of 2 MiB and a card of 1 MiB, must fit.
    max_message_bytes: ByteSize = Field(
        ByteSize(64 * MIB),
        description="Bytes of one message, such as 64MiB.",
        ge=4 * MIB,
        le=2**31 - 1,
    )
    prefix_cache_bytes: ByteSize = Field(
        ByteSize(64 * MIB),
        description="Memory for rows that prefixes of sessions lead to, such as 64MiB; 0: none.",
        ge=0,
        le=2**40,
    )
    max_tokens: int = Field(4096, description="Tokens of one generation.", ge=1, le=2**24)
    default_ttl: float = Field(
        3600.0, description="Idle time of a session that asks for none.", gt=0, le=3650 * DAY
    )
    max_ttl: float = Field(
        7 * DAY, description="Longest idle time that a session may ask for.", gt=0, le=3650 * DAY
    )
    drain_timeout: float = Field(
        30.0, description="How long a shutdown waits for what still runs.", ge=0, le=DAY
    )
    data: UserPath | None = Field(
        None, description="Folder of datasets and jobs; unset: `data` beside the store."
    )
    dataset_roots: Folders = Field(
        (), description="Folders whose files jobs may read by their uri; empty: none may be."
    )
    database_url: DatabaseUrl | None = Field(
        None, description="PostgreSQL that servers share; unset: SQLite in the folder of data."
    )
    training_jobs_at_once: int = Field(
        1, description="Training jobs that run side by side; 0: none.", ge=0, le=64
    )
    training_queue: int = Field(
        100, description="Training jobs that may wait for their turn.", ge=1, le=1_000_000
    )
    training_threads: int = Field(
        1, description="Threads of each process that trains.", ge=1, le=1024
    )
    training_niceness: int = Field(
        10,
        description="How far processes that train give way to others, the server too; 0: not.",
        ge=0,
        le=19,
    )
    training_grace: float = Field(
        30.0,
        description="How long a job that must stop has for its last checkpoint.",
        ge=0,
        le=DAY,
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important messages that are logged."
    )
    log_format: Literal["auto", "json", "text"] = Field(
        "auto", description="Lines of JSON or of text; auto: text on a terminal, otherwise JSON."
    )
    otlp_endpoint: Endpoint | None = Field(
        None,
        description="OTLP collector (gRPC) that traces go to, such as http://localhost:4317; "
        "unset: OTEL_EXPORTER_OTLP_ENDPOINT, and without that there are none.",
    )
    trace_ratio: float | None = Field(
        None,
        description="Share of requests that are traced, 0 to 1, where the caller did not decide; "
        "unset: OTEL_TRACES_SAMPLER, or else all.",
        ge=0,
        le=1,
    )
    access_log: Literal["off"] | UserPath | None = Field(
        None,
        description="File of who did what, a line of JSON each; off: none; unset: `access.log` in "
        "the folder of data where callers have credentials.",
    )
    access_log_bytes: ByteSize = Field(
        ByteSize(64 * MIB),
        description="Size at which the file is put aside as FILE.1, such as 64MiB.",
        ge=4096,
        le=2**40,
    )
    access_log_keep: int = Field(
        5, description="How many files that were put aside are kept.", ge=0, le=1000
    )
    channelz: bool = Field(
        False, description="Answer grpc.channelz, which shows connections and their callers."
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.default_ttl > self.max_ttl:
            raise ValueError(
                f"default_ttl must be at most max_ttl, {self.max_ttl:g}, got {self.default_ttl:g}"
            )
        if not (self.insecure or is_loopback(self.host)):
            self._check_reach()
        return self

    def _check_reach(self) -> None:
        """Whoever can be reached by others encrypts what is said, and knows who calls."""
        missing = []
        if self.certificate_files is None:
            missing.append("TLS (tls_cert and tls_key)")
        if not self.has_credentials:
            missing.append("credentials of callers (api_keys, jwt_issuer or tls_client_ca)")
        if missing:
            raise ValueError(
                f"host must be localhost or a loopback address without {' and '.join(missing)}, "
                f"unless the flag --insecure is given, got {self.host!r}"
            )

    @property
    def shows_page(self) -> bool:
        """Anyone who reaches the port may look, so beyond this machine it must be asked for."""
        return is_loopback(self.host) if self.page is None else self.page

    @property
    def tenant_limit(self) -> int:
        """Items of one tenant that may wait for one model: one alone can't fill the queue."""
        return self.max_tenant_queue or -(-self.max_queue // 2)

    @property
    def data_folder(self) -> Path:
        return self.store.absolute().parent / "data" if self.data is None else self.data

    @property
    def access_log_file(self) -> Path | None:
        """None: who did what is not written down."""
        if self.access_log is None:
            return self.data_folder / "access.log" if self.has_credentials else None
        return None if self.access_log == "off" else Path(self.access_log)

    @property
    def audit_folder(self) -> Path:
        return self.data_folder / "audit"

    @property
    def session_store_address(self) -> str | None:
        """Of the store of sessions; None: there is none."""
        if not self.durable:
            return None
        if self.session_store is None:
            return str(self.data_folder / "sessions.db")
        return self.session_store.get_secret_value()

    @classmethod
    def read(cls, config_file: Path | None = None, **flags: Any) -> Settings:
        """Settings from flags (None: not given), environment, TOML file and defaults.

        The file is `config_file`, or else the one that CAROUSEL_CONFIG names. Raises
        SettingsError, a line for everything that is wrong.
        """
        wrong = unknown_variables(os.environ, cls.model_fields)
        try:
            from_environment = EnvSettingsSource(cls)()
            from_file = read_file(config_file)
            wrong += flags_only(from_environment, from_file)
            given = {name: value for name, value in flags.items() if value is not None}
            if is_injected(from_environment.get("port")):
                del from_environment["port"]
            below = {k: v for k, v in from_file.items() if k not in from_environment}
            settings = cls(**below | given)
        except ValidationError as error:
            wrong += [explain(detail, cls.model_fields) for detail in error.errors()]
        else:
            if not wrong:
                return settings
        raise SettingsError("\n".join(wrong))
