"""Which index answers: promote, roll back, cancel, retire, and heal what a crash left half done.

The alias in the store is the truth about what answers, since queries follow it and nothing else;
the ledger's states follow the alias. An alias is changed under its advisory lock: the step is
recorded as begun, the alias is switched in one call and read back, then states and history are
written in one transaction. Whoever dies in between leaves a difference that `heal` sees, which
every verb here and the workers' upkeep call first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from encoders.errors import EncoderError
from indexer import alias_lock, catalog, collection, database, gate, history, indexes, ledger
from indexer.errors import GateRefused, IndexStateError, StoreError
from indexer.gate import Pause, Report
from indexer.history import Step
from indexer.indexes import Index
from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.towers import Towers

log = logging.getLogger(__name__)

CANCELLED = "cancelled"
SWITCHES = ("promote", "rollback", "repair")  # actions after which another index may be live


def promote(
    engine: sa.Engine,
    store: VectorStore,
    towers: Towers,
    settings: Settings,
    index_id: int,
    *,
    force: bool = False,
    by: str | None = None,
    pause: Pause = gate.sleep,
) -> Index:
    """The index answers under its alias; the one before is standby and keeps receiving changes.
    Raises GateRefused when the gate refuses and `force` is not given, IndexStateError when another
    index went live while it looked, or when somebody else holds the alias. Repeating it after a
    crash completes it; nothing happens when the index is live already. `pause` is for the gate."""
    index = _promotable(engine, index_id)
    with alias_lock.held(engine, index.alias) as lock:
        _heal(engine, store, lock, index.alias)
    before = indexes.find_live(engine, index.alias)
    if before is not None and before.id == index.id:
        return before
    report = _judged(engine, store, towers, settings, index, force=force, by=by, pause=pause)
    with alias_lock.held(engine, index.alias) as lock:
        _heal(engine, store, lock, index.alias)
        _check_unmoved(engine, index.alias, before)
        target = _promotable(engine, index_id)
        step = _Step(action="promote", target=target, before=before, forced=force, by=by)
        _switch(store, lock, step, report)
    return indexes.get(engine, index_id)


def judge(
    engine: sa.Engine,
    store: VectorStore,
    towers: Towers,
    settings: Settings,
    index_id: int,
    *,
    by: str | None = None,
    pause: Pause = gate.sleep,
) -> Report:
    """The gate was asked about the index; its report is kept with the index and in the history."""
    index = indexes.get(engine, index_id)
    report = gate.run(engine, store, towers, settings, index, pause=pause)
    kept = report.as_dict()
    indexes.set_gate(engine, index.id, kept)
    with database.begin(engine) as connection:
        _record(connection, "gate", index, by, report=kept)
    return report


def rollback(
    engine: sa.Engine,
    store: VectorStore,
    alias: str,
    *,
    force: bool = False,
    by: str | None = None,
) -> Index:
    """The index that was live before answers again, with the tower that built it; the one that was
    live is standby and may be promoted again. Raises IndexStateError when there is none, or when
    it lacks changes that the live index has, unless `force` is given."""
    with alias_lock.held(engine, alias) as lock:
        _heal(engine, store, lock, alias)
        before = indexes.live(engine, alias)
        target = _earlier(engine, lock, before)
        behind = ledger.behind(engine, target.id, than=before.id, in_flight_s=ledger.IN_FLIGHT_S)
        if behind and not force:
            raise IndexStateError(
                f"index {target.id} lacks {behind:,} changes that live index {before.id} has. Let "
                "a worker catch up (`twinspan status`), or go back all the same with --force."
            )
        step = _Step(action="rollback", target=target, before=before, forced=force, by=by)
        _switch(store, lock, step, {"behind": behind})
    return indexes.get(engine, target.id)


def cancel(engine: sa.Engine, store: VectorStore, index_id: int, *, by: str | None = None) -> Index:
    """The index that was being built is failed, its collection and its part of the ledger are gone.
    Workers in the middle of it leave off quietly. Repeating it after a crash completes it. Raises
    IndexStateError for an index that is not being built."""
    index = indexes.get(engine, index_id)
    with alias_lock.held(engine, index.alias) as lock:
        _heal(engine, store, lock, index.alias)
        with lock.begin():
            if indexes.set_state_if(lock, index.id, "failed", now_in=["building"], error=CANCELLED):
                _record(lock, "cancel", index, by)
        index = indexes.get(engine, index_id)
        if index.state != "failed":
            raise IndexStateError(f"index {index.id} is {index.state}, not being built.")
        collection.remove(engine, store, index)
    return index


def retire(engine: sa.Engine, store: VectorStore, index_id: int, *, by: str | None = None) -> Index:
    """The index is retired: its collection and its part of the ledger are gone. Repeating it after
    a crash completes it. Raises IndexStateError while an alias names it, or while it is live, being
    built, or adopted from."""
    index = indexes.get(engine, index_id)
    with alias_lock.held(engine, index.alias) as lock:
        _heal(engine, store, lock, index.alias)
        index = indexes.get(engine, index_id)
        _refuse_if_named(engine, store, index)
        with lock.begin():
            if indexes.set_state_if(lock, index.id, "retired", now_in=["standby", "failed"]):
                _record(lock, "retire", index, by)
        collection.remove(engine, store, index)
    return indexes.get(engine, index_id)


def drop_all(engine: sa.Engine, store: VectorStore, catalog_name: str) -> int:
    """Every index of the catalog is gone, with its alias: before `detach`. Returns how many."""
    attached = catalog.get(engine, catalog_name)
    gone = [
        index
        for index in indexes.all_of(engine)
        if index.catalog_id == attached.id and index.state != "retired"
    ]
    for index in gone:
        with alias_lock.held(engine, index.alias) as lock:
            for alias, name in store.aliases().items():
                if name == index.collection:
                    store.drop_alias(alias)
            with lock.begin():
                now_in = (*indexes.ACTIVE, "failed")
                if indexes.set_state_if(lock, index.id, "retired", now_in=now_in):
                    _record(lock, "retire", index, None)
            collection.remove(engine, store, index)
    return len(gone)


def heal(engine: sa.Engine, store: VectorStore, alias: str) -> Index | None:
    """The ledger says of the alias what the store says; steps that nobody concluded are concluded.
    Returns the index whose state that changed, None when all was well. Where the alias is gone
    altogether, it names the live index again. Raises IndexStateError while somebody else holds
    the alias."""
    with alias_lock.held(engine, alias) as lock:
        return _heal(engine, store, lock, alias)


@dataclass(frozen=True, kw_only=True)
class _Step:
    """`target` is to answer in the place of `before`."""

    action: str
    target: Index
    before: Index | None
    forced: bool
    by: str | None


def _switch(
    store: VectorStore, lock: sa.Connection, step: _Step, report: Mapping[str, object]
) -> None:
    """The alias names the target, seen by reading it back, and the ledger says so."""
    target = step.target
    said = {**report, "outcome": "begun", "before": step.before.id if step.before else None}
    with lock.begin():
        begun = _record(lock, step.action, target, step.by, forced=step.forced, report=said)
    store.point_alias(target.alias, target.collection)
    named = store.aliases().get(target.alias)
    if named != target.collection:
        raise StoreError(
            f"alias {target.alias!r} names {named!r} after it was pointed to {target.collection!r}:"
            " somebody else changes aliases in this store. Look at `twinspan status`."
        )
    with lock.begin():
        indexes.make_live(lock, target.id, target.alias)
        history.conclude(lock, begun, "done")
    log.info("alias %s: index %d answers (%s)", target.alias, target.id, step.action)


def _judged(
    engine: sa.Engine,
    store: VectorStore,
    towers: Towers,
    settings: Settings,
    index: Index,
    *,
    force: bool,
    by: str | None,
    pause: Pause,
) -> dict[str, object]:
    """What the gate says, for the history. Raises GateRefused when it refuses, unless forced."""
    try:
        report = judge(engine, store, towers, settings, index.id, by=by, pause=pause)
    except (StoreError, EncoderError) as cause:
        if not force:
            raise
        return {"gate": f"not asked: {cause}"}
    if not (report.passed or force):
        raise GateRefused(report.refusal())
    return {"gate": "passed" if report.passed else report.refusal()}


def _promotable(engine: sa.Engine, index_id: int) -> Index:
    index = indexes.get(engine, index_id)
    if index.state not in indexes.ACTIVE:
        said = f" ({index.error})" if index.error else ""
        raise IndexStateError(f"index {index.id} is {index.state}{said}; it cannot go live.")
    return index


def _check_unmoved(engine: sa.Engine, alias: str, before: Index | None) -> None:
    """Raises IndexStateError when another index is live than at the beginning."""
    now = indexes.find_live(engine, alias)
    if (now.id if now else None) == (before.id if before else None):
        return
    switches = [step for step in history.of(engine, alias) if step.action in SWITCHES]
    by = f" by {switches[0].by}" if switches else ""
    raise IndexStateError(
        f"alias {alias!r} was changed{by} meanwhile: index {now.id if now else None} is live now, "
        f"not {before.id if before else None}. Look at `twinspan history`, and decide again."
    )


def _earlier(engine: sa.Engine, lock: sa.Connection, live: Index) -> Index:
    """The standby index that was live last, without those that were themselves rolled back."""
    with lock.begin():
        taken_back = history.rolled_back_from(lock, live.alias)
    waiting = indexes.standby(engine, live.alias)
    found = [index for index in waiting if index.id not in taken_back]
    if found:
        return found[0]
    hint = (
        f"Index {waiting[0].id} was rolled back: `twinspan promote {waiting[0].id}` brings it back."
        if waiting
        else "`twinspan history` says what became of earlier ones."
    )
    raise IndexStateError(
        f"alias {live.alias!r} has no standby index that was live before {live.id}. {hint}"
    )


def _refuse_if_named(engine: sa.Engine, store: VectorStore, index: Index) -> None:
    """Raises IndexStateError, saying who still needs the index."""
    if index.state == "live":
        raise IndexStateError(
            f"index {index.id} is live under alias {index.alias!r}. Promote another first, "
            "or detach the catalog."
        )
    naming = sorted(alias for alias, name in store.aliases().items() if name == index.collection)
    if naming:
        raise IndexStateError(
            f"alias {naming[0]!r} names the collection of index {index.id} in {store.name}. "
            "Point it elsewhere first."
        )
    if index.state == "building":
        raise IndexStateError(
            f"index {index.id} is being built. `twinspan cancel {index.id}` gives it up."
        )
    adopting = indexes.adopting(engine, index.collection)
    if adopting:
        raise IndexStateError(
            f"index {adopting[0].id} takes its vectors from index {index.id} while it is being "
            "built. Wait until it is live, or cancel it."
        )


def _heal(engine: sa.Engine, store: VectorStore, lock: sa.Connection, alias: str) -> Index | None:
    named, live = store.aliases().get(alias), indexes.find_live(engine, alias)
    answering = indexes.find_by_collection(engine, named) if named else None
    found = "the alias was gone" if named is None else ""
    if answering is not None and answering.state not in indexes.ACTIVE:
        found = f"the alias named index {answering.id}, which has ended"
        log.warning("alias %s names index %d, which has ended", alias, answering.id)
        answering = None
    if found and live is not None and live.collection in store.collections():
        store.point_alias(alias, live.collection)
        with lock.begin():
            _record(lock, "repair", live, None, report={"found": found})
        return live
    if answering is not None and live is not None and answering.id != live.id:
        log.warning(
            "alias %s: the ledger said index %d, the store %d", alias, live.id, answering.id
        )
    return _conclude(lock, alias, answering, live)


def _conclude(
    lock: sa.Connection, alias: str, answering: Index | None, live: Index | None
) -> Index | None:
    """Steps that were begun have an outcome, and the index that answers is live in the ledger."""
    with lock.begin():
        steps = history.begun(lock, alias)
        moved = answering is not None and (live is None or live.id != answering.id)
        if answering is not None and moved:
            indexes.make_live(lock, answering.id, alias)
        step = _of_target(steps, answering)
        for one in steps:
            history.conclude(lock, one.id, "done" if one is step else "undone")
        if answering is not None and moved and step is None:
            found = f"the alias named it, the ledger index {live.id if live else None}"
            _record(lock, "repair", answering, None, report={"found": found})
    return answering if moved else None


def _of_target(steps: list[Step], answering: Index | None) -> Step | None:
    """The newest step that wanted the index that answers now."""
    mine = [one for one in steps if answering is not None and one.index_id == answering.id]
    return mine[-1] if mine else None


def _record(
    connection: sa.Connection,
    action: str,
    index: Index,
    by: str | None,
    *,
    forced: bool = False,
    report: Mapping[str, object] | None = None,
) -> int:
    return history.record(
        connection,
        index_id=index.id,
        alias=index.alias,
        action=action,
        by=by,
        forced=forced,
        report=report,
    )
