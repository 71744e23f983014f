"""An item's way to its point, broken: fences, claims, acks, leases, what is read and written."""

from __future__ import annotations

import inspect

from indexer import changes, entries_sql, sync, writing
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from proof.mutation import Edit, Mutant

NO_TOMBSTONES = Edit(
    owner=writing._Writer,
    name="delete",
    old="(True, self.store.bury_if_newer)",
    new="(True, self.store.delete_if_newer)",
)

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
)
