"""What the page asks of the services: the RPCs' own handlers, and their messages as JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from carousel.errors import InvalidField, SessionEnded, SessionNotFound
from carousel.model import TokenizerError
from carousel.server import names
from carousel.server.access.caller import acting_for
from carousel.server.hall import Hall
from carousel.server.page.numbers import Past, numbers, read
from carousel.server.rpc import Context
from carousel.server.services.admin_service import AdminService
from carousel.server.services.model_service import ModelService
from carousel.server.services.session_service import SessionService
from carousel.server.services.training_service import TrainingService
from carousel.server.training.messages import encode_event, encode_job
from carousel.server.training.office import Office
from carousel.v1 import (
    admin_service_pb2,
    model_pb2,
    model_service_pb2,
    session_pb2,
    training_pb2,
    training_service_pb2,
)
from carousel.v1 import session_service_pb2 as session_service

Json = dict[str, Any]
Resource = model_pb2.Model | session_pb2.Session | training_pb2.Job

MODELS, SESSIONS, JOBS = 50, 15, 50
EVENTS = 1000
STEPS, UNITS = 128, 24


class _Visitor:
    """The caller that handlers see when the page asks: nobody in particular."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "page"


VISITOR = cast(Context, _Visitor())


class Looks:
    """Each look is a value for JSON; field names are those of the protos."""

    def __init__(
        self,
        hall: Hall,
        office: Office,
        admin: AdminService,
        models: ModelService,
        sessions: SessionService,
        training: TrainingService,
    ) -> None:
        self._hall = hall
        self._office = office
        self._admin = admin
        self._models = models
        self._sessions = sessions
        self._training = training
        self.past = Past(hall.metrics.registry)

    async def status(self) -> Json:
        """The server and its metrics at this moment, and counters of five minutes before."""
        info = await self._admin.GetServerInfo(admin_service_pb2.GetServerInfoRequest(), VISITOR)
        statistics = await asyncio.to_thread(read, self._hall.metrics.registry)
        return {
            "time": statistics.create_time.ToNanoseconds() / 1e9,
            "server": plain(info),
            "numbers": numbers(statistics),
            "before": self.past.first,
        }

    async def models(self) -> Json:
        """The first models, with all their versions."""
        page = await self._models.ListModels(
            model_service_pb2.ListModelsRequest(page_size=MODELS), VISITOR
        )
        found = []
        for model in page.models:
            request = model_service_pb2.ListModelVersionsRequest(parent=model.name)
            with acting_for(model.tenant):
                listed = await self._models.ListModelVersions(request, VISITOR)
            for version in listed.versions:
                version.config.json = ""  # a tokenizer's table can have megabytes
                version.name = keyed(version.name, model.tenant)
            versions = [plain(one) for one in listed.versions]
            found.append(owned(model) | {"versions": versions})
        return {"models": found, "more": bool(page.next_page_token)}

    async def sessions(self, query: Mapping[str, str]) -> Json:
        """One page of sessions; `begins` are the first letters of their ids."""
        begins, model, tenant = query.get("begins", "").lower(), query.get("model", ""), ""
        if owner := names.owner_of(model.removeprefix("models/")):
            model, tenant = names.model_name(model), owner
        token = query.get("page_token", "")
        first: list[session_pb2.Session] = []
        if begins and not token:
            if not names.is_id(names.id_of(begins)):
                return {"sessions": [], "total_size": "0", "next_page_token": ""}
            first = await self._of_key(begins, model)
            token = names.page_token(names.id_of(begins) if tenant else begins)
        request = session_service.ListSessionsRequest(
            page_size=SESSIONS, page_token=token, model=model
        )
        with acting_for(tenant_in(f"{tenant}/") if tenant else ""):
            page = await self._sessions.ListSessions(request, VISITOR)
        found = [one for one in page.sessions if names.session_key(one).startswith(begins)]
        if len(found) < len(page.sessions):  # the others come behind all that begin so
            page.next_page_token = ""
        del page.sessions[:]
        return plain(page) | {"sessions": [owned(one) for one in (*first, *found)]}

    async def _of_key(self, key: str, model: str) -> list[session_pb2.Session]:
        """The session that is called exactly so, if it is of the model."""
        request = session_service.GetSessionRequest(name=names.session_name(key))
        try:
            with acting_for(tenant_in(key)):
                found = await self._sessions.GetSession(request, VISITOR)
        except (SessionNotFound, SessionEnded):
            return []
        wanted = not model or names.ModelRef.parse(model).covers(found.model_version)
        return [found] if wanted else []

    async def session(self, key: str) -> Json:
        """The inside of a session; from now on it is watched for a minute."""
        tenant = tenant_in(key)
        request = session_service.InspectSessionRequest(
            name=names.session_name(key), steps=STEPS, units=UNITS
        )
        with acting_for(tenant):
            found = await self._sessions.InspectSession(request, VISITOR)
        texts = self._texts(found.session.model_version, tenant, found.tokens)
        return plain(found) | {"session": owned(found.session), "texts": texts}

    def _texts(self, version: str, tenant: str, tokens: Any) -> list[str]:
        """What each token adds to the text; empty for a model without a tokenizer."""
        model, number = names.model_version(version)
        loaded = {(one.model, one.version): one for one in self._hall.registry.versions}
        one = loaded.get((names.key_of(tenant, model), number)) or loaded.get((model, number))
        if one is None or one.config.tokenizer is None:
            return []
        decoder = one.config.tokenizer.decoder()
        try:
            return [decoder.feed(token) for token in tokens]
        except TokenizerError:
            return []

    async def jobs(self) -> Json:
        """The newest jobs."""
        request = training_service_pb2.ListJobsRequest(page_size=JOBS)
        page = await self._training.ListJobs(request, VISITOR)
        return plain(page) | {"jobs": [owned(job) for job in page.jobs]}

    async def job(self, key: str, query: Mapping[str, str]) -> Json:
        """A job, and what was told of it after the event with the number `after`."""
        names.check_id(names.id_of(key), field="name")
        after = query.get("after", "0")
        sequence = int(after) if names.is_number(after) else 0
        job, events = await asyncio.to_thread(self._office.jobs.events, key, sequence, EVENTS)
        return {
            "job": owned(encode_job(job)),
            "events": [plain(encode_event(job, event)) for event in events],
        }


def owned(message: Resource) -> Json:
    """A resource, with its key in place of the id: the page shows those of all tenants."""
    found = plain(message)
    found["name"] = keyed(message.name, message.tenant)
    return found


def tenant_in(key: str) -> str:
    """The tenant in a key that a browser sent. Raises InvalidField."""
    tenant = names.owner_of(key)
    if tenant and not names.is_tenant(tenant):
        raise InvalidField(f"a tenant is 1 to 63 of a-z, 0-9 and '-', got {tenant!r:.100}")
    return tenant


def keyed(name: str, tenant: str) -> str:
    kind, rest = name.split("/", 1)
    return f"{kind}/{names.key_of(tenant, rest)}"


def plain(message: Message) -> Json:
    """A message as protobuf writes it in JSON: 64-bit integers are text, NaN is "NaN"."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
