"""What the triggers cost the writer: the same statements on a table that nobody watches, on one
that a catalog watches, and on one whose triggers also send NOTIFY.

    python -m benchmarks.bench_capture [--database URL] [--rounds 7] [--json FILE]

A ten-column table of products with a primary key and one more index, watched are five columns. The
rounds interleave: in each, every statement runs on the three tables in a rotating order, so that a
noisy neighbour meets all of them; a ratio is the median of the rounds' ratios. Without --database
an embedded PostgreSQL with fsync on is started. The scratch database is dropped afterwards.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
import sqlalchemy as sa

from indexer import catalog, database, schema
from indexer.catalog import spec
from indexer.embedded import postgres

SCRATCH = "twinspan_bench_capture"
TABLES = ("bare", "watched", "notified")
ROWS, BULK = 300_000, 100_000
SINGLES = 500  # single-row updates of one connection in a round, each a transaction
SINGLE_ROUNDS = 6  # of those per round of the others: they are short and noisy

CREATE = """
    CREATE TABLE {table} (
        sku text PRIMARY KEY, title text NOT NULL, description text, brand text,
        price numeric(10, 2), stock int, in_stock boolean, attributes jsonb,
        created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz
    );
    INSERT INTO {table} SELECT
        'sku-' || i, 'Title of product number ' || i, repeat('some words of prose ', 8) || i,
        'brand ' || i % 500, (i % 10000) / 7.0, i % 50, i % 3 = 0,
        jsonb_build_object('genres', jsonb_build_array('g' || i % 20, 'h' || i % 7), 'year', 2000),
        now(), now()
    FROM generate_series(1, {rows}) AS i;
    CREATE INDEX ON {table} (brand);
"""
NEW_ROWS = """
    SELECT concat_ws(E'\t', 'new-' || i, 'Title of new product ' || i,
        repeat('some words of prose ', 8) || i, 'brand ' || i % 500, '9.99', '3', 't',
        '{{"genres": ["g1", "h2"], "year": 2024}}', '2024-01-01', '2024-01-01')
    FROM generate_series(1, {bulk}) AS i
"""
DESCRIPTION: dict[str, Any] = {
    "key": "sku",
    "features": {
        "title": "text",
        "brand": "category",
        "genres": {"kind": "categories", "from": "attributes.genres"},
    },
    "filters": {"price": "float", "in_stock": "bool"},
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of statement. `run` gives seconds; `target` is the highest ratio that is fine."""

    name: str
    run: Callable[[str, str], float]
    target: float | None = None
    repeats: int = 1


