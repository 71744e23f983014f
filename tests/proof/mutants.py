"""The code, broken on purpose: each mutant replaces a piece of its text, and a proof must see it.

A mutant whose text is not found (or not once) is an error: the code has moved on, so must it.
"""

from __future__ import annotations
import __future__ as futures

import inspect
import textwrap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any
from unittest import mock

import sqlalchemy as sa

from indexer import changes, entries_sql, reindex, rollout, sync, writing
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.verify import passing


@dataclass(frozen=True, kw_only=True)
class Edit:
    """In `owner`'s attribute `name` (a function or an SQL text), `old` becomes `new`."""

    owner: Any
    name: str
    old: str
    new: str

    def patched(self) -> Any:
        whole = getattr(self.owner, self.name)
        if isinstance(whole, FunctionType):
            return mock.patch.object(self.owner, self.name, self._function(whole))
        return mock.patch.object(self.owner, self.name, sa.text(self._replaced(str(whole))))

    def _replaced(self, text: str) -> str:
        found = text.count(self.old)
        assert found == 1, f"{self.owner.__name__}.{self.name} has {self.old!r} {found} times"
        return text.replace(self.old, self.new)

    def _function(self, function: FunctionType) -> FunctionType:
        source = self._replaced(textwrap.dedent(inspect.getsource(function)))
        code = compile(
            source,
            f"<mutant of {function.__qualname__}>",
            "exec",
            futures.annotations.compiler_flag,
        )
        made: dict[str, Any] = {}
        exec(code, function.__globals__, made)
        return made[function.__name__]


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """`scenario` names the function of `scenarios` whose history must end in an AssertionError;
    `without` are edits that stay in force when the code is whole again: a second line of defence
    shows only where the first is down."""

    name: str
    edits: tuple[Edit, ...]
    scenario: str
    stores: tuple[type, ...] = (EdgeStore, QdrantStore)
    without: tuple[Edit, ...] = ()

    @contextmanager
    def applied(self) -> Iterator[None]:
        with applied(*self.without, *self.edits):
            yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        with applied(*self.without):
            yield


@contextmanager
def applied(*edits: Edit) -> Iterator[None]:
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.patched())
        yield


NO_TOMBSTONES = Edit(
    owner=writing._Writer,
    name="delete",
    old="(True, self.store.bury_if_newer)",
    new="(True, self.store.delete_if_newer)",
)

FILLS_AND_ADVANCES = """
            entries.fill(connection, index.id, keys)
            cursor = keys[-1] if keys else cursor
            indexes.advance(connection, index.id, cursor, done=len(keys) < FILL_KEYS)
"""
ADVANCES_FIRST = """
            cursor = keys[-1] if keys else cursor
            indexes.advance(connection, index.id, cursor, done=len(keys) < FILL_KEYS)
        with database.begin(engine) as connection:
            entries.fill(connection, index.id, keys)
"""

