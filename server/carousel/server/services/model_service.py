"""ModelService: decode, call the store or the registry, encode."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Protocol, TypeVar
from weakref import WeakValueDictionary

from google.protobuf import empty_pb2

from carousel.errors import (
    CarouselError,
    InvalidField,
    MessageTooLarge,
    ModelInUse,
    ModelNotFound,
    WeightsInvalid,
)
from carousel.model import StepPrecision
from carousel.server import names
from carousel.server.fair_turn import FairTurn
from carousel.server.health_messages import decode_policy, encode_policy
from carousel.server.health_policy import HealthPolicy
from carousel.server.names import ModelRef
from carousel.server.registry import PRECISIONS
from carousel.server.request_ids import RequestIds
from carousel.server.rpc import Context
from carousel.server.services.model_messages import (
    encode_model,
    encode_version,
    export_header,
)
from carousel.server.settings import Settings
from carousel.server.staging import Staging
from carousel.server.store import DEFAULT_ALIAS, ModelStore
from carousel.server.tenants import address_of, tenant_of
from carousel.server.texts import MAX_TEXT_LENGTH, encode_text
from carousel.server.uploads import Requests, read_header, read_rest, receive, staged, to_end
from carousel.server.version import StoredVersion
from carousel.v1 import model_pb2
from carousel.v1 import model_service_pb2 as pb

log = logging.getLogger(__name__)

T = TypeVar("T")

EXPORT_PIECE = 1024**2
MAX_TEXTS = 65_536
# Configs can be large: a page that gets heavy ends early, as pages may.
PAGE_BYTES = 1024**2


class Loader(Protocol):
    """What this service needs of the registry."""

    async def load(
        self, model: str, number: int, *, precision: StepPrecision | None = None
    ) -> None: ...
    async def set_health_policy(self, model: str, policy: HealthPolicy) -> None: ...
    async def unload(self, model: str, number: int, *, force: bool) -> None: ...
    def state(self, model: str, number: int) -> tuple[model_pb2.VersionState.ValueType, str]: ...
    def sessions(self, model: str, number: int, tenant: str) -> int: ...
    def precision(self, model: str, number: int) -> model_pb2.StepPrecision.ValueType: ...


class ModelService:
    """What there is, what comes in, what serves."""

    def __init__(self, store: ModelStore, registry: Loader, settings: Settings) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings
        self._request_ids: RequestIds[model_pb2.ModelVersion] = RequestIds()
        self._reading = FairTurn()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        after = names.page_key(request.page_token)
        size = names.page_size(request.page_size)
        return await self._read(context, self._page_of_models, tenant_of(context), after, size)

    def _page_of_models(self, tenant: str, after: str, size: int) -> pb.ListModelsResponse:
        listed = self._store.listed(tenant)
        left = [place for place in listed if place > after]
        response = pb.ListModelsResponse()
        for model in map(listed.__getitem__, left[:size]):
            try:
                response.models.append(encode_model(self._store.get(model)))
            except (ModelNotFound, WeightsInvalid) as error:  # deleted just now, or damaged
                log.warning("%s is left out of a list: %s", model, error)
        if len(left) > size:
            response.next_page_token = names.page_token(left[size - 1])
        return response

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> model_pb2.Model:
        model = await self._seen(names.model_id(request.name), context)
        return encode_model(await self._read(context, self._store.get, model))

    async def ListModelVersions(
        self, request: pb.ListModelVersionsRequest, context: Context
    ) -> pb.ListModelVersionsResponse:
        parent = names.model_id(request.parent, field="parent")
        after, tenant = names.page_number(request.page_token), tenant_of(context)
        model = await self._seen(parent, context)
        stored = await self._read(context, self._store.get, model)
        left = [number for number in stored.versions if number > after]
        response, weight = pb.ListModelVersionsResponse(), 0
        for number in left[: names.page_size(request.page_size)]:
            version = await self._read(context, self._store.version, model, number)
            response.versions.append(await self._describe(version, tenant))
            weight += response.versions[-1].ByteSize()
            if weight > PAGE_BYTES:
                break
        if len(response.versions) < len(left):
            response.next_page_token = names.page_token(str(left[len(response.versions) - 1]))
        return response

    async def GetModelVersion(
        self, request: pb.GetModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        version = await self._resolve(request.name, context)
        response = await self._describe(version, tenant_of(context))
        response.card = await asyncio.to_thread(version.card)
        response.baseline_json = await asyncio.to_thread(version.baseline_json)
        return response

    async def UploadModelVersion(
        self, requests: Requests, context: Context
    ) -> model_pb2.ModelVersion:
        try:
            return await self._upload(requests, tenant_of(context))
        except CarouselError:
            await read_rest(requests)
            raise

    async def _upload(self, requests: Requests, tenant: str) -> model_pb2.ModelVersion:
        header = await read_header(requests)

        async def fill(staging: Staging) -> None:
            await receive(header, requests, staging)

        made = await self._take_in(header, tenant, "header.", staged(self._store.stage, fill))
        await read_rest(requests)  # there is more when the request id had a result already
        return made

    async def ImportModelVersion(
        self, request: pb.ImportModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        root = self._settings.import_root
        copy = staged(lambda: self._store.stage_import(root, request.path))
        return await self._take_in(request, tenant_of(context), "", copy)

    async def _take_in(
        self,
        request: pb.UploadHeader | pb.ImportModelVersionRequest,
        tenant: str,
        path: str,
        files: AbstractAsyncContextManager[Staging],
    ) -> model_pb2.ModelVersion:
        model = names.key_of(tenant, names.model_id(request.parent, field=f"{path}parent"))

        async def work() -> model_pb2.ModelVersion:
            # Before the files come, so that nobody sends them in vain.
            await asyncio.to_thread(self._store.check_free, model, request.version)
            size = request.weights_bytes if isinstance(request, pb.UploadHeader) else 0
            await asyncio.to_thread(self._store.check_room, model, size)
            async with files as staging:
                check_only = request.validate_only
                version = await to_end(
                    lambda: self._store.commit(
                        staging, model, request.version, validate_only=check_only
                    ),
                    final=True,
                )
                return await self._describe(version, tenant)

        if request.validate_only:
            return await work()
        field = f"{path}request_id"
        once = self._request_ids.once
        return await once(request.request_id, request, work, field=field, tenant=tenant)

    async def ExportModelVersion(
        self, request: pb.ExportModelVersionRequest, context: Context
    ) -> AsyncIterator[pb.ExportModelVersionResponse]:
        version = await self._resolve(request.name, context)
        header = await asyncio.to_thread(export_header, version)
        # Held open, it can be read to its end even when the version is deleted meanwhile.
        weights = await asyncio.to_thread(version.open_weights)
        with weights:
            yield pb.ExportModelVersionResponse(header=header)
            while data := await asyncio.to_thread(weights.read, EXPORT_PIECE):
                yield pb.ExportModelVersionResponse(data=data)

    async def LoadModelVersion(
        self, request: pb.LoadModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        precision = _precision(request.precision)
        version = await asyncio.to_thread(
            self._store.resolve, await self._own(ModelRef.parse(request.name), context)
        )
        async with self._lock(version):
            await self._registry.load(version.model, version.number, precision=precision)
        return await self._describe(version, tenant_of(context))

    async def UnloadModelVersion(
        self, request: pb.UnloadModelVersionRequest, context: Context
    ) -> model_pb2.ModelVersion:
        await self._own(ModelRef.parse(request.name), context)
        version = await self._resolve(request.name, context)
        await self._registry.unload(version.model, version.number, force=request.force)
        return await self._describe(version, tenant_of(context))

    async def DeleteModelVersion(
        self, request: pb.DeleteModelVersionRequest, context: Context
    ) -> empty_pb2.Empty:
        name, number = names.model_version(request.name)
        model = (await self._own(ModelRef(name), context)).model
        version = await asyncio.to_thread(self._store.version, model, number)
        async with self._lock(version):
            state, _ = self._registry.state(model, number)
            if state in (model_pb2.VERSION_STATE_READY, model_pb2.VERSION_STATE_LOADING):
                raise ModelInUse(f"{version.name} serves; unload it first", field="name")
            await to_end(lambda: self._store.delete(model, number), final=True)
        return empty_pb2.Empty()

    async def TokenizeText(
        self, request: pb.TokenizeTextRequest, context: Context
    ) -> pb.TokenizeTextResponse:
        if not 1 <= len(request.texts) <= MAX_TEXTS:
            raise InvalidField(
                f"texts must be 1 to {MAX_TEXTS:,}, got {len(request.texts):,}", field="texts"
            )
        if (size := sum(map(len, request.texts))) > MAX_TEXT_LENGTH:
            raise MessageTooLarge(
                f"texts must have at most {MAX_TEXT_LENGTH:,} characters together, got {size:,}",
                field="texts",
            )
        version = await self._resolve(request.name, context)
        return await asyncio.to_thread(_tokenize, version, request.texts)

    async def SetModelAlias(
        self, request: pb.SetModelAliasRequest, context: Context
    ) -> model_pb2.Model:
        name, alias = names.model_id(request.name), names.check_alias(request.alias)
        model = (await self._own(ModelRef(name), context)).model
        set_alias = self._store.set_alias
        return encode_model(
            await to_end(lambda: set_alias(model, alias, request.version), final=True)
        )

    async def DeleteModelAlias(
        self, request: pb.DeleteModelAliasRequest, context: Context
    ) -> model_pb2.Model:
        name, alias = names.model_id(request.name), names.check_alias(request.alias)
        model = (await self._own(ModelRef(name), context)).model
        return encode_model(
            await to_end(lambda: self._store.delete_alias(model, alias), final=True)
        )

    async def GetHealthPolicy(
        self, request: pb.GetHealthPolicyRequest, context: Context
    ) -> model_pb2.HealthPolicy:
        model = await self._seen(names.model_id(request.name), context)
        return encode_policy(await self._read(context, self._store.health_policy, model))

    async def SetHealthPolicy(
        self, request: pb.SetHealthPolicyRequest, context: Context
    ) -> model_pb2.HealthPolicy:
        name, policy = names.model_id(request.name), decode_policy(request.policy)
        model = (await self._own(ModelRef(name), context)).model
        await self._registry.set_health_policy(model, policy)
        return encode_policy(policy)

    async def _read(self, context: Context, read: Callable[..., T], *args: object) -> T:
        """Read the store: one call at a time, to its end, and callers in turn.

        Each thread that is in Python keeps steps waiting, and more of them read no faster.
        """
        async with self._reading.of(address_of(context)):
            return await to_end(lambda: read(*args))

    def _lock(self, version: StoredVersion) -> asyncio.Lock:
        """Held while a version is loaded or deleted, so that neither happens during the other."""
        key = names.version_key(version.model, version.number)
        return self._locks.setdefault(key, asyncio.Lock())

    async def _seen(self, model: str, context: Context) -> str:
        """The key of the caller's model of this id, or of the operator's."""
        ref = await self._read(context, self._store.seen, ModelRef(model), tenant_of(context))
        return ref.model

    async def _own(self, ref: ModelRef, context: Context) -> ModelRef:
        """What the caller may change. Raises ModelNotFound, ModelShared."""
        model = await asyncio.to_thread(self._store.own, ref.model, tenant_of(context))
        return replace(ref, model=model)

    async def _resolve(self, name: str, context: Context) -> StoredVersion:
        """The version that is meant; of a bare model its alias `stable`, or else what serves."""
        ref = ModelRef.parse(name)
        ref = await self._read(context, self._store.seen, ref, tenant_of(context))
        if ref == ModelRef(ref.model):
            stored = await self._read(context, self._store.get, ref.model)
            ready = [n for n in stored.versions if self._is_ready(ref.model, n)]
            if ready and DEFAULT_ALIAS not in stored.aliases:
                ref = ModelRef(ref.model, version=ready[-1])
        return await self._read(context, self._store.resolve, ref)

    def _is_ready(self, model: str, number: int) -> bool:
        return self._registry.state(model, number)[0] == model_pb2.VERSION_STATE_READY

    async def _describe(self, version: StoredVersion, tenant: str) -> model_pb2.ModelVersion:
        """What a tenant sees of it: of the sessions its own."""
        try:
            response = await asyncio.to_thread(encode_version, version)
        except WeightsInvalid as error:  # put there by hand; it shows, and says what is wrong
            failed = model_pb2.VERSION_STATE_FAILED
            return model_pb2.ModelVersion(
                name=version.name, state=failed, state_message=error.message
            )
        response.state, response.state_message = self._registry.state(version.model, version.number)
        response.sessions = self._registry.sessions(version.model, version.number, tenant)
        response.precision = self._registry.precision(version.model, version.number)
        return response


def _precision(asked: model_pb2.StepPrecision.ValueType) -> StepPrecision | None:
    if asked == model_pb2.STEP_PRECISION_UNSPECIFIED:
        return None
    for precision, number in PRECISIONS.items():
        if number == asked:
            return precision
    raise InvalidField(
        f"precision must be one of StepPrecision, 0 to {max(PRECISIONS.values())}, got {asked}",
        field="precision",
    )


def _tokenize(version: StoredVersion, texts: Iterable[str]) -> pb.TokenizeTextResponse:
    config, response = version.config(), pb.TokenizeTextResponse()
    for text in texts:
        tokens = encode_text(version.name, config, text, field="texts")
        response.lengths.append(len(tokens))
        response.tokens.extend(tokens.tolist())
    return response
