"""The state machine: what may happen, in any order. `World` says what each of these means.

What a rule draws never hangs on the world's state ("the second process", not one by its name), and
what does not apply does nothing: else an example would not be the same twice where PostgreSQL is
free to choose, as between ties in an order.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proof import seams
from proof.baton import Process
from proof.oracle import POISON, Change, Row
from proof.parts import KEYS
from proof.world import World

WRITES = ("write_if_newer", "delete_if_newer", "bury_if_newer", "set_payload_if_newer")

numbers = st.integers(0, 2)  # which one of several
key = st.sampled_from(KEYS).map(lambda one: (one,))
keys = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True).map(tuple)
rows = st.builds(
    Row, title=st.sampled_from(["red", "green"]), year=st.sampled_from([None, 1999, 2024])
)
writes = st.builds(
    Change, verb=st.sampled_from(["upsert", "insert", "update", "date"]), keys=keys, row=rows
)
deletes = st.builds(Change, verb=st.just("delete"), keys=keys)
copies = st.builds(Change, verb=st.just("copy"), keys=keys, row=rows)
touches = st.builds(Change, verb=st.just("touch"), keys=keys)
renames = st.builds(Change, verb=st.just("rename"), keys=key, to=st.sampled_from(KEYS))
truncates = st.just(Change(verb="truncate"))
poisons = st.builds(Change, verb=st.just("upsert"), keys=key, row=st.just(Row(title=POISON)))
rarer = st.one_of(copies, touches, renames, truncates, poisons)

worker_names = st.sampled_from(["A", "B", "C"])
admin_names = st.sampled_from(["M", "N"])
acts = st.sampled_from(
    ["reindex", "promote", "reindex", "roll back", "cancel", "retire", "tidy", "resume", "verify"]
)
meddlings = st.sampled_from(["a point is deleted", "the ledger is altered", "changes are lost"])
batch_sizes = st.sampled_from([64, 1, 2])
accidents = st.sampled_from(
    [("lease", "noticed"), ("lease", "unnoticed"), ("killed", ""), ("fill", "killed")]
    + [("store", one) for one in seams.STORE_FAULTS]
    + [("database", one) for one in seams.DATABASE_FAULTS]
)
common_fates = st.sampled_from(
    ["minutes", "an hour", "outage", "power cut", "minutes", *["a late request arrives"] * 3]
)
leases = st.sampled_from(["run out, unnoticed", "run out, noticed", "held"])
last_steps = st.sampled_from([1, 0, 2, 3, None])  # of each process; None: all that it has


class Proof(RuleBasedStateMachine):
    """One history. `world` is set by whoever runs it, and used by one history after another."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.reset()
        self.ending: dict[str, Any] = {}

    @initialize(last_steps=last_steps, after=st.booleans())
    def choose_the_ending(self, last_steps: int | None, after: bool) -> None:
        self.ending = {"last_steps": last_steps, "after": after}

    # -- users ------------------------------------------------------------------------------

    @rule(change=writes)
    def items_are_written(self, change: Change) -> None:
        self._commit(change)

    @rule(change=deletes)
    def items_are_deleted(self, change: Change) -> None:
        self._commit(change)

    @rule(change=rarer)
    def something_rarer_is_committed(self, change: Change) -> None:
        self._commit(change)

    @rule(
        number=numbers,
        changes=st.lists(st.one_of(writes, deletes, renames), min_size=1, max_size=2),
        then=st.sampled_from(["commit", "leave open", "roll back", "roll back to savepoint"]),
    )
    def a_transaction_goes_on(self, number: int, changes: list[Change], then: str) -> None:
        self.world.go_on(number % 2, changes, then=then)

    # -- workers ----------------------------------------------------------------------------

    @rule(limit=st.integers(1, 10))
    def the_watcher_routes(self, limit: int) -> None:
        self.world.route(limit)

    @rule(name=worker_names, batch_items=batch_sizes, steps=st.integers(1, 4))
    def a_worker_steps(self, name: str, batch_items: int, steps: int) -> None:
        self._ready(name, batch_items)
        self.world.advance(name, steps)

    @rule(name=worker_names, batch_items=batch_sizes, lease=leases)
    def a_worker_comes_to_its_writes(self, name: str, batch_items: int, lease: str) -> None:
        self._ready(name, batch_items)
        if self.world.run_to(name, *WRITES) and lease != "held":
            noticed = lease == "run out, noticed"
            self.world.lease_runs_out(self.world.processes[name], noticed=noticed)

    @rule(name=worker_names, batch_items=batch_sizes)
    def a_worker_finishes(self, name: str, batch_items: int) -> None:
        self._ready(name, batch_items)
        self.world.finish(name)

    # -- admins -----------------------------------------------------------------------------

    @rule(name=admin_names, what=acts, number=numbers, steps=st.integers(1, 5))
    def an_admin_acts(self, name: str, what: str, number: int, steps: int) -> None:
        self._ready_admin(name, what, number)
        if name in self.world.processes:
            self.world.advance(name, steps)

    @rule(name=admin_names, what=acts, number=numbers)
    def an_admin_finishes(self, name: str, what: str, number: int) -> None:
        self._ready_admin(name, what, number)
        if name in self.world.processes:
            self.world.finish(name)

    @rule(how=meddlings, key=st.sampled_from(KEYS), really=st.integers(0, 3))
    def somebody_meddles(self, how: str, key: str, really: int) -> None:
        """Rarely: histories without it say more."""
        if really == 3:
            self.world.meddle(how, key)

    # -- accidents --------------------------------------------------------------------------

    @rule(number=numbers, accident=accidents)
    def something_befalls_a_process(self, number: int, accident: tuple[str, str]) -> None:
        process = self._some(number)
        if process is None:
            return
        kind, how = accident
        if kind == "killed":
            self.world.kill(process.name)
        elif kind == "lease":
            self.world.lease_runs_out(process, noticed=how == "noticed")
        else:
            process.faults[kind] = how

    @rule(what=common_fates, number=numbers)
    def something_befalls_everybody(self, what: str, number: int) -> None:
        match what:
            case "a late request arrives":
                if late := self.world.store.late:
                    self.world.late_request_arrives(number % len(late))
            case "minutes":
                self.world.time_passes(600)
            case "an hour":
                self.world.time_passes(3_900)
            case "outage":
                self.world.store.refusals = 2
            case _:
                self.world.power_cut()

    # -- rest -------------------------------------------------------------------------------

    @invariant()
    def the_alias_can_be_resolved(self) -> None:
        self.world.check_alias_of_the_store()

    def teardown(self) -> None:
        try:
            if self.ending:
                self.world.settle(**self.ending)
        finally:
            self.world.stop()

    def _commit(self, change: Change) -> None:
        """By a user who has no transaction open, if no row that it touches is locked."""
        for number, user in enumerate(self.world.users):
            if not user.changes:
                self.world.go_on(number, [change], then="commit")
                return

    def _ready(self, name: str, batch_items: int) -> None:
        if name not in self.world.processes:
            self.world.worker(name, batch_items=batch_items)

    def _ready_admin(self, name: str, what: str, number: int) -> None:
        if name not in self.world.processes:
            self.world.admin(name, what, number)

    def _some(self, number: int) -> Process | None:
        names = sorted(self.world.processes)
        return self.world.processes[names[number % len(names)]] if names else None
