"""Sessions that write to two catalogs in every way that there is, and go on whatever dies.

Each session has keys of its own, so that users never wait for each other: whoever waits, waits for
us. Titles are never repeated, so an item that is encoded twice for one title was encoded in vain.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg

from indexer.catalog import spec

SHELF_TABLE = """CREATE TABLE public.shelf (
    id text PRIMARY KEY, title text NOT NULL, price float8 NOT NULL DEFAULT 1, note text)"""
SHELF = spec.parse(
    {
        "name": "shelf",
        "table": "public.shelf",
        "key": "id",
        "features": {"title": "text"},
        "filters": {"price": "float"},
        "returned": {"title": "title", "price": "price"},
    },
    name="the shelf",
)

KEYS = 600  # of each session, in either catalog
PAUSE_S = (0.05, 0.2)
RETRY_S = 0.2
LONG_S = 2.0  # a transaction that is open for so long
IMPATIENT = "-c lock_timeout=15s -c application_name=chaos"  # who waits longer is told

Cursor = psycopg.Cursor[tuple[object, ...]]
Operation = Callable[["Session", Cursor], int]


class RolledBack(Exception):
    """The user has changed his mind."""


@dataclass(kw_only=True)
class Session:
    """One user: transactions at random from `start` until `finish`. What was committed is counted
    by operation; `errors` are those that no outage explains."""

    number: int
    url: str
    rng: random.Random
    transactions: Counter[str] = field(default_factory=Counter[str])
    changes: Counter[str] = field(default_factory=Counter[str])
    broken_off: int = 0  # by a database that went away
    errors: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"session {self.number}")
        self._serial = 0

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with psycopg.connect(self.url, connect_timeout=2, options=IMPATIENT) as connection:
                    self._write(connection)
            except psycopg.OperationalError as error:
                self._note(error)
                self._stop.wait(RETRY_S)
            except Exception as error:  # noqa: BLE001 - told by the program's end
                self.errors.append(repr(error))

    def _write(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        names, weights = list(OPERATIONS), [weight for weight, _ in OPERATIONS.values()]
        while not self._stop.is_set():
            (name,) = self.rng.choices(names, weights)
            try:
                with connection.transaction(), connection.cursor() as cursor:
                    changed = OPERATIONS[name][1](self, cursor)
            except RolledBack:
                changed = 0
            self.transactions[name] += 1
            self.changes[name] += changed
            self._stop.wait(self.rng.uniform(*PAUSE_S))

    def _note(self, error: psycopg.OperationalError) -> None:
        """Gone, starting or stopping is an outage; a deadlock or a long wait is our fault."""
        if error.sqlstate is None or error.sqlstate.startswith(("57P", "08")):
            self.broken_off += 1
        else:
            self.errors.append(f"{error.sqlstate} {error}")

    # -- what to write ------------------------------------------------------------------------

    def keys(self, most: int) -> list[str]:
        """Some of this session's keys, in order."""
        chosen = self.rng.sample(range(KEYS), self.rng.randrange(1, most + 1))
        return [f"s{self.number}-{n:04}" for n in sorted(chosen)]

    def title(self) -> str:
        """Words that no title had before."""
        self._serial += 1
        return f"film s{self.number} v{self._serial}"

    def pause(self, seconds: float) -> None:
        self._stop.wait(seconds)


def _insert(session: Session, cursor: Cursor, most: int = 1) -> int:
    cursor.execute(
        "INSERT INTO public.items (id, title) SELECT k, %s || ' ' || k FROM unnest(%s::text[]) k"
        " WHERE NOT EXISTS (SELECT FROM public.items WHERE id = k)",
        (session.title(), session.keys(most)),
    )
    return cursor.rowcount


def _insert_many(session: Session, cursor: Cursor) -> int:
    return _insert(session, cursor, most=40)


def _update(session: Session, cursor: Cursor) -> int:
    return _retitle(session, cursor, session.keys(20))


def _retitle(session: Session, cursor: Cursor, keys: Sequence[str]) -> int:
    cursor.execute(
        "UPDATE public.items SET title = %s || ' ' || id WHERE id = ANY(%s)",
        (session.title(), list(keys)),
    )
    return cursor.rowcount


