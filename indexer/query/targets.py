"""What an alias names right now: one physical collection, and the tower that built it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from indexer.errors import CollectionMismatch, CollectionMissing, EncoderMismatch
from indexer.filters import FieldKind
from indexer.settings import Settings
from indexer.stores import METADATA_FORMAT, Collection, VectorStore
from indexer.towers import Tower, Towers

TOWERS_KEPT = 2
REFRESH_S = 5.0  # after which the metadata is read anew: a catalog may be described anew


@dataclass(frozen=True, kw_only=True)
class Target:
    """A physical collection and what its metadata says of it. Its encoder never changes; fields
    and returned payload do when its catalog is described anew."""

    collection: Collection
    index_id: int
    encoder_id: str
    encoder_uri: str
    fields: Mapping[str, FieldKind]
    returned: tuple[str, ...]


class Resolver:
    """Follows one alias. Safe for several threads; a look costs the store one alias lookup."""

    def __init__(
        self, store: VectorStore, alias: str, settings: Settings, given: Tower | None
    ) -> None:
        """`given` is the only tower to be used, whatever the alias names; None loads by digest."""
        self._store = store
        self._alias = alias
        self._given = given
        self._towers = Towers(settings)
        self._known: Target | None = None
        self._known_until = 0.0  # time.monotonic()
        self._recent: tuple[str, ...] = ()
        self._lock = threading.Lock()

    def resolve(self) -> Target:
        """Raises CollectionMissing when the alias names nothing, CollectionMismatch when it names
        something that this release cannot read."""
        aliases = self._store.aliases()
        name = aliases.get(self._alias, self._alias)  # a physical name works too
        known = self._known
        fresh = time.monotonic() < self._known_until
        if known is None or known.collection.name != name or not fresh:
            known = self._describe(name, aliases)
            with self._lock:
                self._known, self._known_until = known, time.monotonic() + REFRESH_S
        return known

    def forget(self) -> None:
        """The next look reads the metadata anew."""
        with self._lock:
            self._known = None

    def tower(self, target: Target) -> Tower:
        """The tower that built the target. Raises EncoderMismatch when another one was given."""
        if self._given is None:
            tower = self._towers.get(target.encoder_id, target.encoder_uri)
            self._keep(target.encoder_id)
            return tower
        if self._given.id != target.encoder_id:
            raise EncoderMismatch(
                f"index {target.index_id} ({target.collection.name}) was built by encoder "
                f"{target.encoder_id}, this retriever holds {self._given.id}. "
                "Give it that encoder, or none: it then loads the right one."
            )
        return self._given

    def _keep(self, encoder_id: str) -> None:
        """Only the towers used last stay loaded: a promotion may be taken back."""
        with self._lock:
            if encoder_id in self._recent:
                return
            self._recent = (*self._recent, encoder_id)[-TOWERS_KEPT:]
            self._towers.keep_only(self._recent)

    def _describe(self, name: str, aliases: Mapping[str, str]) -> Target:
        try:
            spec = self._store.status(name).spec
        except CollectionMissing as cause:
            raise CollectionMissing(
                f"no index is live under alias {self._alias!r} in {self._store.name}. "
                f"Aliases there: {', '.join(sorted(aliases)) or 'none'}. "
                "Build one with `twinspan reindex`."
            ) from cause
        said = spec.metadata
        if said.get("format") != METADATA_FORMAT:
            raise CollectionMismatch(
                f"collection {name!r} in {self._store.name} says format {said.get('format')!r}, "
                f"this release reads {METADATA_FORMAT}. Build the index anew: `twinspan reindex`."
            )
        return Target(
            collection=spec.collection,
            index_id=int(cast("int", said["index_id"])),
            encoder_id=str(said["encoder_id"]),
            encoder_uri=str(said["encoder_uri"]),
            fields=spec.fields,
            returned=tuple(cast("Sequence[str]", said["returned"])),
        )
