"""Who is rung for, and how many wake-ups wait at the broker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from live import forget_queue, free_port, purge, unique
from live_world import ENCODER_ID

from indexer.indexes import Index
from indexer.settings import Settings
from workers.app import MEMORY, QUEUE, make_app
from workers.bell import Bell, BrokerUnavailable
from workers.rings import REPEAT_MAX_S, REPEAT_S, Rings

Service = Callable[[str], str]


@pytest.fixture(params=["memory", "redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest, service: Service) -> str:
    return MEMORY if request.param == "memory" else service(request.param)


@pytest.fixture
def queue(broker: str) -> Iterator[str]:
    name = unique("bell")
    yield name
    forget_queue(broker, name)


@pytest.fixture
def bell(broker: str, tmp_path: Path) -> Iterator[Bell]:
    settings = Settings.model_validate({"data_dir": tmp_path, "broker_url": broker})
    made = Bell(make_app(settings))
    yield made
    made.close()


# -- who is rung for --------------------------------------------------------------------------


def test_live_indexes_are_rung_for_before_others() -> None:
    due = [an_index(1, state="building"), an_index(2, state="standby"), an_index(3)]
    assert [one.id for one in Rings().choose(due, (), fence=1, now=0)] == [3, 1, 2]


def test_a_wake_up_that_waits_is_not_repeated() -> None:
    rings, due = Rings(), [an_index(1), an_index(2)]
    assert [one.id for one in rings.choose(due, {1}, fence=1, now=0)] == [2]


def test_a_wake_up_is_repeated_at_once_while_claims_go_on() -> None:
    rings, due = Rings(), [an_index(1)]
    rings.rung(1, fence=7, now=0)
    assert rings.choose(due, (), fence=8, now=0.01) == due


def test_repeats_slow_down_while_nobody_claims_and_never_end() -> None:
    rings, due, now, pauses = Rings(), [an_index(1)], 0.0, []
    rings.rung(1, fence=7, now=now)
    for _ in range(8):
        last = now
        while not rings.choose(due, (), fence=7, now=now):
            now += 1 / 8
        rings.rung(1, fence=7, now=now)
        pauses.append(now - last)
    assert pauses[0] == pytest.approx(REPEAT_S, abs=1 / 8)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(REPEAT_MAX_S, abs=1 / 8)


def test_an_index_that_was_clean_meanwhile_is_rung_for_at_once() -> None:
    rings, due = Rings(), [an_index(1)]
    rings.rung(1, fence=7, now=0)
    assert not rings.choose(due, (), fence=7, now=0.01)
    rings.choose((), (), fence=7, now=0.02)
    assert rings.choose(due, (), fence=7, now=0.03) == due


# -- the broker -------------------------------------------------------------------------------


def test_a_queue_without_a_worker_holds_one_wake_up_per_index(
    bell: Bell, broker: str, queue: str
) -> None:
    due = [an_index(1, queue=queue), an_index(2, queue=queue)]
    sent = [bell.ring(due, fence=fence) for fence in range(5)]
    assert sent == [2, 0, 0, 0, 0]
    assert purge(broker, queue) == 2


def test_wake_ups_that_the_broker_lost_are_sent_again(bell: Bell, broker: str, queue: str) -> None:
    due = [an_index(1, queue=queue)]
    assert bell.ring(due, fence=1) == 1
    assert purge(broker, queue) == 1
    assert bell.ring(due, fence=2) == 1
    assert bell.ring(due, fence=3) == 0


def test_each_index_is_rung_for_in_its_own_queue(bell: Bell, broker: str, queue: str) -> None:
    other = unique("bell")
    assert bell.ring([an_index(1, queue=queue), an_index(2, queue=other)], fence=1) == 2
    assert purge(broker, queue) == 1
    assert purge(broker, other) == 1
    forget_queue(broker, other)


def test_nothing_due_asks_the_broker_nothing(tmp_path: Path) -> None:
    url = f"redis://:secret@127.0.0.1:{free_port()}/0"
    bell = Bell(make_app(Settings.model_validate({"data_dir": tmp_path, "broker_url": url})))
    assert bell.ring([], fence=1) == 0


@pytest.mark.parametrize("scheme", ["redis://:{}@127.0.0.1:{}/0", "amqp://me:{}@127.0.0.1:{}//"])
def test_a_broker_that_is_away_is_named_without_its_password(scheme: str, tmp_path: Path) -> None:
    url = scheme.format("hush-hush", free_port())
    bell = Bell(make_app(Settings.model_validate({"data_dir": tmp_path, "broker_url": url})))
    with pytest.raises(BrokerUnavailable, match=r"does not answer .* Check broker_url") as raised:
        bell.ring([an_index(1)], fence=1)
    assert "hush-hush" not in str(raised.value)


def an_index(id_: int, *, queue: str = QUEUE, state: str = "live") -> Index:
    """An index as the ledger would name it."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Index(
        id=id_,
        catalog_id=1,
        catalog="items",
        alias="items",
        encoder_id=ENCODER_ID,
        encoder_uri="memory://hashing",
        encoder_family="hashing",
        collection=f"items-{id_}",
        queue=queue,
        state=state,
        spec_version=1,
        backfill_cursor=None,
        backfill_done=True,
        adopts=None,
        error=None,
        created_at=at,
        written_at=None,
        live_at=None,
        standby_at=None,
        retired_at=None,
    )