def _update_unwatched(session: Session, cursor: Cursor) -> int:
    cursor.execute(
        "UPDATE public.items SET updated_at = now() WHERE id = ANY(%s)", (session.keys(40),)
    )
    return cursor.rowcount


def _upsert(session: Session, cursor: Cursor) -> int:
    cursor.execute(
        "INSERT INTO public.items (id, title) SELECT k, %s || ' ' || k FROM unnest(%s::text[]) k"
        " ON CONFLICT (id) DO UPDATE SET title = excluded.title",
        (session.title(), session.keys(20)),
    )
    return cursor.rowcount


def _delete(session: Session, cursor: Cursor) -> int:
    cursor.execute("DELETE FROM public.items WHERE id = ANY(%s)", (session.keys(20),))
    return cursor.rowcount


def _copy(session: Session, cursor: Cursor) -> int:
    """In the place of what was there, in one transaction."""
    keys, title = session.keys(60), session.title()
    cursor.execute("DELETE FROM public.items WHERE id = ANY(%s)", (keys,))
    deleted = cursor.rowcount
    with cursor.copy("COPY public.items (id, title) FROM STDIN") as copy:
        for key in keys:
            copy.write_row((key, f"{title} {key}"))
    return deleted + len(keys)


def _change_key(session: Session, cursor: Cursor) -> int:
    (new,) = session.keys(1)
    (old,) = session.keys(1)
    cursor.execute(
        "UPDATE public.items SET id = %s, title = %s WHERE id = %s"
        " AND NOT EXISTS (SELECT FROM public.items WHERE id = %s)",
        (new, session.title(), old, new),
    )
    return 2 * cursor.rowcount


def _roll_back(session: Session, cursor: Cursor) -> int:
    _update(session, cursor)
    _delete(session, cursor)
    raise RolledBack


def _savepoint(session: Session, cursor: Cursor) -> int:
    kept = _update(session, cursor)
    cursor.execute("SAVEPOINT here")
    _delete(session, cursor)
    cursor.execute("ROLLBACK TO SAVEPOINT here")
    return kept + _insert_many(session, cursor)


def _long(session: Session, cursor: Cursor) -> int:
    """Open for a while between two statements; others route and drain past it."""
    changed = _update(session, cursor)
    session.pause(session.rng.uniform(0.3, LONG_S))
    return changed + _delete(session, cursor)


def _stock(session: Session, cursor: Cursor) -> int:
    cursor.execute(
        "INSERT INTO public.shelf (id, title) SELECT k, %s || ' ' || k FROM unnest(%s::text[]) k"
        " ON CONFLICT (id) DO UPDATE SET title = excluded.title, price = shelf.price + 1",
        (session.title(), session.keys(60)),
    )
    return cursor.rowcount


def _price(session: Session, cursor: Cursor) -> int:
    """The payload changes, the features do not."""
    cursor.execute(
        "UPDATE public.shelf SET price = %s WHERE id = ANY(%s)",
        (round(session.rng.uniform(1, 100), 2), session.keys(60)),
    )
    return cursor.rowcount


def _clear_out(session: Session, cursor: Cursor) -> int:
    cursor.execute("DELETE FROM public.shelf WHERE id = ANY(%s)", (session.keys(20),))
    return cursor.rowcount


def _truncate(_session: Session, cursor: Cursor) -> int:
    cursor.execute("LOCK TABLE public.shelf IN ACCESS EXCLUSIVE MODE")
    cursor.execute("SELECT count(*) FROM public.shelf")
    (rows,) = cursor.fetchone() or (0,)
    cursor.execute("TRUNCATE public.shelf")
    assert isinstance(rows, int)
    return rows


OPERATIONS: dict[str, tuple[float, Operation]] = {
    "insert": (3, _insert),
    "insert of many": (2, _insert_many),
    "update": (5, _update),
    "update, unwatched": (2, _update_unwatched),
    "upsert": (3, _upsert),
    "delete": (3, _delete),
    "copy": (1, _copy),
    "key change": (2, _change_key),
    "rollback": (1, _roll_back),
    "savepoint": (1, _savepoint),
    "long transaction": (0.5, _long),
    "shelf: upsert": (2, _stock),
    "shelf: payload only": (2, _price),
    "shelf: delete": (1, _clear_out),
    "shelf: truncate": (0.2, _truncate),
}
