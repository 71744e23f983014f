"""Old records are forgotten: what nobody needs any more, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from live_world import ENCODER_ID, info

from indexer import catalog, database, history, indexes, shadow_reads
from indexer.catalog import spec
from indexer.errors import DatabaseError
from indexer.settings import Settings
from indexer.stores.qdrant import QdrantStore
from workers import upkeep

DAY_S = 86_400.0
MONTH_S = 30 * DAY_S


@pytest.fixture
def three(engine: sa.Engine) -> list[int]:
    """Indexes of one alias: the first has ended, the second is standby, the third live."""
    attached = catalog.attach(engine, spec.BUILTIN)
    made = [
        indexes.register(
            engine, catalog_id=attached.id, alias="items", encoder=info(ENCODER_ID), queue="q"
        ).id
        for _ in range(3)
    ]
    for index_id, state in zip(made, ("retired", "standby", "live"), strict=True):
        indexes.set_state(engine, index_id, state)
    return made


def step(engine: sa.Engine, index_id: int, action: str, *, days: int = 40, **report: object) -> int:
    """A step of so many days ago; returns its id."""
    with database.begin(engine) as connection:
        made = history.record(
            connection, index_id=index_id, alias="items", action=action, report=report
        )
        old = sa.text("UPDATE indexer.rollouts SET at = now() - :age WHERE id = :id")
        connection.execute(old, {"age": timedelta(days=days), "id": made})
    return made


def kept(engine: sa.Engine) -> set[int]:
    return {one.id for one in history.of(engine)}


def test_old_steps_go_but_for_those_that_say_how_active_indexes_came_about(
    engine: sa.Engine, three: Sequence[int]
) -> None:
    ended, standby, live = three
    stay = {
        step(engine, ended, "retire", days=20),
        step(engine, ended, "promote", outcome="begun", before=None),
        step(engine, ended, "rollback", outcome="done", before=standby),
        step(engine, live, "start"),
        step(engine, live, "promote", outcome="done", before=ended),
    }
    go = {
        step(engine, ended, "start"),
        step(engine, ended, "promote", outcome="done", before=None),
        step(engine, ended, "retire"),
        step(engine, live, "gate", passed=True),
        step(engine, live, "repair", repaired=3),
    }
    assert history.trim(engine, kept_s=MONTH_S, limit=3) == 3, "bounded"
    assert history.trim(engine, kept_s=MONTH_S, limit=3) == len(go) - 3
    assert history.trim(engine, kept_s=MONTH_S) == 0
    assert kept(engine) == stay
    with engine.begin() as connection:
        assert history.rolled_back_from(connection, "items") == {standby}


def test_no_setting_and_no_worker_forgets_steps_of_the_last_day(
    engine: sa.Engine, three: Sequence[int]
) -> None:
    step(engine, three[0], "retire", days=0)
    with pytest.raises(DatabaseError, match="a day at least"):
        history.trim(engine, kept_s=DAY_S - 1)
    with pytest.raises(ValueError, match="history_s"):
        Settings(history_s=DAY_S - 1)


def read_of(index_id: int, *, days: float) -> shadow_reads.Read:
    return shadow_reads.Read(
        index_id=index_id,
        live_index_id=index_id,
        at=datetime.now(UTC) - timedelta(days=days),
        k=10,
        overlap=0.5,
        live_ms=1,
        shadow_ms=2,
    )


def reads(engine: sa.Engine) -> int:
    with engine.begin() as connection:
        return connection.execute(sa.text("SELECT count(*) FROM indexer.shadow_reads")).scalar_one()


def test_old_shadow_reads_go_in_bounded_deletes(engine: sa.Engine, three: Sequence[int]) -> None:
    for index_id in three:
        shadow_reads.add(engine, [read_of(index_id, days=31) for _ in range(7)])
        shadow_reads.add(engine, [read_of(index_id, days=29) for _ in range(2)])
    assert shadow_reads.trim(engine, kept_s=MONTH_S, limit=10) == 10, "bounded, over all indexes"
    assert shadow_reads.trim(engine, kept_s=MONTH_S, limit=10) == 10
    assert shadow_reads.trim(engine, kept_s=MONTH_S, limit=10) == 1
    assert reads(engine) == 6


def test_upkeep_forgets_in_small_steps_and_goes_on_the_next_time(
    engine: sa.Engine, three: Sequence[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "TRIM_ROWS", 4)
    monkeypatch.setattr(upkeep, "TRIMS", 2)
    shadow_reads.add(engine, [read_of(three[2], days=3) for _ in range(10)])
    step(engine, three[0], "start", days=3)
    store = QdrantStore.in_memory()
    settings = Settings(history_s=2 * DAY_S)
    keeping = upkeep.Upkeep(settings, services=None)  # type: ignore[arg-type] - not asked for
    try:
        for left in (2, 0):
            keeping._tidy(engine, store)
            assert reads(engine) == left
        assert kept(engine) == set()
    finally:
        store.close()
