"""The registry: which model versions are loaded, how they come in and how they go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from carousel.errors import (
    CarouselError,
    InvalidField,
    ModelInUse,
    ModelLoading,
    ModelNotLoaded,
    WeightsInvalid,
)
from carousel.model import (
    Baseline,
    ConfigError,
    Network,
    StepPrecision,
    WeightsError,
    check_precision,
    digest,
    load,
    load_baseline,
)
from carousel.server.engine import Engine
from carousel.server.health_policy import HealthPolicy
from carousel.server.loaded import LoadedVersion
from carousel.server.metrics import Metrics
from carousel.server.names import ModelRef, owner_of, version_name
from carousel.server.resolved import Resolved
from carousel.server.sessions import Sessions
from carousel.server.settings import Settings
from carousel.server.store import ModelStore
from carousel.v1 import model_pb2, session_pb2

log = logging.getLogger("carousel.registry")

WARM_UP_BATCHES = (1, 8, 64, 256)
PRECISIONS: dict[StepPrecision, model_pb2.StepPrecision.ValueType] = {
    "float32": model_pb2.STEP_PRECISION_FLOAT32,
    "int8": model_pb2.STEP_PRECISION_INT8,
    "bfloat16": model_pb2.STEP_PRECISION_BFLOAT16,
    "float16": model_pb2.STEP_PRECISION_FLOAT16,
}


def pick_device(wanted: str) -> str:
    """`auto` is the first CUDA device where there is one, else the CPU."""
    if wanted == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {wanted} was asked for, but there is no CUDA device here")
    return "cuda:0" if wanted == "cuda" else wanted


class Registry:
    """Loaded versions by name. Loading happens beside the engine; joining and leaving within it."""

    def __init__(
        self,
        store: ModelStore,
        engine: Engine,
        sessions: Sessions,
        settings: Settings,
        metrics: Metrics,
        *,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = pick_device(settings.device)
        self._store = store
        self._resolved: Resolved[LoadedVersion] = Resolved(store)
        self._engine = engine
        self._sessions = sessions
        self._settings = settings
        self._metrics = metrics
        self._on_change = on_change
        self._loaded: dict[tuple[str, int], LoadedVersion] = {}
        self._by_ordinal: dict[int, LoadedVersion] = {}
        self._failed: dict[tuple[str, int], str] = {}
        self._settled: dict[ModelRef, int] = {}
        self._locks: dict[tuple[str, int], asyncio.Lock] = {}
        self._policies = asyncio.Lock()
        self._ordinals = 0
        self.starting = False  # the server's first models are still on their way

    @property
    def versions(self) -> list[LoadedVersion]:
        return list(self._loaded.values())

    def by_ordinal(self, ordinal: int) -> LoadedVersion | None:
        return self._by_ordinal.get(ordinal)

    async def load_first(self) -> None:
        """Load what serves from the start.

        What can't be loaded is reported, and does not stop the others.
        """
        wanted = [ModelRef.parse(name, field="load") for name in self._settings.load]
        for ref in wanted or [ModelRef(model) for model in self._store.models()]:
            try:
                stored = self._store.resolve(ref)
                await self.load(stored.model, stored.number)
            except CarouselError as error:
                log.error("models/%s does not serve: %s", ref.model, error.message)
        self.starting = False

    def resolve(self, name: str, tenant: str = "", *, field: str = "model") -> LoadedVersion:
        """The loaded version that a tenant's request names: of a model of its own, or a shared one.

        Raises ModelNotFound, VersionNotFound, AliasNotFound, ModelLoading or ModelNotLoaded.
        """
        ref = ModelRef.parse(name, field=field)
        return self._resolved.version(
            ref, tenant, lambda: self.serving(self._store.seen(ref, tenant))
        )

    def serving(self, ref: ModelRef) -> LoadedVersion:
        """The loaded version of what a key says. Raises what `resolve` does."""
        model, number, _ = self._store.resolve(ref)
        version = self._loaded.get((model, number))
        if version is None and ref.version is None and ref.alias is None:
            version = self._newest(model) if "stable" not in self._store.aliases(model) else None
        if version is None and ref in self._settled:  # until what it stands for now is loaded
            version = self._loaded.get((model, self._settled[ref]))
        if version is None:
            why = self._failed.get((model, number))
            if why is None and (self.starting or self._is_loading((model, number))):
                raise ModelLoading(f"{version_name(model, number)} is loading", retry_after=1.0)
            raise ModelNotLoaded(
                f"{version_name(model, number)} is in the store but does not serve"
                + (f": {why}" if why else "; LoadModelVersion loads it")
            )
        return version

    def settle(self, ref: ModelRef, number: int) -> None:
        """Let a name stand for this version until another one that it stands for is loaded."""
        self._settled[ref] = number
        self._resolved.clear()

    def _newest(self, model: str) -> LoadedVersion | None:
        numbers = [number for name, number in self._loaded if name == model]
        return self._loaded[model, max(numbers)] if numbers else None

    async def load(
        self, model: str, number: int, *, precision: StepPrecision | None = None
    ) -> None:
        """Load and warm up a version; ready when this returns.

        `precision` None is the one of the settings, where the model can be computed in it. Raises
        ModelNotFound, VersionNotFound, WeightsInvalid, ModelInUse or InvalidField.
        """
        # To its end also when the caller goes away: half loaded would be of use to nobody.
        await asyncio.shield(self._bring_in(model, number, precision))

    async def _bring_in(self, model: str, number: int, precision: StepPrecision | None) -> None:
        key = (model, number)
        async with self._locks.setdefault(key, asyncio.Lock()):
            if key in self._loaded:
                _check_precision(self._loaded[key], precision)
                return
            folder = self._store.resolve(ModelRef(model, number))[2]
            begin = time.monotonic()
            self._ordinals += 1
            try:
                version = await asyncio.to_thread(
                    self._read, model, number, folder, self._ordinals, precision
                )
            except (WeightsError, ConfigError) as error:
                self._failed[key] = str(error)
                raise WeightsInvalid(f"{version_name(model, number)}: {error}") from error
            self._failed.pop(key, None)
            async with self._policies:  # a new one that is being set reaches this version too
                try:
                    version.watch(await asyncio.to_thread(self._store.health_policy, model))
                except WeightsInvalid as error:
                    self._failed[key] = error.message
                    version.metrics.remove()
                    raise
                if version.stepwise:
                    await self._engine.call(self._engine.versions.append, version)
                self._loaded[key] = self._by_ordinal[version.ordinal] = version
                self._resolved.clear()
            self._count(version, time.monotonic() - begin)
            self._on_change()

    def _read(
        self,
        model: str,
        number: int,
        folder: Path,
        ordinal: int,
        precision: StepPrecision | None,
    ) -> LoadedVersion:
        network: Network = load(folder)
        metrics = self._metrics.version(model, number)
        try:
            version = LoadedVersion(
                network.eval(),
                model=model,
                version=number,
                ordinal=ordinal,
                digest=bytes.fromhex(digest(folder)),
                device=self.device,
                settings=self._settings,
                metrics=metrics,
                precision=self._precision(network, precision),
                baseline=_baseline(folder, network),
                parties=self._engine.parties,
            )
            if version.stepwise:
                warm_up(version, self._settings.max_batch, self._settings.chunk_slice)
        except BaseException:
            metrics.remove()
            raise
        return version

    def _precision(self, network: Network, asked: StepPrecision | None) -> StepPrecision:
        """What was asked for, or what is set where this network can be computed so."""
        try:
            wanted = asked or self._settings.precision
            check_precision(network, self.device, wanted)
        except ConfigError as error:
            if asked is not None:
                raise InvalidField(str(error), field="precision") from None
            return "float32"
        return wanted

    def _count(self, version: LoadedVersion, seconds: float) -> None:
        version.metrics.model_load.observe(seconds)
        config = version.config
        if version.stepwise and self._settings.gate_sample_seconds:
            self._metrics.gates.expect(version.model, config, generative=version.generative)
        version.metrics.describe(
            config.cell,
            str(config.layers),
            str(config.hidden_size),
            version.kernel.name,
            version.device,
        )
        log.info("%s ready in %.2f s", version.name, seconds, extra={"kernel": version.kernel.name})

    async def set_health_policy(self, model: str, policy: HealthPolicy) -> None:
        """Keep a policy, and put the model's live sessions under it.

        Raises ModelNotFound, StoreUnwritable.
        """
        await asyncio.shield(self._set_policy(model, policy))

    async def _set_policy(self, model: str, policy: HealthPolicy) -> None:
        async with self._policies:
            await asyncio.to_thread(self._store.set_health_policy, model, policy)
            await self._watch(model, policy)

    async def follow_health_policies(self) -> None:
        """Take up what other servers have set in the same store."""
        for model in {version.model for version in self.versions}:
            async with self._policies:
                try:
                    policy = await asyncio.to_thread(self._store.health_policy, model)
                except CarouselError as error:
                    log.error("models/%s keeps its health policy: %s", model, error.message)
                else:
                    await self._watch(model, policy)

    async def _watch(self, model: str, policy: HealthPolicy) -> None:
        former = [v for v in self.versions if v.model == model and v.policy != policy]
        for version in former:
            await self._engine.call(version.watch, policy)
        if former:
            log.info("models/%s has a health policy of %d rules now", model, len(policy))

    async def unload(self, model: str, number: int, *, force: bool) -> None:
        """Take a version out of service. Raises ModelInUse while it has sessions, unless forced."""
        await asyncio.shield(self._take_out(model, number, force))

    async def _take_out(self, model: str, number: int, force: bool) -> None:
        key = (model, number)
        async with self._locks.setdefault(key, asyncio.Lock()):
            version = self._loaded.get(key)
            if version is None:
                self._store.resolve(ModelRef(model, number))
                return
            if version.stepwise:
                await self._engine.call(self._retire, version, force)
            del self._loaded[key], self._by_ordinal[version.ordinal]
            self._resolved.clear()
            version.metrics.remove()
            log.info("%s unloaded", version.name)
            self._on_change()

    def _retire(self, version: LoadedVersion, force: bool) -> None:
        if version.sessions and not force:
            raise ModelInUse(
                f"{version.name} has {version.sessions} live sessions; end them, or use force"
            )
        version.retired = True
        self._sessions.end_all(version, session_pb2.END_REASON_DRAINED)
        self._engine.retire(version)

    def state(self, model: str, number: int) -> tuple[model_pb2.VersionState.ValueType, str]:
        key = (model, number)
        if key in self._loaded:
            return model_pb2.VERSION_STATE_READY, ""
        if self._is_loading(key):
            return model_pb2.VERSION_STATE_LOADING, ""
        if key in self._failed:
            return model_pb2.VERSION_STATE_FAILED, self._failed[key]
        return model_pb2.VERSION_STATE_UNLOADED, ""

    def precision(self, model: str, number: int) -> model_pb2.StepPrecision.ValueType:
        """In what numbers a loaded version computes."""
        version = self._loaded.get((model, number))
        if version is None:
            return model_pb2.STEP_PRECISION_UNSPECIFIED
        return PRECISIONS[version.precision]

    def _is_loading(self, key: tuple[str, int]) -> bool:
        lock = self._locks.get(key)
        return lock is not None and lock.locked()

    def sessions(self, model: str, number: int, tenant: str = "") -> int:
        """Live sessions of a version: those of a tenant, or all."""
        version = self._loaded.get((model, number))
        if version is None or not version.stepwise:
            return 0
        if not tenant:
            return version.sessions
        return self._engine.table.count(version.ordinal, tenant)

    def seen_by(self, tenant: str) -> list[LoadedVersion]:
        """Loaded versions of models that a tenant may use."""
        return [v for v in self.versions if not tenant or owner_of(v.model) in ("", tenant)]


def _check_precision(version: LoadedVersion, asked: StepPrecision | None) -> None:
    if asked not in (None, version.precision):
        raise ModelInUse(
            f"{version.name} serves in {version.precision}; unload it first to have {asked}"
        )


def _baseline(folder: Path, network: Network) -> Baseline | None:
    """A version serves without one: drift is then not measured."""
    try:
        return load_baseline(folder, network.config)
    except ConfigError as error:
        log.warning("%s: %s", folder, error)
        return None


def warm_up(version: LoadedVersion, max_batch: int, chunk_slice: int) -> None:
    """Run every kernel once in typical sizes, so that no caller pays for what happens only once."""
    shape, tokens = version.input_shape, version.config.takes_tokens
    kind = torch.int64 if tokens else torch.float32
    initial = version.network.initial_rows(1).detach().to(version.device)
    for batch in sorted({min(size, max_batch) for size in WARM_UP_BATCHES}):
        rows = initial.expand(batch, -1).contiguous()
        with torch.no_grad():
            version.kernel.step(
                torch.zeros((batch, *shape), dtype=kind, device=version.device), rows
            )
    chunk = torch.zeros((1, chunk_slice, *shape), dtype=kind, device=version.device)
    with torch.no_grad():
        version.kernel.chunk(chunk, torch.tensor([chunk_slice]), initial)
