"""What was done to indexes, by whom, whether against the gate's advice, and how it ended.

Owner of table `rollouts`. A step that changes an alias is recorded as `begun` before the alias is
touched and concluded with the new states, in one transaction: a crash leaves a step that the next
look concludes by what the alias names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, cast

import sqlalchemy as sa

from indexer import database, tables

Outcome = Literal["begun", "done", "undone"]
Verdict = Literal["passed", "refused"]

_columns = tables.rollouts.c
_TRIM = sa.text("SELECT indexer.forget_steps(:kept_s, :limit)")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One row. `report` says what came of it: `outcome`, `before` (the index that was live), and
    what the action itself has to tell."""

    id: int
    index_id: int
    alias: str
    action: str
    by: str
    at: datetime
    forced: bool
    report: Mapping[str, Any] | None

    @property
    def outcome(self) -> Outcome | Verdict:
        """What became of a step; of a look of the gate, what it found."""
        report = self.report or {}
        if self.action == "gate":
            return "passed" if report.get("passed") else "refused"
        return cast("Outcome", report.get("outcome", "done"))

    @property
    def before(self) -> int | None:
        return cast("int | None", (self.report or {}).get("before"))


def record(
    connection: sa.Connection,
    *,
    index_id: int,
    alias: str,
    action: str,
    by: str | None = None,
    forced: bool = False,
    report: Mapping[str, object] | None = None,
) -> int:
    """The step is in the history; part of the caller's transaction. `by` is who asked; None takes
    the database's user. Returns its id."""
    values: dict[str, object] = {
        "index_id": index_id,
        "alias": alias,
        "action": action,
        "forced": forced,
        "report": dict(report or {}),
    }
    if by:
        values["by"] = by
    added = sa.insert(tables.rollouts).values(values).returning(_columns.id)
    return connection.execute(added).scalar_one()


def conclude(
    connection: sa.Connection, step_id: int, outcome: Outcome, **more: str | int | float | None
) -> None:
    """The step that was begun has come to that outcome."""
    said = sa.cast({"outcome": outcome, **more}, tables.rollouts.c.report.type)
    connection.execute(
        sa.update(tables.rollouts)
        .where(_columns.id == step_id)
        .values(report=sa.func.coalesce(_columns.report, sa.text("'{}'::jsonb")).op("||")(said))
    )


def begun(connection: sa.Connection, alias: str) -> list[Step]:
    """Steps of the alias that nobody concluded, oldest first."""
    mine = (_columns.alias == alias, _columns.report["outcome"].astext == "begun")
    return _steps(connection, sa.select(tables.rollouts).where(*mine).order_by(_columns.id))


def rolled_back_from(connection: sa.Connection, alias: str) -> set[int]:
    """Indexes of the alias that were last left by a rollback, not by a promotion."""
    left = sa.cast(_columns.report["before"].astext, sa.Integer)
    moves = (
        sa.select(left.label("index_id"), _columns.action)
        .where(
            _columns.alias == alias,
            _columns.action.in_(("promote", "rollback")),
            _columns.report["outcome"].astext == "done",
            left.is_not(None),
        )
        .order_by(_columns.id)
    )
    last = {row.index_id: row.action for row in connection.execute(moves)}
    return {index_id for index_id, action in last.items() if action == "rollback"}


def of(engine: sa.Engine, alias: str | None = None, *, limit: int = 1_000) -> list[Step]:
    """The newest steps, of one alias or all, newest first."""
    mine = sa.select(tables.rollouts).order_by(_columns.id.desc()).limit(limit)
    with database.begin(engine) as connection:
        return _steps(connection, mine if alias is None else mine.where(_columns.alias == alias))


def trim(engine: sa.Engine, *, kept_s: float, limit: int = 5_000) -> int:
    """At most `limit` steps that are older than `kept_s` seconds, a day at least, are gone: of
    indexes that have ended, and gates and repairs of any. A step that nobody concluded stays, and
    so does what says how an active index came to be what it is. Returns how many are gone."""
    with database.begin(engine) as connection:
        return connection.execute(_TRIM, {"kept_s": kept_s, "limit": limit}).scalar_one()


def _steps(connection: sa.Connection, statement: sa.Select[Any]) -> list[Step]:
    return [Step(**row) for row in connection.execute(statement).mappings()]
