"""Everything that a history happens to: users, workers, the ledger, a store, and the oracle.

The verbs here are what the machine does at random and what the scenarios of the mutants do in a
given order. All of them run the real code; `settle` lets everything come to rest, `check` compares
every index with the oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psycopg
import sqlalchemy as sa
from hashing import HashingEncoder, info

from indexer import (
    catalog,
    changes,
    collection,
    database,
    entries,
    indexes,
    reindex,
    rollout,
    sync,
    tidying,
    verify,
)
from indexer.catalog import spec
from indexer.errors import DatabaseError, IndexStateError, StoreError
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import KEY_FIELD, StoredPoint
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Towers
from proof import baton, seams
from proof.baton import Process
from proof.clock import Clock
from proof.oracle import Change, Oracle
from proof.users import CATALOG, CREATE, User

ALIAS = "films"
KEYS = ("a", "b", "c")
SALTS = {"one": "", "two": "other ", "three": "third "}  # encoders, and what tells them apart
LEASE_S, STORE_TIMEOUT_S = 3_600, 600  # real time never matters
MOST_INDEXES = 3  # that are not retired
FILL_KEYS = 1  # keys of one backfill transaction

FORGET_EVERYTHING = """
    WITH rows AS (DELETE FROM public.films), changed AS (DELETE FROM indexer.changes),
         ledger AS (DELETE FROM indexer.entries), rolled AS (DELETE FROM indexer.rollouts),
         verified AS (DELETE FROM indexer.verifications),
         shadows AS (DELETE FROM indexer.shadow_reads)
    DELETE FROM indexer.indexes WHERE state IN ('retired', 'failed')
