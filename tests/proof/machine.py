"""The state machine: what may happen, in any order. `World` says what each of these means."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from proof import seams
from proof.oracle import POISON, Change, Row
from proof.world import KEYS, LEASE_S, World

from indexer import indexes, reindex

WORKERS = ("A", "B", "C")

keys = st.sampled_from(KEYS)
some_keys = st.lists(keys, min_size=1, max_size=3, unique=True).map(tuple)
rows = st.builds(
    Row,
    title=st.sampled_from(["red", "green", "blue", "red green"]),
    year=st.sampled_from([None, 1999, 2024]),
    note=st.sampled_from(["", "x"]),
)
poison = st.builds(Row, title=st.sampled_from([POISON, f"red {POISON}"]), year=st.none())
writes = st.builds(
    Change,
    verb=st.sampled_from(["insert", "insert", "upsert", "update", "delete", "delete", "copy", "touch"]),
    keys=some_keys,
    row=rows,
)
renames = st.builds(Change, verb=st.just("rename"), keys=keys.map(lambda key: (key,)), to=keys)
truncates = st.just(Change(verb="truncate"))
poisonings = st.builds(Change, verb=st.sampled_from(["upsert", "update"]), keys=some_keys, row=poison)
statements = st.one_of(writes, writes, writes, renames, poisonings, truncates)
without_truncate = st.one_of(writes, renames, poisonings)
faults = st.sampled_from(
    [("store", one) for one in seams.STORE_FAULTS]
    + [("database", one) for one in seams.DATABASE_FAULTS]
)
worker_names = st.sampled_from(WORKERS)
gates = st.integers(1, 6)
last_steps = st.one_of(st.none(), st.integers(0, 3))  # of each process; None: all that it has


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

    @rule(changes=st.lists(statements, min_size=1, max_size=3))
    def a_user_commits(self, changes: list[Change]) -> None:
        user = self.world.users[0]
        if not user.changes and self.world.free(user, changes):
            self.world.commit(*changes)

    @rule(number=st.integers(0, 1), changes=st.lists(without_truncate, min_size=1, max_size=2))
    def a_user_goes_on(self, number: int, changes: list[Change]) -> None:
        user = self.world.users[number]
        if self.world.free(user, changes):
            user.execute(changes)

    @rule(number=st.integers(0, 1), changes=st.lists(statements, min_size=1, max_size=2))
    def a_user_rolls_back_to_a_savepoint(self, number: int, changes: list[Change]) -> None:
        """A truncation, too, so he must be alone: it locks the table to the end of the transaction,
        from which workers would have to read."""
        user = self.world.users[number]
        if self.world.free(user, changes):
            user.undone(changes)
            if any(change.verb == "truncate" for change in changes) or not user.changes:
                user.commit(self.world.oracle)

    @rule(number=st.integers(0, 1), committed=st.booleans())
    def a_user_ends_a_transaction(self, number: int, committed: bool) -> None:
        user = self.world.users[number]
        if committed:
            user.commit(self.world.oracle)
        else:
            user.rollback()

    # -- workers ----------------------------------------------------------------------------

    @rule(limit=st.integers(1, 10))
    def the_watcher_routes(self, limit: int) -> None:
        self.world.route(limit)

    @rule(name=worker_names, batch_items=st.sampled_from([1, 2, 64]), steps=gates)
    def a_worker_steps(self, name: str, batch_items: int, steps: int) -> None:
        if name not in self.world.processes:
            self.world.worker(name, batch_items=batch_items)
        self.world.advance(name, steps)

    @rule(name=worker_names, batch_items=st.sampled_from([1, 64]))
    def a_worker_comes_to_its_writes(self, name: str, batch_items: int) -> None:
        if name not in self.world.processes:
            self.world.worker(name, batch_items=batch_items)
        self.world.processes[name].run_to(
            "write_if_newer", "delete_if_newer", "set_payload_if_newer", "ack_if_held"
        )
        self.world.advance(name, 0)

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data())
    def a_process_finishes(self, data: st.DataObject) -> None:
        self.world.finish(self._some_process(data))

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data())
    def a_process_is_killed(self, data: st.DataObject) -> None:
        self.world.kill(self._some_process(data))

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data(), noticed=st.booleans())
    def a_lease_runs_out(self, data: st.DataObject, noticed: bool) -> None:
        process = self.world.processes[self._some_process(data)]
        if process.fence is not None:
            self.world.lease_runs_out(process, noticed=noticed)

    @rule(minutes=st.sampled_from([5, 65]))
    def time_passes(self, minutes: int) -> None:
        self.world.time_passes(minutes * 60)

    # -- outages ----------------------------------------------------------------------------

    @precondition(lambda self: self.world.processes)
    @rule(data=st.data(), kind_and_fault=faults)
    def the_next_call_fails(self, data: st.DataObject, kind_and_fault: tuple[str, str]) -> None:
        kind, fault = kind_and_fault
        self.world.processes[self._some_process(data)].faults[kind] = fault

    @precondition(lambda self: self.world.store.late)
    @rule(data=st.data())
    def a_late_request_arrives(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.world.store.late) - 1))
        self.world.late_request_arrives(number)

    @rule(really=st.integers(0, 3))
    def the_power_fails(self, really: int) -> None:
        if really == 0:  # once in a while: it ends every story that is under way
            self.world.power_cut()

    # -- rest -------------------------------------------------------------------------------

    @invariant()
    def the_alias_can_be_resolved(self) -> None:
        self.world.check_alias()

    def teardown(self) -> None:
        try:
            if self.ending:
                self.world.settle(**self.ending)
        finally:
            self.world.stop()

    def _some_process(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.world.processes)))


__all__ = ["LEASE_S", "Proof", "indexes", "reindex"]
