"""An index's way through its life, broken: backfill, roll-out, changes while it waits, repair."""

from __future__ import annotations

from indexer import changes, reindex, rollout
from indexer.verify import passing
from proof.mutation import Edit, Mutant

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
