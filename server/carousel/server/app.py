"""The server as a whole: its parts put together, started, drained and stopped."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
import time
from collections.abc import Callable
from importlib.metadata import version

import torch
from prometheus_client import CollectorRegistry

from carousel.errors import CarouselError
from carousel.exposition import Certificate, CertificateError
from carousel.model import KERNELS
from carousel.model.zoo import shipped
from carousel.server import http, slices, tls
from carousel.server.access.grant import AccessError
from carousel.server.access.opening import open_gate
from carousel.server.access.rules import NoRule
from carousel.server.access_log import AccessLogError, open_recorder
from carousel.server.address import address
from carousel.server.at_rest import AtRest
from carousel.server.audit.retention import Retention
from carousel.server.audit.writer import Writer
from carousel.server.batch_audit import BatchAudit
from carousel.server.call_server import CallServer
from carousel.server.device_gauges import DeviceGauges
from carousel.server.engine import Engine
from carousel.server.follower import Follower
from carousel.server.frontends import forwarded as inside
from carousel.server.frontends.port import PortTaken
from carousel.server.frontends.supervisor import FrontEndError, FrontEnds
from carousel.server.gates.sampler import GateSampler
from carousel.server.hall import Hall
from carousel.server.health_reports import HealthReports
from carousel.server.held.keys import Keyring, KeysError
from carousel.server.live_gauges import LiveGauges
from carousel.server.metrics import Metrics
from carousel.server.page import Looks
from carousel.server.quotas import LimitsError, Quotas
from carousel.server.quotas.usage import Usage
from carousel.server.registry import Registry
from carousel.server.rpc_metrics import RpcMetrics
from carousel.server.services.admin_service import AdminService
from carousel.server.services.inference_service import InferenceService
from carousel.server.services.model_service import ModelService
from carousel.server.services.session_service import SessionService
from carousel.server.services.training_service import TrainingService
from carousel.server.sessions import Sessions
from carousel.server.settings import Settings
from carousel.server.store import ModelStore
from carousel.server.stores import StateStore, open_store
from carousel.server.tracing.opening import TracingError, open_tracer
from carousel.server.tracing.trace import NO_TRACER
from carousel.server.training.office import Office

log = logging.getLogger("carousel.server")

# So many objects more than at the last look let Python look for cycles among the young. Of 700, its
# default, nearly all are of calls under way, which it would look at again and again.
YOUNG_OBJECTS = 20_000

NO_PORT = (
    "can't listen on {}: the port is in use or the address is not ours; --port 0 takes a free one"
)
LINGER_SECONDS = 0.25
STORE_SWEEP_SECONDS = 5.0
END_SECONDS = 5.0  # for the end of a model's sessions; a turn that hangs must not keep us


class StartError(Exception):
    """The server can't start; the message says why."""