MUTANTS = (
    Mutant(
        name="the store writes points whatever their fence",
        edits=(
            Edit(
                owner=EdgeStore,
                name="write_if_newer",
                old="edge_filters.older_than(fence, FENCE_FIELD)",
                new="None",
            ),
            Edit(
                owner=QdrantStore,
                name="write_if_newer",
                old="update_filter=qdrant_filters.older_than(fence),",
                new="",
            ),
        ),
        scenario="a_zombie_writes_an_old_row",
    ),
    Mutant(
        name="the store deletes points whatever their fence",
        edits=(
            Edit(
                owner=EdgeStore,
                name="delete_if_newer",
                old="older_among(ids, fence,",
                new="older_among(ids, 2**62,",
            ),
            Edit(
                owner=QdrantStore,
                name="delete_if_newer",
                old="older_among(batch, fence)",
                new="older_among(batch, 2**62)",
            ),
        ),
        scenario="a_zombie_deletes_an_item_that_is_back",
    ),
    Mutant(
        name="the store buries points whatever their fence",
        edits=(
            Edit(
                owner=EdgeStore,
                name="bury_if_newer",
                old="edge_filters.older_than(fence, FENCE_FIELD)",
                new="None",
            ),
            Edit(
                owner=QdrantStore,
                name="bury_if_newer",
                old="update_filter=qdrant_filters.older_than(fence),",
                new="",
            ),
        ),
        scenario="a_zombie_buries_an_item_that_is_back",
    ),
    Mutant(
        name="the store sets payloads whatever their fence",
        edits=(
            Edit(
                owner=inspect.getmodule(EdgeStore),
                name="_payload_update",
                old="older_among([id_], fence,",
                new="older_among([id_], 2**62,",
            ),
            Edit(
                owner=inspect.getmodule(QdrantStore),
                name="_payload_update",
                old="older_among([collection.point_id(key)], fence)",
                new="older_among([collection.point_id(key)], 2**62)",
            ),
        ),
        scenario="a_zombie_sets_an_old_payload",
    ),
    Mutant(
        name="all claims have the same fence",
        edits=(
            Edit(
                owner=entries_sql,
                name="NEXT_FENCE",
                old="nextval('indexer.fences')",
                new="1::bigint",
            ),
        ),
        scenario="an_item_changes",
    ),
    Mutant(
        name="an ack asks nobody whether it is held",
        edits=(
            Edit(
                owner=entries_sql,
                name="ACK",
                old="""content_hash = CASE WHEN e.fence = :fence AND e.wanted = acked.wanted
                            THEN acked.content_hash END""",
                new="""content_hash = CASE WHEN e.wanted = acked.wanted
                            THEN acked.content_hash END""",
            ),
            Edit(
                owner=entries_sql,
                name="ACK",
                old="wanted = CASE WHEN e.fence = :fence THEN e.wanted ELSE e.wanted + 1 END",
                new="wanted = e.wanted",
            ),
        ),
        scenario="a_zombie_acks_a_write_that_was_refused",
    ),
    Mutant(
        name="an ack cleans a version that was never read",
        edits=(
            Edit(
                owner=entries_sql,
                name="ACK",
                old="THEN acked.wanted ELSE e.written END",
                new="THEN e.wanted ELSE e.written END",
            ),
        ),
        scenario="an_item_changes_while_it_is_written",
    ),
    Mutant(
        name="route does not bump wanted",
        edits=(
            Edit(
                owner=changes, name="_ROUTE", old="wanted = e.wanted + 1", new="wanted = e.wanted"
            ),
        ),
        scenario="an_item_changes",
    ),
    Mutant(
        name="route does not free the quarantined",
        edits=(
            Edit(
                owner=changes,
                name="_ROUTE",
                old="quarantined = false",
                new="quarantined = e.quarantined",
            ),
        ),
        scenario="poison_is_cured",
    ),
    Mutant(
        name="rows are read before the claim",
        edits=(
            Edit(
                owner=sync._Drain,
                name="turn",
                old='    with self.report.stage("claim"):',
                new="    self.early = {one.key: one for one in catalog.scan_items(self.engine,"
                " self.described(index, tower), after=None, limit=99)}\n"
                '    with self.report.stage("claim"):',
            ),
            Edit(
                owner=sync._Drain,
                name="work",
                old="items = catalog.read(self.engine, attached, keys)",
                new="items = self.early",
            ),
        ),
        scenario="an_item_changes_before_the_claim",
    ),
    Mutant(
        name="a claim leaves the hashes in the ledger",
        edits=(
            Edit(
                owner=entries_sql,
                name="CLAIM",
                old="content_hash = NULL, payload_hash = NULL",
                new="written = e.written",
            ),
        ),
        scenario="an_item_changes_and_changes_back",
    ),
    Mutant(
        name="deletes in doubt leave no tombstone",
        edits=(NO_TOMBSTONES,),
        scenario="a_first_write_comes_after_the_delete",
    ),
    Mutant(
        name="an expired lease leaves no doubt",
        edits=(
            Edit(
                owner=entries_sql,
                name="CLAIM",
                old="lost_at = CASE WHEN chosen.suspect THEN now() ELSE e.lost_at END",
                new="lost_at = e.lost_at",
            ),
        ),
        scenario="a_first_write_comes_after_the_delete",
    ),
    Mutant(
        name="an outage in mid-write leaves no doubt",
        edits=(
            Edit(
                owner=sync._Drain,
                name="turn",
                old="doubtful = isinstance(cause, Unsettled)",
                new="doubtful = False",
            ),
        ),
        scenario="a_request_that_timed_out_arrives_after_the_delete",
    ),
    Mutant(
        name="a point in doubt is only updated",
        edits=(
            Edit(
                owner=writing,
                name="_mode",
                old="claim.present and not claim.doubtful",
                new="claim.present",
            ),
        ),
        scenario="an_item_is_back_after_a_delete_without_an_ack",
    ),
    Mutant(
        name="known points are upserted",
        edits=(
            Edit(
                owner=writing,
                name="_mode",
                old='"update_only" if claim.present and not claim.doubtful else "upsert"',
                new='"upsert"',
            ),
        ),
        scenario="an_update_comes_after_the_delete",
        without=(NO_TOMBSTONES,),
    ),
    Mutant(
        name="a late ack asks for no repair",
        edits=(
            Edit(
                owner=entries_sql,
                name="ACK",
                old="ELSE e.wanted + 1 END",
                new="ELSE e.wanted END",
            ),
        ),
        scenario="a_first_write_and_its_ack_come_after_the_delete",
        without=(NO_TOMBSTONES,),
    ),
    Mutant(
        name="a release keeps the lease",
        edits=(
            Edit(
                owner=entries_sql,
                name="RELEASE",
                old="SET lease_until = NULL,",
                new="SET lease_until = e.lease_until,",
            ),
        ),
        scenario="an_outage_ends",
    ),
    Mutant(
        name="the ack comes without a flush",
        edits=(
            Edit(
                owner=writing._Writer,
                name="write",
                old="self.store.flush(self.collection)",
                new="pass",
            ),
        ),
        scenario="the_power_fails_after_the_ack",
        stores=(EdgeStore,),
    ),
    Mutant(
        name="the backfill's cursor commits before its entries",
        edits=(
            Edit(
                owner=reindex,
                name="fill",
                old=FILLS_AND_ADVANCES,
                new=ADVANCES_FIRST,
            ),
        ),
        scenario="a_backfill_dies_in_its_transaction",
    ),
    Mutant(
        name="an index is promoted before it is complete",
        edits=(
            Edit(
                owner=rollout,
                name="_judged",
                old="if not (report.passed or force):",
                new="if False:",
            ),
        ),
        scenario="a_promotion_comes_too_early",
    ),
    Mutant(
        name="the ledger does not follow the alias",
        edits=(
            Edit(
                owner=rollout,
                name="_conclude",
                old="        indexes.make_live(lock, answering.id, alias)\n",
                new="        pass\n",
            ),
        ),
        scenario="a_promotion_dies_after_the_switch",
    ),
    Mutant(
        name="an alias goes on naming an index that has ended",
        edits=(
            Edit(
                owner=rollout,
                name="_heal",
                old='found = f"the alias named index {answering.id}, which has ended"',
                new="pass",
            ),
        ),
        scenario="an_alias_is_switched_after_the_cancel",
    ),
    Mutant(
        name="changes pass a building index by",
        edits=(
            Edit(
                owner=changes,
                name="_ROUTE",
                old="i.state IN ('building', 'live', 'standby')",
                new="i.state IN ('live', 'standby')",
            ),
        ),
        scenario="an_item_changes_during_a_backfill",
    ),
    Mutant(
        name="changes pass a standby index by",
        edits=(
            Edit(
                owner=changes,
                name="_ROUTE",
                old="i.state IN ('building', 'live', 'standby')",
                new="i.state IN ('building', 'live')",
            ),
        ),
        scenario="an_item_changes_before_a_rollback",
    ),
    Mutant(
        name="what verify finds is not asked for again",
        edits=(
            Edit(
                owner=passing,
                name="_repair",
                old="entries.repair_if_unchanged(engine, index.id, found, lane=LANE_BACKFILL)",
                new="len(found)",
            ),
        ),
        scenario="somebody_meddles_in_three_ways",
    ),
)