"""

EXPECTED = (DatabaseError, StoreError, IndexStateError)  # what processes may end with


class World:
    """One database and one store, used by one history after another."""

    def __init__(self, url: str, folder: Path, store: EdgeStore | QdrantStore) -> None:
        self.engine = database.engine(url)
        self.store = seams.GatedStore(store, volatile=isinstance(store, EdgeStore))
        self.clock = Clock()
        self.settings = Settings.model_validate(
            {
                "data_dir": folder,
                "database_url": url,
                "lease_s": LEASE_S,
                "store_timeout_s": STORE_TIMEOUT_S,
                "batch_s": 60,
                "max_attempts": 2,
                "backoff_s": 0,
                "gate_wait_s": 0,
                "gate_samples": 10,
            }
        )
        self.towers = Towers(self.settings)
        for name, salt in SALTS.items():
            self.towers.add(name, HashingEncoder(salt=salt))
        with psycopg.connect(url) as connection:
            connection.execute(CREATE)
        self.users = [User(connection=psycopg.connect(url)) for _ in range(2)]
        catalog.attach(self.engine, spec.parse(CATALOG, name="films"))
        self.oracle = Oracle()
        self.processes: dict[str, Process] = {}
        self.meddled = False

    def close(self) -> None:
        self.stop()
        for user in self.users:
            user.connection.close()
        self.engine.dispose()

    @contextmanager
    def instrumented(self) -> Iterator[None]:
        """The seams are open, time stands under control, backfills have small chunks."""
        with ExitStack() as stack:
            stack.enter_context(seams.installed(self.engine))
            stack.enter_context(mock.patch.object(entries, "time", self.clock))
            stack.enter_context(mock.patch.object(entries, "DEATHS_TO_QUARANTINE", 10_000))
            stack.enter_context(mock.patch.object(sync, "OUTAGE_PAUSE_S", LEASE_S / 20))
            stack.enter_context(mock.patch.object(reindex, "FILL_KEYS", FILL_KEYS))
            yield

    # -- a new history ----------------------------------------------------------------------

    def stop(self) -> None:
        """No process is left, no transaction open, no request under way."""
        for process in self.processes.values():
            process.kill()
        self.processes.clear()
        for user in self.users:
            user.rollback()
        self.store.lose_unflushed()
        self.store.late.clear()
        self.store.refusals = 0

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

    def _forget(self, index: Index) -> None:
        if self.store.aliases().get(ALIAS) == index.collection:
            self.store.drop_alias(ALIAS)
        self.sql("UPDATE indexer.indexes SET state = 'retired' WHERE id = :id", id=index.id)
        collection.remove(self.engine, self.store, index)  # pyright: ignore[reportArgumentType]

    def _empty(self, index: Index, *keys: str) -> None:
        """None of these points is left (no keys: none at all), not even a tombstone: with the
        engine's own verbs."""
        self.store.apply()
        ids = [index.ref.point_id(key) for key in keys or KEYS]
        real: Any = self.store.real
        if isinstance(real, EdgeStore):
            import qdrant_edge

            real._shard(index.collection).update(qdrant_edge.UpdateOperation.delete_points(ids), [])
        else:
            with real._server.calling() as client:
                client.delete(index.collection, ids)

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
        index = self._begin(encoder_id)
        for _ in reindex.fill(self.engine, index):
            pass
        return index

    def _begin(self, encoder_id: str) -> Index:
        return reindex.start_with(
            self.engine,
            self.store,  # pyright: ignore[reportArgumentType]
            catalog_name="films",
            encoder=info(encoder_id),
        )

    def begin(self, encoder_id: str) -> Index:
        """A new index that nothing is filled into yet."""
        return self._begin(encoder_id)

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
        for index in indexes.active(self.engine):
            self.check_index(index)
        self.check_alias()

    def check_index(self, index: Index) -> None:
        ledger = {row.item_key: row for row in self._ledger(index)}
        points = self._points(index)
        for key in sorted({*self.oracle.rows, *ledger, *points}):
            problem = self._problem(index, ledger.get(key), points.get(key), key)
            assert problem is None, f"index {index.id} ({index.state}), item {key!r}: {problem}"

    def check_alias(self) -> None:
        """The alias names the live index, and its collection exists."""
        self.check_alias_of_the_store()
        named, live = self.store.aliases()[ALIAS], indexes.live(self.engine, ALIAS)
        assert named == live.collection, f"the alias names {named!r}, live is {live.collection!r}"

    def check_alias_of_the_store(self) -> None:
        """Queries are answered at any time: the alias names a collection that exists."""
        named = self.store.aliases().get(ALIAS)
        assert named in self.collections(), f"the alias names {named!r}, which does not exist"

    def _problem(
        self, index: Index, entry: sa.Row[Any] | None, point: StoredPoint | None, key: str
    ) -> str | None:
        row = self.oracle.rows.get(key)
        if row is None:
            if point is not None:
                return f"a ghost: no such row, but the point {point.payload}"
            return None if entry is None else _wrong_tombstone(entry)
        if entry is None:
            return "the ledger does not know it"
        if row.poisonous:
            return None if entry.quarantined else "poison that is not quarantined"
        if entry.quarantined or entry.wanted != entry.written:
            return f"not clean: {entry}"
        if point is None:
            return f"missing in the store; the ledger says {entry}"
        if not entry.present or entry.content_hash != row.content_hash:
            return f"the ledger is wrong: {entry}"
        if entry.payload_hash != row.payload_hash:
            return f"the ledger has another payload: {entry}"
        shown = {name: value for name, value in point.payload.items() if name[0] != "_"}
        if shown != row.payload or point.payload[KEY_FIELD] != key:
            return f"stale payload: {point.payload} instead of {row.payload}"
        if point.payload.get("_content") != row.content_hash.hex():
            return f"the point was made of other features: {point.payload}"
        if int(str(point.payload["_fence"])) > entry.fence:
            return f"the point has a later fence than the ledger: {point.payload}, {entry}"
        expected = self.oracle.vector(row, SALTS[index.encoder_id])
        if expected is None or not np.allclose(point.vectors["hashing"], expected, atol=1e-5):
            return f"stale vector under the payload {point.payload}"
        return None

    def _ledger(self, index: Index) -> Sequence[sa.Row[Any]]:
        with database.begin(self.engine) as connection:
            return connection.execute(
                sa.text("SELECT * FROM indexer.entries WHERE index_id = :id"), {"id": index.id}
            ).all()

    def _points(self, index: Index) -> dict[str, StoredPoint]:
        pages = self.store.scroll(index.ref, vectors=["hashing"])
        return {point.key: point for page in pages for point in page}

    def collections(self) -> list[str]:
        return self.store.collections()

    def sql(self, statement: str, **parameters: object) -> None:
        with database.begin(self.engine) as connection:
            connection.execute(sa.text(statement), parameters)


def _wrong_tombstone(entry: sa.Row[Any]) -> str | None:
    if entry.present or entry.wanted != entry.written or entry.quarantined:
        return f"a deleted item that the ledger is not done with: {entry}"
    return None


__all__ = ["ALIAS", "KEYS", "LEASE_S", "World", "baton"]