class Server:
    """One Carousel server. `start`, then `wait` until it is stopped or drained.

    `port` and `http_port` are the ports that it listens on once it is started.
    """

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self._clock = clock  # seconds since the epoch: what lifetimes are measured by
        self.port = 0
        self.http_port: int | None = None
        self.instance_id = secrets.token_hex(8)
        self.metrics = Metrics()
        self._ready = False
        self._follower: Follower | None = None
        self._quota_watch: asyncio.Task[None] | None = None
        self._stopped = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._health = HealthReports()
        self.front_ends: FrontEnds | None = None

    async def start(self) -> None:
        """Listen, load and warm up the models, then report ready. Raises StartError."""
        begin = time.monotonic()
        settings = self.settings
        if settings.kernel is not None and settings.kernel not in KERNELS:
            raise StartError(f"kernel must be one of {', '.join(KERNELS)}, got {settings.kernel!r}")
        torch.set_num_threads(settings.threads)
        slices.take_turns_quickly()
        try:
            self.tracer = open_tracer(settings, instance_id=self.instance_id)
        except TracingError as error:
            raise StartError(str(error)) from error
        try:
            self.gate = await asyncio.to_thread(open_gate, settings, self.metrics.access)
            quotas = Quotas(settings.quotas, refused=self._refused)
        except (AccessError, LimitsError) as error:
            raise StartError(str(error)) from error
        store = ModelStore(
            settings.store, shipped=shipped() if settings.shipped else None, quotas=quotas
        )
        sessions = Sessions(settings, quotas)
        engine = Engine(
            asyncio.get_running_loop(),
            metrics=self.metrics,
            audit=Writer(settings.audit_folder, self.metrics),
            audit_state_every=settings.audit_state_every,
            store=self._state_store(),
            sweep=sessions.sweep,
            lose=sessions.lose,
            clock=self._clock,
            batch_audit=BatchAudit(every=every) if (every := settings.batch_audit_every) else None,
            gates=self._sampler(),
            tracer=self.tracer,
        )
        sessions.attach_to(engine)
        try:
            registry = Registry(
                store,
                engine,
                sessions,
                settings,
                self.metrics,
                on_change=lambda: self._health.models(self.hall.registry.versions),
            )
        except ValueError as error:
            raise StartError(str(error)) from error
        LiveGauges(
            engine.versions,
            engine.table,
            capacity=settings.max_sessions,
            turn_age=lambda: engine.turn_age,
            registry=self.metrics.registry,
        )
        DeviceGauges(registry.device, registry=self.metrics.registry)
        # A store of its own: whoever asks for a session must not wait behind what is written.
        at_rest = AtRest(self._state_store(), registry, self.metrics, self._clock)
        sessions.fetch = lambda ids, found: at_rest.fetch(
            ids, lambda entries: engine.post(lambda: found(entries))
        )
        try:
            keyring = Keyring(settings.state_key_file, settings.data_folder)
        except KeysError as error:
            raise StartError(str(error)) from error
        self.hall = Hall(
            settings,
            self.metrics,
            store,
            engine,
            sessions,
            registry,
            at_rest,
            keyring,
            self.tracer,
            quotas,
        )
        self._retention = Retention(self.hall)
        self.office = Office(
            settings, self.metrics, store, registry, instance_id=self.instance_id, quotas=quotas
        )
        self._usage = Usage(self.hall, self.office, self.metrics)
        self.metrics.build_info.labels(version("carousel-rnn"), registry.device).set(1)
        registry.starting = True
        await self._listen()
        self.gate.start()
        engine.start()
        if settings.store_refresh is not None:
            self._follower = Follower(store, settings.load)
            # Before anything is loaded, so that nothing is missed.
            await asyncio.to_thread(self._follower.look)
        await registry.load_first()
        gc.collect()
        gc.freeze()  # torch's hundred thousands of objects stay: no collection looks at them again
        gc.set_threshold(YOUNG_OBJECTS)
        self.office.start()
        if quotas.on:
            self._quota_watch = asyncio.get_running_loop().create_task(self._usage.follow())
        self._sweeper = asyncio.get_running_loop().create_task(self._sweep_store())
        if self._follower is not None and settings.store_refresh is not None:
            self._follower.start(registry, every=settings.store_refresh)
        self._ready = True
        await self._health.ready()
        log.info(
            "ready on %s",
            address(settings.host, self.port),
            extra={
                "http_port": self.http_port,
                "frontends": settings.frontends,
                "device": registry.device,
                "models": [v.name for v in registry.versions],
                "seconds": round(time.monotonic() - begin, 2),
            },
        )

    def _refused(self, tenant: str, quota: str) -> None:
        self.metrics.quota_refusals.labels(self._usage.label(tenant), quota).inc()

    def _sampler(self) -> GateSampler | None:
        seconds = self.settings.gate_sample_seconds
        return GateSampler(seconds=seconds, metrics=self.metrics.gates) if seconds else None

    def _state_store(self) -> StateStore | None:
        """A store of sessions, not opened yet. Raises StartError."""
        address = self.settings.session_store_address
        try:
            return None if address is None else open_store(address)
        except ValueError as error:
            raise StartError(f"session_store: {error}") from error

    async def _sweep_store(self) -> None:
        """Now and then, end the sessions at rest whose time is up, and delete old audit logs."""
        slots = self.hall.engine.table.slots
        while True:
            await asyncio.sleep(STORE_SWEEP_SECONDS)
            try:
                await self.hall.at_rest.sweep(slots.__contains__)
                await self._retention.sweep_when_due()
            except Exception:  # a bug must not end the sweeping
                log.exception("sessions at rest or audit logs could not be swept")

    async def wait(self) -> None:
        """Until the server has stopped."""
        await self._stopped.wait()

    def drain(self, timeout: float | None = None, *, successor: str = "") -> None:
        """Begin to shut down gracefully: nothing new, what waits is finished, then stop.

        `successor` is where another server goes on with the sessions of the store.
        """
        if self._draining is None:
            self.hall.successor = successor
            timeout = self.settings.drain_timeout if timeout is None else timeout
            self._draining = asyncio.get_running_loop().create_task(self._drain(timeout))

    def interrupt(self) -> None:
        """Drain; asked again, cut off what still runs."""
        if self._draining is None:
            self.drain()
        else:
            log.warning("asked again to stop: calls that still run are cut off")
            self._cut_off = asyncio.get_running_loop().create_task(self._end_calls(0))

    async def stop(self, grace: float = 0.0) -> None:
        """Stop; calls still running have `grace` seconds."""
        if self._stopped.is_set():
            return
        self._ready = False
        self._sweeper.cancel()
        if self._quota_watch is not None:
            self._quota_watch.cancel()
        if self._follower is not None:
            await self._follower.close()
        self.calls.unwatch()
        await asyncio.gather(self._end_calls(grace), self.office.close(grace))
        await self.gate.close()
        await self._store_all(min(max(grace, END_SECONDS), 60.0))
        await asyncio.to_thread(self.hall.engine.stop)
        await self.hall.at_rest.close()
        await asyncio.to_thread(self.tracer.close)
        if self._http is not None:
            await asyncio.to_thread(self._http.stop)
        if self._recorder is not None:
            await asyncio.to_thread(self._recorder.close)
        self._stopped.set()
        log.info("stopped")

    def _takes_work(self) -> bool:
        front = self.front_ends is None or self.front_ends.take_calls
        return self._ready and front and not self.hall.engine.is_stuck

    async def _drain(self, seconds: float) -> None:
        log.info("draining", extra={"sessions": len(self.hall.engine.table)})
        self.hall.draining = True
        self._ready = False
        await self._health.going()
        # What is committed is in the store before anybody is sent away: whoever goes on with a
        # session elsewhere finds it there.
        await self._store_all(seconds)
        self._inference.drain()
        if self.front_ends is not None:
            self.front_ends.drain(self.hall.draining_error())
        # A call that is on the wire at the moment of the stop is cut off without a reason; for a
        # moment, callers are still told that the server is going.
        await asyncio.sleep(min(LINGER_SECONDS, seconds))
        # Calls that run are finished; jobs write a checkpoint and wait for the next server.
        jobs = self.office.close(min(seconds, self.settings.training_grace))
        await asyncio.gather(self._end_calls(seconds), jobs)
        await self._store_all(END_SECONDS)
        ending = self.hall.engine.call(self.hall.sessions.end_volatile)
        await asyncio.wait([ending], timeout=END_SECONDS)
        await self.stop()

    async def _store_all(self, seconds: float) -> None:
        """Bring every durable session into the store, as far as it takes them in time."""
        try:
            async with asyncio.timeout(seconds):
                await self.hall.stored(self.hall.engine.behind.secure_all)
        except (TimeoutError, CarouselError) as error:
            log.error("not all sessions could be stored before the end: %s", error)

    async def _listen(self) -> None:
        settings = self.settings
        self._http = None
        try:
            self._recorder = open_recorder(settings, self.metrics.access_log)
            self._add_services()
            certificate = tls.open_certificate(settings.certificate_files, self.metrics.registry)
        except (AccessLogError, NoRule, CertificateError) as error:
            raise StartError(str(error)) from error
        await self._take_calls(certificate)
        try:
            shown = (self.metrics.registry, self._looks, self._takes_work, certificate, self.gate)
            self._http = http.listen(settings, *shown, self._recorder)
        except OSError as error:
            await self._end_calls(0)
            raise StartError(
                f"can't listen on {address(settings.host, settings.http_port or 0)} for HTTP: "
                f"{error.strerror}; --http-port 0 takes a free one"
            ) from error
        self.http_port = None if self._http is None else self._http.port

    async def _take_calls(self, certificate: Certificate | None) -> None:
        """Listen on the port; with front ends, for them alone, and let them listen on it."""
        settings, front_ends = self.settings, self.front_ends
        wanted = address(settings.host, settings.port)
        if front_ends is None:
            self.port = await self.calls.start(wanted, certificate)
            if not self.port:
                raise StartError(NO_PORT.format(wanted))
            self.calls.watch(self.metrics.resets)
            return
        await self.calls.start(f"unix:{front_ends.socket}")
        try:
            self.port = await front_ends.start()
        except (PortTaken, FrontEndError, OSError) as error:
            await self._end_calls(0)
            if isinstance(error, PortTaken):
                raise StartError(NO_PORT.format(wanted)) from error
            raise StartError(f"the front ends can't be started: {error}") from error

    async def _end_calls(self, grace: float) -> None:
        """Take no more; calls that run have `grace` seconds."""
        if self.front_ends is not None:
            await self.front_ends.stop(grace)
        await self.calls.stop(grace)

    def _add_services(self) -> None:
        hall, settings = self.hall, self.settings
        self.training_service = TrainingService(self.office)
        self._inference = InferenceService(hall)
        admin = AdminService(hall, self._usage, instance_id=self.instance_id, drain=self.drain)
        models = ModelService(hall.store, hall.registry, settings)
        sessions = SessionService(hall)
        self._looks = Looks(hall, self.office, admin, models, sessions, self.training_service)
        servicers = {
            "admin": admin,
            "inference": self._inference,
            "model": models,
            "session": sessions,
            "training": self.training_service,
        }
        if settings.frontends:  # which let calls in, count, record and cut them
            self.front_ends = FrontEnds(hall, self._inference, self.metrics, self._recorder)
            uncounted = RpcMetrics(CollectorRegistry())
            self.calls = CallServer(inside.OPTIONS, settings, uncounted, inside.ForwardedGate())
        else:
            options = settings.channel_options(settings.max_message_bytes)
            every = (settings, self.metrics, self.gate, self._recorder)
            self.calls = CallServer(options, *every)
        # Front ends log calls too, but do not know their traces.
        behind = self.front_ends is not None
        self.calls.add(
            servicers,
            self._health.servicer,
            tracer=self.tracer,
            logged=not behind or self.tracer is not NO_TRACER,
            for_front_ends=behind,
        )
