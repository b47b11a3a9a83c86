"""The gate: every call passes it before anything of it is read, looked up or done."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import grpc

from carousel.errors import PermissionDenied, Unauthenticated, Unavailable
from carousel.server.access import headers
from carousel.server.access.caller import SCOPES, Caller, denied, missing_scope
from carousel.server.access.grant import Grant, Source, Verifier, refused
from carousel.server.access.metrics import NONE, AccessMetrics
from carousel.server.access.rules import ANY, PUBLIC, NoRule
from carousel.server.access.spiffe import SpiffeTable, peer_ids

log = logging.getLogger("carousel.access")

KNOWN = 16_384  # credentials that are remembered as verified
WAITING = 256  # calls whose credentials are being verified
THREADS = 2  # that verify credentials of one kind
REFRESH_SECONDS = 1.0
HTTP_PATIENCE_SECONDS = 10.0

Context = grpc.aio.ServicerContext[Any, Any]

EVERYONE = Grant(caller=Caller("anyone", "", SCOPES), kind=NONE, source=Source(), until=math.inf)
"""Of a server that knows no callers."""

STRANGER = Grant(
    caller=Caller("anyone", "", frozenset()), kind=NONE, source=Source(), until=math.inf
)
"""Of what is public on a server that knows its callers."""


class Gate(Protocol):
    """Lets calls in, or refuses them."""

    def rule(self, method: str) -> str:
        """What a method needs, by its full name. Raises NoRule."""
        ...

    async def admit(self, rule: str, context: Context) -> Grant:
        """Who calls. Raises Unauthenticated, PermissionDenied, Unavailable, InvalidField."""
        ...

    def admit_http(
        self, authorization: list[str], uris: Sequence[str], scopes: frozenset[str]
    ) -> None:
        """The same for the HTTP port, from a thread of its own; one of the scopes is enough.

        `uris` are those of the client's certificate, which was verified.
        """
        ...

    def start(self) -> None: ...

    async def close(self) -> None: ...


class OpenGate:
    """Of a server without credentials: everyone may do everything, for the tenant they name."""

    def __init__(self, rules: Mapping[str, str]) -> None:
        self._rules = rules

    def rule(self, method: str) -> str:
        return _rule(self._rules, method)

    async def admit(self, rule: str, context: Context) -> Grant:
        if rule == PUBLIC:
            return EVERYONE
        tenant = headers.tenant_of(context.invocation_metadata())
        return _for_tenant(EVERYONE, tenant) if tenant else EVERYONE

    def admit_http(
        self, authorization: list[str], uris: Sequence[str], scopes: frozenset[str]
    ) -> None: ...

    def start(self) -> None: ...

    async def close(self) -> None: ...


class GuardedGate:
    """Of a server that knows its callers, by credentials and by certificates."""

    def __init__(
        self,
        rules: Mapping[str, str],
        verifiers: Sequence[Verifier],
        table: SpiffeTable | None,
        metrics: AccessMetrics,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._rules = rules
        self._verifiers = [(one, ThreadPoolExecutor(THREADS, one.kind)) for one in verifiers]
        self._table = table
        self._metrics = metrics
        self._clock = clock
        # By digest of the header and by the tenant that is acted for. Grants that no longer
        # hold are left to be replaced, or to be pushed out by others.
        self._known: dict[tuple[bytes, str], Grant] = {}
        self._places = threading.Semaphore(WAITING)
        self._watching: asyncio.Task[None] | None = None

    def rule(self, method: str) -> str:
        return _rule(self._rules, method)

    async def admit(self, rule: str, context: Context) -> Grant:
        if rule == PUBLIC:
            return STRANGER
        kind = NONE
        try:
            authorization, tenant = headers.read(context.invocation_metadata())
            if authorization is None:
                grant = self._by_certificate(peer_ids(context.auth_context()), tenant)
            else:
                key = (_digest(authorization), tenant)
                known = self._known.get(key)
                if known is not None and known.holds(self._clock()):
                    grant = known
                else:
                    kind, work = self._start(headers.bearer(authorization), key)
                    grant = await asyncio.wrap_future(work)
        except Unauthenticated:
            self._metrics.unauthenticated[kind].inc()
            raise
        denied.set(grant.caller)
        if tenant and tenant != grant.caller.tenant:
            self._metrics.denied[grant.kind].inc()
            raise PermissionDenied("the credential is not of the tenant that the call names")
        if rule != ANY and rule not in grant.caller.scopes:
            for scope in rule.split():
                if scope not in grant.caller.scopes:
                    self._metrics.denied[grant.kind].inc()
                    raise missing_scope(scope)
        self._metrics.admitted[grant.kind].inc()
        return grant

    def admit_http(
        self, authorization: list[str], uris: Sequence[str], scopes: frozenset[str]
    ) -> None:
        kind = NONE
        try:
            value = headers.over_http(authorization)
            if value is None:
                grant = self._by_certificate(uris, "")
            else:
                kind, work = self._start(headers.bearer(value), (_digest(value), ""))
                grant = _in_time(work)
        except Unauthenticated:
            self._metrics.unauthenticated[kind].inc()
            raise
        denied.set(grant.caller)
        if scopes.isdisjoint(grant.caller.scopes):
            self._metrics.denied[grant.kind].inc()
            raise missing_scope(" or ".join(sorted(scopes)))
        self._metrics.admitted[grant.kind].inc()

    def start(self) -> None:
        """Look every second whether credentials were made or withdrawn."""
        self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        for _, pool in self._verifiers:
            pool.shutdown(wait=False, cancel_futures=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            for one in (self._table, *(verifier for verifier, _ in self._verifiers)):
                if one is not None:
                    try:
                        await asyncio.to_thread(one.refresh)
                    except Exception:  # a bug must not end the watch
                        log.exception("credentials could not be looked at again")

    def _by_certificate(self, uris: Sequence[str], tenant: str) -> Grant:
        grant = None if self._table is None else self._table.find(uris)
        if grant is None:
            raise _missing()
        return _for_tenant(grant, tenant)

    def _start(self, credential: str, key: tuple[bytes, str]) -> tuple[str, Future[Grant]]:
        """Begin to verify, in a thread: a slow hash has no place in the event loop's."""
        for verifier, pool in self._verifiers:
            if verifier.takes(credential):
                if not self._places.acquire(blocking=False):
                    raise Unavailable(
                        "too many credentials are being verified; try again", retry_after=1.0
                    )
                work = pool.submit(self._verify, verifier, credential, key)
                work.add_done_callback(lambda _: self._places.release())
                return verifier.kind, work
        raise refused("a credential of a kind that this server does not know")

    def _verify(self, verifier: Verifier, credential: str, key: tuple[bytes, str]) -> Grant:
        """For the calls that came with the same credential at once, one verifies it."""
        digest, tenant = key
        now = self._clock()
        grant = self._known.get((digest, ""))
        if grant is None or not grant.holds(now):
            grant = verifier.verify(credential)
            if not grant.holds(now):
                raise refused(f"{grant.caller.name} has expired or was withdrawn")
            self._remember((digest, ""), grant)
        grant = _for_tenant(grant, tenant)
        if tenant and tenant == grant.caller.tenant:
            self._remember(key, grant)
        return grant

    def _remember(self, key: tuple[bytes, str], grant: Grant) -> None:
        known = self._known
        known.pop(key, None)
        known[key] = grant
        while len(known) > KNOWN:
            known.pop(next(iter(known), key), None)


def _rule(rules: Mapping[str, str], method: str) -> str:
    try:
        return rules[method]
    except KeyError:
        raise NoRule(f"{method} has no rule that says who may call it") from None


def _digest(authorization: str) -> bytes:
    """The credential itself is kept nowhere."""
    return hashlib.sha256(authorization.encode()).digest()


def _in_time(work: Future[Grant]) -> Grant:
    try:
        return work.result(HTTP_PATIENCE_SECONDS)
    except TimeoutError:
        work.cancel()
        raise Unavailable("the credential could not be verified in time") from None


def _missing() -> Unauthenticated:
    return Unauthenticated("the call needs a credential: `authorization: Bearer CREDENTIAL`")


def _for_tenant(grant: Grant, tenant: str) -> Grant:
    """The operator's credential may act for any tenant; others stay their own's."""
    if grant.caller.tenant or not tenant:
        return grant
    return dataclasses.replace(grant, caller=dataclasses.replace(grant.caller, tenant=tenant))
