"""The part of AsyncClient that keeps models."""

# ruff: noqa: ASYNC109 - a timeout is a gRPC deadline here, which the server is told

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from carousel.client import _model_calls as calls
from carousel.client import _model_values
from carousel.client._async_transport import AsyncTransport
from carousel.client._health import HealthRule
from carousel.client._model_calls import Ints
from carousel.client._model_values import Model, ModelVersion
from carousel.client._names import model_name
from carousel.client._transfer import EXPORT, SLOWEST, UPLOAD, Export, Progress, Upload
from carousel.v1 import model_pb2
from carousel.v1 import model_service_pb2 as pb


class AsyncModels:
    """The methods of AsyncClient for models.

    A model is named as in `king-james`, `king-james@stable`, `king-james/2`, or in full:
    `models/king-james/versions/2`.
    """

    _transport: AsyncTransport

    async def list_models(self, *, timeout: float | None = None) -> AsyncIterator[Model]:
        """All models in order of their ids, a page at a time."""
        token = ""
        while True:
            models, token = await self._transport.call(calls.list_models(token), timeout)
            for one in models:
                yield one
            if not token:
                return

    async def get_model(self, name: str, *, timeout: float | None = None) -> Model:
        """A model's versions and aliases. Raises ModelNotFound."""
        return await self._transport.call(calls.get_model(name), timeout)

    async def list_versions(
        self, model: str | Model, *, timeout: float | None = None
    ) -> AsyncIterator[ModelVersion]:
        """A model's versions, lowest first, without their cards. Raises ModelNotFound.

        A Model, as `list_models` gives it, is meant whose ever it is; a name, the client's own.
        """
        token = ""
        while True:
            versions, token = await self._transport.call(calls.list_versions(model, token), timeout)
            for one in versions:
                yield one
            if not token:
                return

    async def get_version(self, name: str, *, timeout: float | None = None) -> ModelVersion:
        """A version with its card. Raises ModelNotFound, VersionNotFound."""
        return await self._transport.call(calls.get_version(name), timeout)

    async def upload_model(
        self,
        folder: str | Path,
        *,
        model: str,
        version: int = 0,
        validate_only: bool = False,
        request_id: str | None = None,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> ModelVersion:
        """Send a folder: config.json, weights.safetensors, perhaps README.md and baseline.json.

        `version` 0 is one above the highest. `validate_only` checks everything and keeps nothing.
        `progress(sent, total)` is told bytes. The deadline allows a second
        for each MiB. Raises UploadDamaged, WeightsInvalid, VersionExists, StoreUnwritable.
        """
        upload = await asyncio.to_thread(
            Upload,
            folder,
            model=model,
            version=version,
            validate_only=validate_only,
            request_id=request_id,
            progress=progress,
        )
        seconds = calls.SLOW + upload.size / SLOWEST if timeout is None else timeout
        reply = await self._transport.upload(
            UPLOAD, _without_blocking(upload.parts()), model_pb2.ModelVersion, timeout=seconds
        )
        return _model_values.model_version(reply)

    async def import_model(
        self,
        path: str,
        *,
        model: str,
        version: int = 0,
        validate_only: bool = False,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ModelVersion:
        """Take a folder on the server, relative to its import root, into its store.

        Raises ImportRefused, WeightsInvalid, VersionExists, StoreUnwritable.
        """
        call = calls.import_model(
            path, model=model, version=version, validate_only=validate_only, request_id=request_id
        )
        return await self._transport.call(call, timeout)

    async def export_model(
        self,
        name: str,
        folder: str | Path,
        *,
        progress: Progress | None = None,
        timeout: float | None = None,
    ) -> Path:
        """Write a version's files into a new folder, fit for `upload_model`.

        `progress(received, total)` is told bytes. Nothing is left behind on failure. Raises
        FileExistsError, ModelNotFound, VersionNotFound, UploadDamaged.
        """
        request = pb.ExportModelVersionRequest(name=model_name(name))
        seconds = calls.SLOW if timeout is None else timeout
        export = await asyncio.to_thread(Export, folder, progress=progress)
        with contextlib.closing(export):
            call = self._transport.stream(
                EXPORT, request, pb.ExportModelVersionResponse, timeout=seconds
            )
            while (part := await self._transport.read(call)) is not None:
                await asyncio.to_thread(export.put, part)
            return await asyncio.to_thread(export.finish)

    async def load_model(
        self, name: str, *, precision: str | None = None, timeout: float | None = None
    ) -> ModelVersion:
        """Load and warm up a version; it is ready when this returns (within 300 s).

        `precision` is float32, or up to a hundredth off and faster: int8 on a CPU, bfloat16 or
        float16 on a GPU; None: as the server is set. It lasts until the version is unloaded or the
        server ends; `carousel serve --precision` lasts longer. Raises ModelNotFound,
        VersionNotFound, WeightsInvalid, InvalidField, and ModelInUse where it serves in another.
        """
        return await self._transport.call(calls.load(name, precision), timeout)

    async def unload_model(
        self, name: str, *, force: bool = False, timeout: float | None = None
    ) -> ModelVersion:
        """Take a version out of service. Raises ModelInUse, unless `force` ends its sessions."""
        return await self._transport.call(calls.unload(name, force=force), timeout)

    async def delete_version(self, name: str, *, timeout: float | None = None) -> None:
        """Delete an unloaded version that no alias points at. Raises ModelInUse."""
        await self._transport.call(calls.delete_version(name), timeout)

    async def tokenize(
        self, model: str, texts: Sequence[str], *, timeout: float | None = None
    ) -> list[Ints]:
        """Each text as the model's tokens, [T] int64, as its server reads text.

        Raises ModelNotFound, NoTokenizer, TokenOutOfRange, MessageTooLarge (more than 1,048,576
        characters together).
        """
        return await self._transport.call(calls.tokenize(model, texts), timeout)

    async def set_alias(
        self, model: str, *, alias: str, version: int, timeout: float | None = None
    ) -> Model:
        """Point an alias at a version; sessions stay on the version they began with."""
        return await self._transport.call(calls.set_alias(model, alias, version), timeout)

    async def delete_alias(self, model: str, *, alias: str, timeout: float | None = None) -> Model:
        """Remove an alias. Raises AliasNotFound."""
        return await self._transport.call(calls.delete_alias(model, alias), timeout)

    async def get_health_policy(
        self, model: str, *, timeout: float | None = None
    ) -> tuple[HealthRule, ...]:
        """The rules for the states of a model's sessions; none where none were set."""
        return await self._transport.call(calls.get_health_policy(model), timeout)

    async def set_health_policy(
        self, model: str, rules: Sequence[HealthRule], *, timeout: float | None = None
    ) -> tuple[HealthRule, ...]:
        """Replace the rules for the states of a model's sessions; live ones are under them at once.

        They are applied in order after every step; no rules: none any more. When one fires, the
        client's `on_event` gets a `state_health` event. Raises ModelNotFound, InvalidField,
        StoreUnwritable.
        """
        return await self._transport.call(calls.set_health_policy(model, rules), timeout)


async def _without_blocking(
    parts: Iterator[pb.UploadModelVersionRequest],
) -> AsyncIterator[pb.UploadModelVersionRequest]:
    """Files are read in a thread."""
    while (part := await asyncio.to_thread(next, parts, None)) is not None:
        yield part