@dataclass
class Bench:
    """Where it runs, and the rows that COPY takes in."""

    url: str
    new_rows: bytes

    def cases(self) -> list[Case]:
        singles = f"{SINGLES:,} single-row updates"
        return [
            Case(name=f"COPY of {BULK:,} rows", run=self.copy, target=1.5),
            Case(name=f"UPDATE of {BULK:,} rows, watched column", run=self.update, target=2.0),
            Case(name=f"UPDATE of {BULK:,} rows, unwatched column", run=self.update_unwatched),
            Case(name=f"DELETE of {BULK:,} rows", run=self.delete),
            Case(name=f"{singles}, 1 connection", run=self.one, repeats=SINGLE_ROUNDS),
            Case(
                name=f"{singles} on each of 4 connections",
                run=self.four,
                target=1.2,
                repeats=SINGLE_ROUNDS,
            ),
        ]

    def copy(self, table: str, _: str) -> float:
        with psycopg.connect(self.url) as connection, connection.cursor() as cursor:
            started = time.perf_counter()
            with cursor.copy(_sql(f"COPY {table} FROM STDIN")) as copy:
                copy.write(self.new_rows)
            connection.commit()
            return time.perf_counter() - started

    def delete(self, table: str, _: str) -> float:
        """What `copy` brought."""
        return self.statement(f"DELETE FROM {table} WHERE sku LIKE 'new-%'")

    def update(self, table: str, _: str) -> float:
        return self.statement(
            f"UPDATE {table} SET price = price + 1 WHERE substr(sku, 5)::int <= {BULK}"
        )

    def update_unwatched(self, table: str, _: str) -> float:
        return self.statement(
            f"UPDATE {table} SET stock = stock + 1 WHERE substr(sku, 5)::int <= {BULK}"
        )

    def statement(self, text: str) -> float:
        with psycopg.connect(self.url) as connection:
            started = time.perf_counter()
            connection.execute(_sql(text))
            connection.commit()
            return time.perf_counter() - started

    def one(self, table: str, seed: str) -> float:
        return self.singles(table, seed, connections=1)

    def four(self, table: str, seed: str) -> float:
        return self.singles(table, seed, connections=4)

    def singles(self, table: str, seed: str, *, connections: int) -> float:
        """Each connection has its own rows, is warm, and begins with the others."""
        barrier = threading.Barrier(connections + 1)
        threads = [
            threading.Thread(target=self._updates, args=(table, f"{seed}{worker}", worker, barrier))
            for worker in range(connections)
        ]
        for thread in threads:
            thread.start()
        barrier.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - started

    def _updates(self, table: str, seed: str, worker: int, barrier: threading.Barrier) -> None:
        first = 1 + worker * (ROWS // 4)
        update = _sql(f"UPDATE {table} SET title = %s WHERE sku = %s")
        with psycopg.connect(self.url, autocommit=True) as connection:
            for number in range(10):
                connection.execute(update, [f"warm {seed}", f"sku-{first + number}"], prepare=True)
            barrier.wait()
            for number in range(SINGLES):
                sku = f"sku-{first + 17 * number % (ROWS // 4)}"
                connection.execute(update, [f"title {seed} {number}", sku], prepare=True)


def main() -> None:
    options = _options()
    with _server(options.database) as server, _scratch(server) as url:
        seconds = measure(_prepared(url), options.rounds)
    print(table(seconds, options.rounds))
    if options.json:
        options.json.write_text(json.dumps(seconds, indent=1), encoding="utf-8")


def measure(bench: Bench, rounds: int) -> dict[str, dict[str, list[float]]]:
    """case -> table -> seconds, in the order of the rounds."""
    seconds: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for case in bench.cases():
            print(f"round {number + 1} of {rounds}: {case.name}", file=sys.stderr, flush=True)
            for repeat in range(case.repeats):
                turn = (number + repeat) % len(TABLES)
                for name in (*TABLES[turn:], *TABLES[:turn]):
                    took = case.run(name, f"{number}-{repeat}-")
                    seconds.setdefault(case.name, {}).setdefault(name, []).append(took)
            _tidy(bench.url)
    return seconds


def table(seconds: dict[str, dict[str, list[float]]], rounds: int) -> str:
    """The figures as Markdown."""
    targets = {case.name: case.target for case in Bench("", b"").cases()}
    lines = [
        f"Medians of {rounds} interleaved rounds; in brackets the range of the rounds' ratios.\n",
        "| statement | no trigger | watched | ratio | target | with NOTIFY |",
        "|---|---|---|---|---|---|",
    ]
    for name, by_table in seconds.items():
        bare, watched = (statistics.median(by_table[one]) for one in TABLES[:2])
        ratios, notified = _ratios(by_table, "watched"), _ratios(by_table, "notified")
        ratio, target = statistics.median(ratios), targets[name]
        verdict = "–" if target is None else f"≤ {target} {'✓' if ratio <= target else 'MISSED'}"
        lines.append(
            f"| {name} | {bare:.3f} s | {watched:.3f} s "
            f"| **x{ratio:.2f}** ({min(ratios):.2f}–{max(ratios):.2f}) | {verdict} "
            f"| x{statistics.median(notified):.2f} |"
        )
    return "\n".join(lines)


def _ratios(by_table: dict[str, list[float]], name: str) -> list[float]:
    return [one / bare for one, bare in zip(by_table[name], by_table["bare"], strict=True)]


def _prepared(url: str) -> Bench:
    """Three equal tables, two of them attached."""
    with database.opened(url) as engine:
        schema.migrate(engine)
        with psycopg.connect(url, autocommit=True) as connection:
            for name in TABLES:
                connection.execute(_sql(CREATE.format(table=name, rows=ROWS)))
            rows = connection.execute(_sql(NEW_ROWS.format(bulk=BULK))).fetchall()
        for name in TABLES[1:]:
            described = spec.parse({**DESCRIPTION, "name": name, "table": name}, name="benchmark")
            catalog.attach(engine, described, notify=name == "notified")
    _tidy(url)
    return Bench(url, "".join(f"{row}\n" for (row,) in rows).encode())


def _tidy(url: str) -> None:
    """As after a pause: dead rows gone, the outbox routed, what is dirty written."""
    with psycopg.connect(url, autocommit=True) as connection:
        for name in TABLES:
            connection.execute(_sql(f"VACUUM (ANALYZE) {name}"))
        connection.execute("TRUNCATE indexer.changes")
        connection.execute("CHECKPOINT")


@contextmanager
def _server(address: str | None) -> Generator[str]:
    if address is not None:
        yield address
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres.start(Path(folder) / "postgres", fsync=True) as server,
    ):
        yield server.url


@contextmanager
def _scratch(server: str) -> Generator[str]:
    """A database of our own on that server."""
    with psycopg.connect(server, autocommit=True) as admin:
        drop = _sql(f"DROP DATABASE IF EXISTS {SCRATCH} WITH (FORCE)")
        admin.execute(drop)
        admin.execute(_sql(f"CREATE DATABASE {SCRATCH} TEMPLATE template0"))
        version = admin.execute("SHOW server_version").fetchone()
        print(f"PostgreSQL {version[0] if version else '?'}\n", flush=True)
        try:
            yield (sa.make_url(server).set(database=SCRATCH).render_as_string(hide_password=False))
        finally:
            admin.execute(drop)


def _sql(text: str) -> LiteralString:
    """Our own text, put together from constants above."""
    return cast("LiteralString", text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database", help="maintenance database of a server to use")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
