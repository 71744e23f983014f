"""What can happen to users, workers, the ledger and the store.

The verbs here are what the machine does at random and what the scenarios of the mutants do in a
given order. All of them run the real code; `settle` lets everything come to rest, `check` compares
every index with the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from hashing import info

from indexer import changes, database, indexes, reindex, rollout, sync, tidying, verify
from indexer.errors import DatabaseError, IndexStateError, StoreError
from indexer.indexes import Index
from proof import agreement, baton
from proof.baton import Process
from proof.oracle import Change
from proof.parts import ALIAS, LEASE_S, SALTS, Parts
from proof.users import User

MOST_INDEXES = 3  # that are not retired

FORGET_EVERYTHING = """
    WITH rows AS (DELETE FROM public.films), changed AS (DELETE FROM indexer.changes),
         ledger AS (DELETE FROM indexer.entries), rolled AS (DELETE FROM indexer.rollouts),
         verified AS (DELETE FROM indexer.verifications),
         shadows AS (DELETE FROM indexer.shadow_reads)
    DELETE FROM indexer.indexes WHERE state IN ('retired', 'failed')
"""

EXPECTED = (DatabaseError, StoreError, IndexStateError)  # what processes may end with


class World(Parts):
    """One history at a time; `reset` begins the next."""

    def reset(self) -> None:
        """No row, no change, one live index without a point."""
        self.stop()
        self.meddled = False
        self.oracle.rows.clear()
        kept: Index | None = None
        for index in indexes.all_of(self.engine):
            there = index.collection in self.collections() and index.state in indexes.ACTIVE
            if kept is None and there and index.backfill_done:
                kept = index
            elif index.state != "retired" or index.collection in self.collections():
                self._forget(index)
        self.sql(FORGET_EVERYTHING)
        if kept is None:
            kept = self.reindex("one")
        self._empty(kept)
        self.store.point_alias(ALIAS, kept.collection)
        with database.begin(self.engine) as connection:
            indexes.make_live(connection, kept.id, ALIAS)

    # -- users ------------------------------------------------------------------------------

    def commit(self, *changes: Change) -> None:
        """One user's transaction, committed at once."""
        self.users[0].rollback()
        self.users[0].execute(changes)
        self.users[0].commit(self.oracle)

    def go_on(self, number: int, changes: Sequence[Change], *, then: str) -> None:
        """This user's transaction goes on with these, and then is left open or ends. Nothing
        happens where a statement would have to wait for the other user."""
        user = self.users[number]
        if not self._free(user, changes):
            return
        if then == "roll back to savepoint":
            user.undone(changes)
        else:
            user.execute(changes)
        if then == "commit":
            user.commit(self.oracle)
        elif then == "roll back":
            user.rollback()

    def _free(self, user: User, changes: Sequence[Change]) -> bool:
        for other in self.users:
            if other is not user and other.changes:
                touched = {key for change in changes for key in change.touches}
                if touched & other.holds or any(one.verb == "truncate" for one in changes):
                    return False
        return True

    # -- workers ----------------------------------------------------------------------------

    def worker(self, name: str, *, batch_items: int = 64) -> Process:
        """A worker that will drain all indexes; it stands before its first step."""
        chosen = self.settings.model_copy(update={"batch_items": batch_items})

        def work() -> object:
            return sync.drain(self.engine, self.store, self.towers, chosen)  # pyright: ignore[reportArgumentType]

        return self._start(name, work)

    # -- admins -----------------------------------------------------------------------------

    def reindex(self, encoder_id: str) -> Index:
        """A new index, filled from the catalog, but not drained."""
        index = self.begin(encoder_id)
        for _ in reindex.fill(self.engine, index):
            pass
        return index

    def begin(self, encoder_id: str) -> Index:
        """A new index that nothing is filled into yet."""
        return reindex.start_with(
            self.engine,
            self.store,  # pyright: ignore[reportArgumentType]
            catalog_name="films",
            encoder=info(encoder_id),
        )

    def fill(self, name: str, index: Index) -> Process:
        return self._start(name, lambda: list(reindex.fill(self.engine, index)))

    def promote(self, index: Index) -> Index:
        return rollout.promote(
            self.engine,
            self.store,  # pyright: ignore[reportArgumentType]
            self.towers,
            self.settings,
            index.id,
            pause=lambda: None,
        )

    def resume(self, index: Index) -> None:
        reindex.resume(self.engine, self.store, index.id)  # pyright: ignore[reportArgumentType]
        for _ in reindex.fill(self.engine, index):
            pass

    def verify(self, index: Index) -> verify.Comparison:
        """The index is compared, and what differs is asked for again."""
        return verify.compare(
            self.engine,
            self.store,  # pyright: ignore[reportArgumentType]
            index,
            tower=self.towers.get(index.encoder_id, index.encoder_uri),
            options=verify.Options(repair=True, patience_s=0),
        )

    def meddle(self, how: str, key: str) -> None:
        """Somebody does what nobody should: only `verify` can find it."""
        self.meddled = True
        match how:
            case "a point is deleted":
                self._empty(indexes.live(self.engine, ALIAS), key)
            case "the ledger is altered":
                self.sql(
                    "UPDATE indexer.entries SET present = NOT present, content_hash = '\\xdead'"
                    " WHERE item_key = :key AND written = wanted AND lease_until IS NULL",
                    key=key,
                )
            case _:
                self.sql("DELETE FROM indexer.changes")

    def tidy(self) -> None:
        tidying.tidy(self.engine, self.store, self.settings)  # pyright: ignore[reportArgumentType]

    def admin(self, name: str, what: str, number: int) -> None:
        """An admin (or the workers' upkeep) who will do this; he stands before his first step. Of
        several indexes he means the one of that number."""
        known = [one for one in indexes.all_of(self.engine) if one.state != "retired"]
        if what == "reindex":
            if len(known) < MOST_INDEXES:
                encoder_id = sorted(SALTS)[number % len(SALTS)]
                self._start(name, lambda: self.reindex(encoder_id))
            return
        chosen = known[-1 - number % len(known)]
        works: dict[str, Callable[[], object]] = {
            "resume": lambda: self.resume(chosen),
            "promote": lambda: self.promote(chosen),
            "roll back": lambda: rollout.rollback(self.engine, self.store, ALIAS),  # pyright: ignore[reportArgumentType]
            "cancel": lambda: rollout.cancel(self.engine, self.store, chosen.id),  # pyright: ignore[reportArgumentType]
            "retire": lambda: rollout.retire(self.engine, self.store, chosen.id),  # pyright: ignore[reportArgumentType]
            "tidy": self.tidy,
            "verify": lambda: self.verify(chosen),
        }
        self._start(name, works[what])

    # -- one process after another ------------------------------------------------------------

    def _start(self, name: str, work: Callable[[], object]) -> Process:
        assert name not in self.processes, name
        process = self.processes[name] = Process(name, work)
        return process

    def advance(self, name: str, gates: int) -> None:
        """So many steps of this process, or to its end."""
        process = self.processes[name]
        for _ in range(gates):
            if process.resume() is None:
                break
        self._judge(name)

    def run_to(self, name: str, *gates: str) -> str | None:
        """On to the next of these gates (past the one where it stands), or to its end."""
        at = self.processes[name].run_to(*gates)
        self._judge(name)
        return at

    def finish(self, name: str) -> None:
        self.processes[name].finish()
        self._judge(name)

    def kill(self, name: str) -> None:
        self.processes.pop(name).kill()

    def _judge(self, name: str) -> None:
        """A process that has ended is forgotten; it may have failed only as its like may fail."""
        process = self.processes[name]
        if process.at is None:
            del self.processes[name]
            if process.outcome is not None and not isinstance(
                process.outcome, (*EXPECTED, baton.Killed)
            ):
                raise process.outcome

    # -- accidents, and time ------------------------------------------------------------------

    def lease_runs_out(self, process: Process, *, noticed: bool) -> None:
        """Its batch has been in its hands for longer than the lease; `noticed`: by its own clock,
        too."""
        self.sql(
            "UPDATE indexer.entries SET lease_until = now() - interval '1 second'"
            " WHERE fence = :fence AND lease_until IS NOT NULL",
            fence=process.fence,
        )
        if noticed:
            process.behind_s -= LEASE_S + 1

    def time_passes(self, seconds: float) -> None:
        with database.begin(self.engine) as connection:
            self.clock.pass_for(connection, seconds)

    def route(self, limit: int = 100) -> int:
        return changes.route(self.engine, limit=limit)

    def power_cut(self) -> None:
        """Every process is gone, and what the store had not made durable with them."""
        for process in self.processes.values():
            process.kill()
        self.processes.clear()
        self.store.lose_unflushed()

    def late_request_arrives(self, number: int = 0) -> None:
        """Nobody waits for its answer any more, and its collection may be gone."""
        with suppress(StoreError):
            self.store.late.pop(number)()

    # -- rest and judgement -----------------------------------------------------------------

    def settle(self, *, last_steps: int | None = None, after: bool = False) -> None:
        """Every process has finished, or died after so many steps more; every late request has
        arrived, every lease is over, and the ledger is worked off: all agrees with the oracle. With
        `after` the last steps and requests come when all that is done, and again all agrees."""
        self.store.refusals = 0
        for user in self.users:
            user.rollback()
        if not after:
            self.end(last_steps)
        self.come_to_rest()
        if after and (self.processes or self.store.late):
            self.end(last_steps)
            self.come_to_rest()

    def come_to_rest(self) -> None:
        """Nobody is at it: roll-outs are completed, the ledger is worked off, meddling is found
        and mended. Then all agrees, and `verify` says so."""
        self.complete_rollouts()
        self.drain()
        if self.meddled:
            for index in indexes.active(self.engine):
                self.verify(index)
            self.drain()
            self.meddled = False
        self.check()
        for index in indexes.active(self.engine):
            seen = self.verify(index)
            assert not (seen.drift or seen.in_flight or seen.repaired), (index.id, seen)

    def end(self, last_steps: int | None) -> None:
        """No process is left and no request under way."""
        self.late_requests_arrive()
        for name in sorted(self.processes):
            if last_steps is None:
                self.finish(name)
                continue
            self.advance(name, last_steps)
            if name in self.processes:
                self.kill(name)
        self.late_requests_arrive()

    def late_requests_arrive(self) -> None:
        while self.store.late:
            self.late_request_arrives()

    def complete_rollouts(self) -> None:
        """What the workers' upkeep and an admin do about a roll-out that died: it is healed, and
        what is being built goes on."""
        self.tidy()
        for index in indexes.active(self.engine):
            if not index.backfill_done:
                self.resume(index)

    def drain(self) -> None:
        """Leases and pauses are over, and one drain has worked all of it off."""
        self.time_passes(2 * LEASE_S)
        report = sync.drain(self.engine, self.store, self.towers, self.settings)  # pyright: ignore[reportArgumentType]
        assert not report.outages, report.outages
        self.store.apply()

    def check(self) -> None:
        """Every index that is building, live or standby equals the oracle; so does its ledger."""
        agreement.check(self)

    def check_index(self, index: Index) -> None:
        agreement.check_index(self, index)

    def check_alias_of_the_store(self) -> None:
        agreement.check_alias_of_the_store(self)
