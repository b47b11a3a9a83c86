"""The model store: a folder of models, their immutable versions and their aliases.

    {root}/{model}/{version}/config.json, weights.safetensors, README.md, baseline.json
    {root}/{model}/aliases.json, health.json
    {root}/@{tenant}/{model}/...

Names that begin with a dot are of locks, and of what is on its way.

Models that come with Carousel, folders of versions too, lie over it, read-only. Where the store
has, or had, a version of that very number, it wins; others of the same name, and aliases, add up.
A deleted version leaves an empty folder behind, so that its number is never given again. What
training made has a file `promoted` beside its weights: other servers take it up by that.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from carousel.errors import (
    AliasNotFound,
    ImportRefused,
    ModelInUse,
    ModelNotFound,
    ModelShared,
    StoreUnwritable,
    VersionExists,
    VersionNotFound,
)
from carousel.server.aliases import aliases_moment, read_aliases, write_aliases
from carousel.server.folders import bytes_in, entries_of
from carousel.server.health_policy import (
    HealthPolicy,
    read_health_policy,
    write_health_policy,
)
from carousel.server.locks import alone_in
from carousel.server.names import (
    MAX_VERSION,
    ModelRef,
    id_of,
    is_id,
    is_number,
    key_of,
    model_name,
    owner_of,
    path_of,
    tenant_folder,
    tenants_in,
    version_name,
)
from carousel.server.quotas import UNLIMITED, Quotas
from carousel.server.staging import Staging, open_folder, sweep, sync, writing
from carousel.server.version import StoredVersion, check_folder, is_promoted, is_version

DEFAULT_ALIAS = "stable"

Stamp = tuple[int, int]

logger = logging.getLogger(__name__)


class StoredModel(NamedTuple):
    """A model, by its key: its versions' numbers, lowest first, and its aliases."""

    model: str
    versions: tuple[int, ...]
    aliases: Mapping[str, int]


