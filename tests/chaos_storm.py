"""What goes wrong, and when: one fault after another, drawn by a seeded generator.

A fault is a generator: it breaks something, yields how many seconds until its next step, and mends
it. Faults overlap, but no two of them work on the same thing at a time.
"""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import chaos_servers
import live
import psycopg
from cable import Cable
from chaos_servers import Broker, Crew, Held

OFTEN_S, SELDOM_S = (0.8, 2.0), (1.5, 3.5)  # from one fault to the next
LOOK_S = 0.1
PAST_LEASE_S = (0.5, 2.0)  # how much longer than a lease a process is stopped
OUTAGE_S = (0.5, 3.0)
ORDER_S = 6.0  # until an order that nobody took is withdrawn
MOMENTS = [
    (step, when)
    for step in ("route", "claim", "read", "encode", "write", "delete", "ack", "ring")
    for when in ("before", "after")
]

Fault = Generator[float]


@dataclass(kw_only=True)
class Scene:
    """All that can be broken."""

    crew: Crew
    broker: Broker
    cable: Cable  # between the workers and the store
    postgres: Path  # folder of the cluster
    database_url: str
    orders: Path
    lease_s: float


@dataclass(kw_only=True)
class Storm:
    """`run` lets it blow; `done` counts the faults that took place."""

    scene: Scene
    rng: random.Random
    every_s: tuple[float, float]
    tell: Callable[[str], None]
    done: Counter[str] = field(default_factory=Counter[str])

    def __post_init__(self) -> None:
        self._steps: list[tuple[float, int, str, Fault]] = []
        self._numbers = itertools.count()
        self._busy: set[str] = set()
        self._bag: deque[str] = deque()
        self._full = False  # whether the bag has held everything once

    def run(self, seconds: float) -> None:
        """At its end everything is mended, awake and started."""
        until = time.monotonic() + seconds
        due = time.monotonic()
        try:
            while time.monotonic() < until:
                if time.monotonic() >= due:
                    self._begin(self._draw())
                    due = time.monotonic() + self.rng.uniform(*self.every_s)
                self._go_on(time.monotonic())
                self.scene.crew.revive()
                time.sleep(LOOK_S)
            while self._steps:
                self._go_on(time.monotonic())
                time.sleep(LOOK_S)
        finally:
            for *_, fault in self._steps:
                fault.close()
        self.scene.crew.revive()

    def _draw(self) -> str:
        """The next fault whose thing is whole: first each kind once, then by weight."""
        if not self._bag:
            names = [name for name, (_, weight, _) in FAULTS.items() for _ in range(weight)]
            names = names if self._full else list(FAULTS)
            self.rng.shuffle(names)
            self._bag.extend(names)
            self._full = True
        for _ in range(len(self._bag)):
            if FAULTS[self._bag[0]][0] not in self._busy:
                break
            self._bag.rotate(-1)
        return self._bag.popleft()

    def _begin(self, name: str) -> None:
        thing, _, make = FAULTS[name]
        if thing in self._busy:  # everything in the bag concerns what is broken already
            self._bag.append(name)
            return
        self._busy.add(thing)
        self.tell(name)
        heapq.heappush(self._steps, (0.0, next(self._numbers), name, make(self)))

    def _go_on(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now:
            _, _, name, fault = heapq.heappop(self._steps)
            pause_s = next(fault, None)
            if pause_s is None:
                self._busy.discard(FAULTS[name][0])
            else:
                step = (now + pause_s, next(self._numbers), name, fault)
                heapq.heappush(self._steps, step)

    # -- workers --------------------------------------------------------------------------------

    def worker_killed(self) -> Fault:
        """kill -9 of a main process; its children are orphans for a moment."""
        self.scene.crew.one(self.rng).kill()
        self.done["worker killed"] += 1
        yield from ()

    def child_killed(self) -> Fault:
        """kill -9 of a process of a prefork pool, whose parent starts another."""
        child = self.scene.crew.child(self.rng)
        if child is not None:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                self.done["child killed"] += 1
        yield from ()

    def killed_at_a_step(self) -> Fault:
        """The first to come there kills itself between two steps."""
        step, when = self.rng.choice(MOMENTS)
        yield from self._order(f"{step}.{when}", "SIGKILL", "killed at a step")

    def worker_stopped(self) -> Fault:
        """SIGSTOP of a worker with its children, for longer than a lease, whatever it is at."""
        worker = self.scene.crew.one(self.rng)
        held = Held.stop([worker.pid, *worker.children()])
        try:
            yield self.scene.lease_s + self.rng.uniform(*PAST_LEASE_S)
        finally:
            held.wake()
        self.done["worker stopped"] += 1

    def zombie_writer(self) -> Fault:
        """A process stops right before a write, and sends it when others hold its lease."""
        yield from self._order("write.before", "SIGSTOP", "zombie before a write")

    def zombie_deleter(self) -> Fault:
        yield from self._order("delete.before", "SIGSTOP", "zombie before a delete")

    def _order(self, moment: str, number: str, name: str) -> Fault:
        order = self.scene.orders / f"{moment}.1.{live.unique('order')}"
        draft = order.with_name(f"draft-{order.name}")
        draft.write_text(number)
        draft.rename(order)
        deadline = time.monotonic() + ORDER_S
        while order.exists():
            if time.monotonic() > deadline:
                order.unlink(missing_ok=True)
            yield LOOK_S
        for taken in self.scene.orders.glob(f"{order.name}.*"):
            self.done[name] += 1
            if number == "SIGSTOP":
                yield from self._asleep(int(taken.name.rpartition("-")[2]))

    def _asleep(self, pid: int) -> Fault:
        held = Held.of([pid])
        try:
            yield self.scene.lease_s + self.rng.uniform(*PAST_LEASE_S)
        finally:
            held.wake()

    # -- broker ---------------------------------------------------------------------------------

    def broker_restarted(self) -> Fault:
        self.scene.broker.kill()
        yield self.rng.uniform(*OUTAGE_S)
        self.scene.broker.begin()
        deadline = time.monotonic() + chaos_servers.START_S
        while not live.answers(self.scene.broker.url):
            assert time.monotonic() < deadline, "the broker did not come back"
            yield 5 * LOOK_S
        self.done["broker restarted"] += 1

    def broker_emptied(self) -> Fault:
        for _ in range(5):
            self.scene.broker.empty(self.scene.crew.queue)
            yield LOOK_S
        self.done["broker emptied"] += 1

    # -- PostgreSQL -----------------------------------------------------------------------------

    def postgres_killed(self) -> Fault:
        yield from self._signal_postgres(signal.SIGKILL)
        self.done["PostgreSQL killed"] += 1

    def postgres_restarted(self) -> Fault:
        """A fast shutdown: sessions are ended in order."""
        yield from self._signal_postgres(signal.SIGINT)
        self.done["PostgreSQL restarted"] += 1

    def _signal_postgres(self, number: signal.Signals) -> Fault:
        file = self.scene.postgres / "data" / "postmaster.pid"
        before = file.read_text().split()[0]
        os.kill(int(before), number)
        deadline = time.monotonic() + chaos_servers.START_S
        while _postmaster(file) in {None, before} or not _lets_in(self.scene.database_url):
            assert time.monotonic() < deadline, "PostgreSQL did not come back"
            yield LOOK_S

    # -- the way to the store -------------------------------------------------------------------

    def store_refused(self) -> Fault:
        yield from self._broken(self.scene.cable.refuse, "store refused")

    def store_cut(self) -> Fault:
        yield from self._broken(self.scene.cable.cut, "store cut off")

    def requests_lost(self) -> Fault:
        """Writes reach the store in part."""
        yield from self._broken(lambda: self.scene.cable.lose("request"), "store cut in a request")

    def answers_lost(self) -> Fault:
        """Writes are carried out, and nobody hears of it."""
        yield from self._broken(lambda: self.scene.cable.lose("answer"), "store's answers lost")

    def store_slow(self) -> Fault:
        delay_s = self.rng.uniform(0.05, 0.6)
        yield from self._broken(lambda: self.scene.cable.slow_down(delay_s), "store slow")

    def writes_delivered_late(self) -> Fault:
        """Writes arrive when their lease has long been taken over."""
        seconds = self.scene.lease_s + self.rng.uniform(*PAST_LEASE_S)
        self.scene.cable.stall(seconds)
        try:
            yield seconds + 5 * LOOK_S
        finally:
            self.scene.cable.mend()
        self.done["writes delivered late"] += 1

    def _broken(self, spoil: Callable[[], None], name: str) -> Fault:
        spoil()
        try:
            yield self.rng.uniform(*OUTAGE_S)
        finally:
            self.scene.cable.mend()
        self.done[name] += 1


# what it concerns, weight, how
FAULTS: dict[str, tuple[str, int, Callable[[Storm], Fault]]] = {
    "worker killed": ("workers", 4, Storm.worker_killed),
    "child killed": ("workers", 2, Storm.child_killed),
    "killed at a step": ("order to die", 3, Storm.killed_at_a_step),
    "worker stopped": ("stopped worker", 2, Storm.worker_stopped),
    "zombie before a write": ("order to stop", 3, Storm.zombie_writer),
    "zombie before a delete": ("order to stop", 1, Storm.zombie_deleter),
    "broker restarted": ("broker", 1, Storm.broker_restarted),
    "broker emptied": ("broker", 1, Storm.broker_emptied),
    "PostgreSQL killed": ("PostgreSQL", 1, Storm.postgres_killed),
    "PostgreSQL restarted": ("PostgreSQL", 1, Storm.postgres_restarted),
    "store refused": ("store", 1, Storm.store_refused),
    "store cut off": ("store", 1, Storm.store_cut),
    "store cut in a request": ("store", 1, Storm.requests_lost),
    "store's answers lost": ("store", 1, Storm.answers_lost),
    "store slow": ("store", 1, Storm.store_slow),
    "writes delivered late": ("store", 2, Storm.writes_delivered_late),
}


def _postmaster(file: Path) -> str | None:
    try:
        return file.read_text().split()[0]
    except (OSError, IndexError):
        return None


def _lets_in(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=1).close()
    except psycopg.OperationalError:
        return False
    return True
