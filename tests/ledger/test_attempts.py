"""Who fails pays for it alone: attempts, backoff and quarantine; outages charge nobody."""

from __future__ import annotations

from datetime import UTC, datetime

import sqlalchemy as sa

from indexer import changes, entries, ledger
from indexer.indexes import Index
from ledger.world import ack, claim, expire, fail, insert, keys_of, row, run


def test_an_outage_gives_leases_and_attempts_back(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    batch = claim(engine, index)
    assert entries.release_if_held(engine, batch, ["a"]) == 1
    again = claim(engine, index)
    assert again.claims[0].attempts == 1
    assert entries.release_if_held(engine, batch, ["a"]) == 0, "the old fence releases nothing"
    assert entries.release_if_held(engine, again, ["a"], pause_s=60) == 1
    assert entries.claim(engine, index.id, limit=10, lease_s=60) is None


def test_an_item_is_quarantined_after_its_own_attempts_and_freed_by_a_change(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    assert fail(engine, claim(engine, index)) == 0
    assert fail(engine, claim(engine, index)) == 1
    assert entries.claim(engine, index.id, limit=10, lease_s=60) is None
    (failure,) = ledger.failures(engine)
    assert (failure.key, failure.quarantined, failure.attempts) == ("a", True, 2)
    assert failure.error == "it hurts�"
    run(engine, "UPDATE public.items SET title = 'mended' WHERE id = 'a'")
    changes.route(engine, limit=10)
    assert claim(engine, index).claims[0].attempts == 1


def test_a_failure_of_a_row_that_changed_meanwhile_is_not_charged(
    engine: sa.Engine, index: Index
) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    batch = claim(engine, index)
    run(engine, "UPDATE public.items SET title = 'mended' WHERE id = 'a'")
    changes.route(engine, limit=10)
    assert fail(engine, batch, max_attempts=1) == 0
    assert claim(engine, index).claims[0].attempts == 1


def test_backoff_grows_and_is_bounded(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a")
    changes.route(engine, limit=10)
    waits = []
    for _ in range(4):
        batch = claim(engine, index)
        entries.fail_if_held(
            engine, batch, {"a": "no"}, max_attempts=99, backoff_s=10, backoff_max_s=25
        )
        now = datetime.now(UTC)
        waits.append((row(engine, index, "a")["due_at"] - now).total_seconds())
        run(engine, "UPDATE indexer.entries SET due_at = now()")
    assert 7 <= waits[0] <= 12.5
    assert 14 <= waits[1] <= 25
    assert all(18 <= wait <= 31.25 for wait in waits[2:])


def test_retry_frees_failures_of_all_or_of_the_named(engine: sa.Engine, index: Index) -> None:
    insert(engine, "a", "b")
    changes.route(engine, limit=10)
    assert fail(engine, claim(engine, index), max_attempts=1) == 2
    assert entries.retry(engine, index_id=index.id, keys=["a"]) == 1
    assert keys_of(claim(engine, index)) == ["a"]
    assert entries.retry(engine) == 1


def test_crashes_are_bisected_until_the_culprit_is_claimed_alone_and_quarantined(
    engine: sa.Engine, index: Index
) -> None:
    """A worker dies whenever it holds "poison"; nobody else may suffer for it."""
    insert(engine, *(f"k{n:03d}" for n in range(300)), "poison")
    changes.route(engine, limit=1_000)
    sizes = []
    for _ in range(200):
        batch = entries.claim(engine, index.id, limit=512, lease_s=60, deaths=5)
        if batch is None:
            break
        if "poison" in keys_of(batch):
            sizes.append(len(batch.claims))
            expire(engine)
        else:
            ack(engine, batch)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] == 1
    (failure,) = ledger.failures(engine)
    assert failure.key == "poison"
    assert failure.quarantined
    assert ledger.summary(engine)[index.id].present == 300
