"""Stores out of reach, workers that die, and writes that arrive when nobody expects them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import pytest

from encoders.types import ItemRecord
from indexer import changes, entries, ledger
from indexer.errors import StoreUnavailable
from indexer.stores import VectorStore
from syncing.world import World


class Outage:
    """A store that is out of reach for the next calls of one verb; everything else is the real
    store."""

    def __init__(self, store: VectorStore, verb: str, *, calls: int, after: bool) -> None:
        self._store, self._verb, self._after = store, verb, after
        self.left = calls

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._store, name)
        return self._failing(attribute) if name == self._verb else attribute

    def _failing(self, verb: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self.left <= 0:
                return verb(*arguments, **named)
            self.left -= 1
            if self._after:
                verb(*arguments, **named)
            raise StoreUnavailable("the store is out of reach")

        return call


class Killed(BaseException):
    """Nothing handles it, as nothing handles a SIGKILL."""


class Late(Outage):
    """Writes reach the store only when `arrive` is called; their callers wait, die or give up."""

    def __init__(self, store: VectorStore, verb: str, error: type[BaseException]) -> None:
        super().__init__(store, verb, calls=1, after=False)
        self.error = error
        self.held: list[Callable[[], object]] = []

    def _failing(self, verb: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if self.left <= 0:
                return verb(*arguments, **named)
            self.left -= 1
            self.held.append(lambda: verb(*arguments, **named))
            raise self.error("on its way")

        return call

    def arrive(self) -> None:
        for write in self.held:
            write()


@pytest.mark.parametrize("verb", ["write_if_newer", "delete_if_newer", "flush"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_outage_of_the_store_costs_time_and_nothing_else(
    world: World, verb: str, after: bool
) -> None:
    world.insert(*(f"k{n}" for n in range(100)))
    world.drain()
    world.run("UPDATE public.items SET title = 'changed ' || id WHERE id < 'k5'")
    world.run("DELETE FROM public.items WHERE id >= 'k8'")
    real = world.store
    world.store = Outage(real, verb, calls=3, after=after)  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(4):
        report = world.drain()
        world.run("UPDATE indexer.entries SET due_at = now()")
    assert report.outages == []
    world.store = real
    assert ledger.failures(world.engine) == []
    world.assert_agrees(world.store.count(world.index.ref))


@pytest.mark.parametrize("steps", ["claimed", "encoded", "written"])
def test_whatever_a_lost_worker_did_the_next_one_puts_right(world: World, steps: str) -> None:
    """The first worker dies between two steps (an exception nobody handles), in mid-change."""
    world.insert(*(f"k{n}" for n in range(50)))
    world.drain()
    world.run("UPDATE public.items SET title = 'B ' || id")

    def die(*_: object, **__: object) -> None:
        raise Killed

    targets = {
        "claimed": "catalog.read",
        "encoded": "writing.write",
        "written": "entries.ack_if_held",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"indexer.{targets[steps]}", die)
        with pytest.raises(Killed):
            world.drain()
    world.run("UPDATE public.items SET title = 'film ' || id")  # back to what the ledger knew
    world.drain()
    world.expire()
    world.drain()
    world.assert_agrees(50)


def test_groups_of_what_lost_workers_left_do_not_dwindle_to_single_items(world: World) -> None:
    """A small batch takes about as long as a large one, which is no sign of a slow tower."""
    world.insert(*(f"k{n:03}" for n in range(320)))
    changes.route(world.engine, limit=1_000)
    assert entries.claim(world.engine, world.index.id, limit=512, lease_s=60)
    world.expire()
    groups: list[int] = []

    def before(records: Sequence[ItemRecord]) -> None:
        groups.append(len(records))
        time.sleep(0.05)

    world.encoder.before = before
    world.settings = world.settings.model_copy(update={"batch_s": 0.25})
    world.drain()
    assert groups == [32] * 10
    world.assert_agrees(320)


def test_a_zombie_can_neither_overwrite_nor_resurrect(world: World) -> None:
    world.insert("stale", "deleted")
    world.drain()
    world.run("UPDATE public.items SET title = 'zombie view'")
    asleep, awake, encoder = threading.Event(), threading.Event(), world.encoder

    def sleep(_: object) -> None:
        asleep.set()
        assert awake.wait(30)

    encoder.before = sleep
    zombie = threading.Thread(target=world.drain)
    zombie.start()
    assert asleep.wait(30)
    encoder.before = None
    world.towers.add("e1", encoder)  # a process of its own would have its own lock
    world.expire()
    world.run("UPDATE public.items SET title = 'truth' WHERE id = 'stale'")
    world.run("DELETE FROM public.items WHERE id = 'deleted'")
    world.drain()
    world.assert_agrees(1)
    awake.set()
    zombie.join(30)
    world.assert_agrees(1)
    world.drain()
    world.assert_agrees(1)


@pytest.mark.parametrize("error", [Killed, StoreUnavailable])
@pytest.mark.parametrize("routed", [False, True], ids=["delete", "write, then delete"])
def test_a_first_insert_that_arrives_after_the_delete_brings_nothing_back(
    world: World, error: type[BaseException], routed: bool
) -> None:
    world.insert("a", "b")
    late = lose(world, "write_if_newer", error)
    if routed:
        world.drain()
        world.assert_agrees(2)
    world.run("DELETE FROM public.items WHERE id = 'a'")
    world.drain()
    world.assert_agrees(1)
    late.arrive()
    world.assert_agrees(1)
    world.insert("a")
    world.drain()
    late.arrive()
    world.assert_agrees(2)


@pytest.mark.parametrize("error", [Killed, StoreUnavailable])
@pytest.mark.parametrize("arrives", ["at once", "later"])
def test_an_item_whose_delete_was_lost_and_that_came_back_is_there(
    world: World, error: type[BaseException], arrives: str
) -> None:
    world.insert("a", "b")
    world.drain()
    world.run("DELETE FROM public.items WHERE id = 'a'")
    late = lose(world, "delete_if_newer", error)
    if arrives == "at once":
        late.arrive()
    world.insert("a")
    world.drain()
    world.assert_agrees(2)
    late.arrive()
    world.assert_agrees(2)


def test_a_tombstone_is_gone_from_the_store_when_the_ledger_forgets_it(world: World) -> None:
    world.insert("a")
    lose(world, "write_if_newer", Killed)
    world.run("DELETE FROM public.items")
    world.drain()
    buried = world.store.fetch(world.index.ref, ["a"])
    assert buried == {}
    ago = "UPDATE indexer.entries SET changed_at = now() - interval '9 days',"
    world.run(f"{ago} lost_at = now() - interval '9 days'")
    assert entries.purge(world.engine, tombstone_s=86_400) == 0
    world.drain()
    assert entries.purge(world.engine, tombstone_s=86_400) == 1
    world.assert_agrees(0)


def test_a_stop_gives_the_batch_back_at_once(world: World) -> None:
    stop = threading.Event()
    world.insert(*(f"k{n}" for n in range(10)))
    world.encoder.before = lambda _: stop.set()
    report = world.drain(stop=stop)
    assert report.released == 10
    world.encoder.before = None
    assert world.drain().encoded == 10


def lose(world: World, verb: str, error: type[BaseException]) -> Late:
    """A drain whose first call of `verb` is on its way for long: its process is gone, or gave up.
    The store works again afterwards, for those who come later."""
    real = world.store
    late = world.store = Late(real, verb, error)  # pyright: ignore[reportAttributeAccessIssue]
    if error is Killed:
        with pytest.raises(Killed):
            world.drain()
        world.expire()
    else:
        assert world.drain().outages
        world.run("UPDATE indexer.entries SET due_at = now()")
    world.store = real
    assert late.held
    return late