class ModelStore:
    """Models in a folder. Methods read and write files: in a server, call them in a thread.

    The folder is made when something is first written.
    """

    def __init__(
        self, root: Path, *, shipped: Mapping[str, Path] | None = None, quotas: Quotas = UNLIMITED
    ) -> None:
        self.root = root
        self._shipped = {
            (model, int(entry.name)): Path(entry.path)
            for model, folder in (shipped or {}).items()
            for entry in entries_of(folder)
            if is_number(entry.name)
        }
        self._lock = threading.Lock()  # one change at a time
        self.quotas = quotas
        if root.exists() and not os.access(root, os.R_OK | os.X_OK):
            logger.warning("the model store can't be read", extra={"store": str(root)})
        sweep(root)

    def models(self) -> list[str]:
        """Keys of all models that have a version, in order."""
        known = {*self._folders(), *(model for model, _ in self._shipped)}
        return sorted(model for model in known if self._numbers(model))

    def seen(self, ref: ModelRef, tenant: str) -> ModelRef:
        """What a tenant means by a name: a model of its own, or else the operator's.

        The operator's models, and those that came with Carousel, are there for all.
        """
        own = ref.of(tenant)
        return own if not tenant or self._numbers(own.model) else ref

    def own(self, model: str, tenant: str) -> str:
        """The key of a tenant's model that is to be changed. Raises ModelNotFound, ModelShared."""
        own = key_of(tenant, model)
        if not self._numbers(own):
            if tenant and self._numbers(model):
                raise ModelShared(f"{model_name(model)} is shared by all tenants", field="name")
            raise _no_model(own)
        return own

    def listed(self, tenant: str) -> dict[str, str]:
        """Keys of the models that a tenant sees, by what orders them.

        The operator sees all, in order of their keys; of two models of one name a tenant sees its
        own.
        """
        models = self.models()
        if not tenant:
            return {model: model for model in models}
        seen = [model for model in models if owner_of(model) in ("", tenant)]
        own = {id_of(model): model for model in sorted(seen, key=owner_of)}
        return dict(sorted(own.items()))

    def _folders(self) -> dict[str, os.DirEntry[str]]:
        """Folders of models, of whatever is in them, by key."""
        found = {entry.name: entry for entry in entries_of(self.root) if is_id(entry.name)}
        for tenant in tenants_in(self.root):
            for entry in entries_of(self.root / tenant_folder(tenant)):
                if is_id(entry.name):
                    found[key_of(tenant, entry.name)] = entry
        return found

    def get(self, model: str) -> StoredModel:
        """Raises ModelNotFound, WeightsInvalid (damaged aliases)."""
        versions = self._numbers(model)
        if not versions:
            raise _no_model(model)
        return StoredModel(model, tuple(versions), self.aliases(model))

    def aliases(self, model: str) -> dict[str, int]:
        """Version numbers by alias; none of a model that there isn't. Raises WeightsInvalid."""
        return read_aliases(self._home(model))

    def stamps(self) -> dict[str, Stamp]:
        """By model, what changes when its versions or its aliases do: moments, in nanoseconds."""
        found = {}
        for model, entry in self._folders().items():
            with contextlib.suppress(OSError):
                moment = entry.stat(follow_symlinks=False).st_mtime_ns
                found[model] = (moment, aliases_moment(Path(entry.path)))
        return found

    def newest_promoted(self, model: str) -> int | None:
        """The highest version that training made; None when there is none."""
        made = (n for n in reversed(self._numbers(model)) if is_promoted(self._folder(model, n)))
        return next(made, None)

    def version(self, model: str, number: int) -> StoredVersion:
        """Raises ModelNotFound, VersionNotFound."""
        if self._has(model, number):
            return StoredVersion(model, number, self._folder(model, number))
        versions = self._numbers(model)
        if not versions:
            raise _no_model(model)
        newest = ", ".join(map(str, versions[-10:]))
        raise VersionNotFound(
            f"there is no {version_name(model, number)}; the newest are {newest}", field="name"
        )

    def resolve(self, ref: ModelRef) -> StoredVersion:
        """The version that is meant; of a bare model its alias `stable`, or else the highest.

        Raises ModelNotFound, VersionNotFound, AliasNotFound, WeightsInvalid (damaged aliases).
        """
        if ref.version is not None:
            return self.version(ref.model, ref.version)
        number = self.aliases(ref.model).get(ref.alias or DEFAULT_ALIAS)
        if number is not None:
            return self.version(ref.model, number)
        for newest in sorted(self._candidates(ref.model), reverse=True):
            if self._has(ref.model, newest):
                break
        else:
            raise _no_model(ref.model)
        if ref.alias is not None:
            raise AliasNotFound(f"there is no {ref}", field="name")
        return StoredVersion(ref.model, newest, self._folder(ref.model, newest))

    def stage(self) -> Staging:
        """A place for a new version. Raises StoreUnwritable."""
        return Staging(self.root)

    def check_free(self, model: str, number: int) -> int:
        """The number that a new version will have; 0: one above the highest ever given.

        Raises VersionExists.
        """
        if number == 0:
            number = max(self._candidates(model), default=0) + 1
            if number > MAX_VERSION:
                raise VersionExists(
                    f"{model_name(model)} has had version {MAX_VERSION}, the highest there can be; "
                    "give a number",
                    field="version",
                )
            return number
        if self._has(model, number) or os.path.lexists(self._home(model) / str(number)):
            raise VersionExists(
                f"{version_name(model, number)} exists, or did: versions never change",
                field="version",
            )
        return number

    def add(
        self, model: str, folder: Path, *, version: int = 0, promoted: bool = False
    ) -> StoredVersion:
        """Take in a folder of the server's own; `promoted`: it is what training made.

        Raises VersionExists, WeightsInvalid, StoreUnwritable.
        """
        self.check_free(model, version)
        path = open_folder(folder.parent, folder.name)
        with path as source, Staging.of(self.root, source) as staging:
            if promoted:
                staging.mark_promoted()
            return self.commit(staging, model, version)

    def stage_import(self, import_root: Path | None, path: str) -> Staging:
        """A copy of a folder below import_root. Raises ImportRefused, StoreUnwritable."""
        if import_root is None:
            raise ImportRefused("importing is off: the server has no import_root", field="path")
        with open_folder(import_root, path) as source:
            return Staging.of(self.root, source)

    def commit(
        self, staging: Staging, model: str, version: int = 0, *, validate_only: bool = False
    ) -> StoredVersion:
        """Check what was staged and make it a version, in one rename: all of it or nothing.

        With validate_only it stays where it is. Raises VersionExists, WeightsInvalid,
        StoreUnwritable.
        """
        check_folder(staging.folder)
        if validate_only:
            return StoredVersion(model, self.check_free(model, version), staging.folder)
        staging.sync()
        with self._lock, writing():
            number = self.check_free(model, version)
            self.check_room(model, bytes_in(staging.folder))
            target = self._own(model) / str(number)
            os.rename(staging.folder, target)
            sync(target.parent)
            sync(target.parent.parent)
            sync(self.root)
        logger.info("a version came in", extra={"version": version_name(model, number)})
        return StoredVersion(model, number, target)

    def check_room(self, model: str, size: int) -> None:
        """Whether the tenant of a model may have so many bytes more. Raises QuotaExceeded."""
        tenant = owner_of(model)
        if self.quotas.of(tenant).model_bytes is not None:
            self.quotas.check(tenant, "model_bytes", self.bytes_of(tenant), size)

    def bytes_of(self, tenant: str) -> int:
        """Of all versions of a tenant's models; none of the operator's are counted."""
        if not tenant:
            return 0
        models = entries_of(self.root / tenant_folder(tenant))
        versions = [one for model in models for one in entries_of(Path(model.path))]
        return sum(bytes_in(Path(one.path)) for one in versions)

    def delete(self, model: str, number: int) -> None:
        """Raises ModelNotFound, VersionNotFound, ModelInUse (an alias), StoreUnwritable."""
        self.version(model, number)
        with self._changing(model):
            stored = self.version(model, number)
            aliases = [a for a, n in self.aliases(model).items() if n == number]
            if aliases:
                raise ModelInUse(
                    f"{stored.name} has aliases, point them elsewhere first: {', '.join(aliases)}",
                    field="name",
                )
            if self._is_shipped(model, number):
                raise StoreUnwritable(f"{stored.name} came with Carousel and stays", field="name")
            with self.stage() as bin, writing():
                os.rename(stored.folder, bin.folder / "deleted")
                stored.folder.mkdir()  # its number stays taken
                sync(stored.folder.parent)
        logger.info("a version was deleted", extra={"version": stored.name})

    def set_alias(self, model: str, alias: str, number: int) -> StoredModel:
        """Raises ModelNotFound, VersionNotFound, StoreUnwritable."""
        self.version(model, number)
        with self._changing(model):
            self.version(model, number)
            return self._write_aliases(model, {**self.aliases(model), alias: number})

    def delete_alias(self, model: str, alias: str) -> StoredModel:
        """Raises ModelNotFound, AliasNotFound, StoreUnwritable."""
        self._known(model, alias)
        with self._changing(model):
            aliases = self._known(model, alias)
            del aliases[alias]
            return self._write_aliases(model, aliases)

    def _known(self, model: str, alias: str) -> dict[str, int]:
        """A model's aliases, of which this is one. Raises ModelNotFound, AliasNotFound."""
        aliases = self.aliases(model)
        if alias not in aliases:
            raise AliasNotFound(f"there is no {ModelRef(model, alias=alias)}", field="alias")
        return aliases

    def health_policy(self, model: str) -> HealthPolicy:
        """Raises ModelNotFound, WeightsInvalid (damaged)."""
        if not self._numbers(model):
            raise _no_model(model)
        return read_health_policy(self._home(model))

    def set_health_policy(self, model: str, policy: HealthPolicy) -> None:
        """Raises ModelNotFound, StoreUnwritable."""
        with self._lock:
            if not self._numbers(model):
                raise _no_model(model)
            with self.stage() as staging, writing():
                write_health_policy(self._own(model), policy, staging)

    @contextlib.contextmanager
    def _changing(self, model: str) -> Iterator[None]:
        """Nobody else changes the model meanwhile, of whatever server. Raises StoreUnwritable."""
        # The model first: a server that is stopped in a change of it holds up no other model here.
        with writing(), alone_in(self._own(model)), self._lock:
            yield

    def _write_aliases(self, model: str, aliases: Mapping[str, int]) -> StoredModel:
        with self.stage() as staging, writing():
            write_aliases(self._own(model), aliases, staging)
        return self.get(model)

    def _numbers(self, model: str) -> list[int]:
        """Its versions' numbers, lowest first."""
        return sorted(n for n in self._candidates(model) if self._has(model, n))

    def _candidates(self, model: str) -> set[int]:
        return {*self._given(model), *(n for name, n in self._shipped if name == model)}

    def _has(self, model: str, number: int) -> bool:
        if self._is_shipped(model, number):
            return True
        return not self._is_link(model) and is_version(self._home(model) / str(number))

    def _given(self, model: str) -> list[int]:
        """Numbers that the store ever gave, also to versions that are deleted."""
        if self._is_link(model):
            return []
        found = entries_of(self._home(model))
        return [int(entry.name) for entry in found if is_number(entry.name)]

    def _is_shipped(self, model: str, number: int) -> bool:
        in_the_way = os.path.lexists(self._home(model) / str(number))
        return (model, number) in self._shipped and not in_the_way

    def _folder(self, model: str, number: int) -> Path:
        if self._is_shipped(model, number):
            return self._shipped[model, number]
        return self._home(model) / str(number)

    def _home(self, model: str) -> Path:
        """Where what the store has of a model lies."""
        return self.root / path_of(model)

    def _is_link(self, model: str) -> bool:
        """Whether the model's folder, or its tenant's, leads elsewhere."""
        folder = self._home(model)
        return folder.is_symlink() or (owner_of(model) != "" and folder.parent.is_symlink())

    def _own(self, model: str) -> Path:
        """The model's folder in the store, made when there is none."""
        folder = self._home(model)
        with writing():
            folder.mkdir(parents=True, exist_ok=True)
        if self._is_link(model):
            raise StoreUnwritable(f"the folder of {model_name(model)} is a symbolic link")
        return folder


def _no_model(model: str) -> ModelNotFound:
    return ModelNotFound(f"there is no {model_name(model)}", field="name")
