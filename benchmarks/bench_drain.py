"""A backlog drained into Qdrant Edge by one process, and where its time goes.

    python -m benchmarks.bench_drain [--items 50000] [--rounds 3] [--json FILE]

PostgreSQL from the wheel, with fsync. Each round builds a new index of the same items with the
small tower (retrievalformer, 64 wide, titles as words), by the drain that every worker runs. Before
each round another one builds an index with nothing that fences anybody: writes without a condition,
claims and acks that know leases only.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import qdrant_edge as edge
import sqlalchemy as sa

from benchmarks import shop
from indexer import catalog, changes, database, entries_sql, schema, sync, tables
from indexer.catalog import spec
from indexer.embedded import postgres
from indexer.settings import Settings
from indexer.stores import Collection, Point, WriteMode, edge_points
from indexer.stores.edge import EdgeStore
from indexer.sync import Report
from indexer.towers import Towers

TARGET_PER_S = 3_000
FENCING_TARGET = 0.10  # of the throughput, at most
STAGES = ("claim", "read", "plan", "encode", "write", "ack", "route", "load")

# A queue with leases and nothing else: no fence is compared, no suspects, no doubt.
PLAIN_CLAIM = sa.text(f"""
    WITH due AS (
        SELECT item_key, content_hash, payload_hash FROM indexer.entries
        WHERE index_id = :index_id AND {tables.DUE}
        ORDER BY lane, changed_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE indexer.entries AS e
    SET attempts = e.attempts + 1, lease_until = now() + make_interval(secs => :lease_s)
    FROM due
    WHERE e.index_id = :index_id AND e.item_key = due.item_key
      AND e.item_key = ANY(ARRAY(SELECT item_key FROM due))
    RETURNING e.item_key AS key, e.wanted, e.attempts, e.lane, e.changed_at, e.present,
              due.content_hash, due.payload_hash, e.quarantined, false AS doubtful
""")
PLAIN_ACK = sa.text("""
    UPDATE indexer.entries AS e
    SET written = acked.wanted, lease_until = NULL, attempts = 0, error = NULL,
        present = acked.present, content_hash = acked.content_hash,
        payload_hash = acked.payload_hash
    FROM unnest(
        CAST(:keys AS text[]), CAST(:wanted AS bigint[]), CAST(:present AS boolean[]),
        CAST(:content AS bytea[]), CAST(:payload AS bytea[])
    ) AS acked (item_key, wanted, present, content_hash, payload_hash)
    WHERE e.index_id = :index_id AND e.item_key = acked.item_key
      AND e.item_key = ANY(CAST(:keys AS text[]))
    RETURNING e.item_key, true
""")


class PlainEdge(EdgeStore):
    """Writes whatever it is given."""

    def write_if_newer(
        self,
        collection: Collection,
        points: Sequence[Point],
        *,
        fence: int,
        mode: WriteMode,  # noqa: ARG002 - the store's verb has it
    ) -> None:
        shard = self._shard(collection.name)
        ids = [collection.point_id(point.key) for point in points]
        built = [
            edge_points.built(id_, point, fence, shard.specs)
            for id_, point in zip(ids, points, strict=True)
        ]
        shard.update(edge.UpdateOperation.upsert_points(built), ids)


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="twinspan-bench-") as folder:
        rounds, plain = _measure(Path(folder), options)
    found = [
        {"fenced": fenced, "items": report.encoded, "wall_s": wall_s, "seconds": report.seconds}
        for fenced, some in ((True, rounds), (False, plain))
        for report, wall_s in some
    ]
    print(_page(rounds, options))
    print(_fencing(rounds, plain))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Drain a backlog into Qdrant Edge.")
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


Round = tuple[Report, float]


def _measure(folder: Path, options: argparse.Namespace) -> tuple[list[Round], list[Round]]:
    """Rounds as every worker drains, and rounds without fences, in turn."""
    settings = Settings(data_dir=folder)
    rounds: list[Round] = []
    plain: list[Round] = []
    with postgres.start(folder / "postgres") as server, database.opened(server.url) as engine:
        schema.migrate(engine)
        catalog.attach(engine, spec.BUILTIN)
        shop.insert(engine, 0, options.items)
        while changes.route(engine, limit=100_000):  # no index yet: the first round is as all
            pass
        encoder = shop.train(engine, folder / "encoders", config=shop.TITLES_AS_WORDS)
        towers = Towers(settings)
        towers.get(encoder.id, encoder.uri)  # loaded once per process, not per backlog
        for number in range(2 * options.rounds):
            fenced = number % 2 == 1
            store = (EdgeStore if fenced else PlainEdge)(folder / f"edge-{number}")
            with _ledger(fenced=fenced):
                shop.build(engine, store, encoder, queue="bench")
                began = time.perf_counter()
                report = sync.drain(engine, store, towers, settings)
            took_s = time.perf_counter() - began
            (rounds if fenced else plain).append((report, took_s))
            store.close()
            print(f"round {number}: {report.counts()}", file=sys.stderr, flush=True)
        return rounds, plain


@contextmanager
def _ledger(*, fenced: bool) -> Generator[None]:
    """Its statements are the real ones, or plain ones for as long as it takes."""
    real = entries_sql.CLAIM, entries_sql.ACK
    if not fenced:
        entries_sql.CLAIM, entries_sql.ACK = PLAIN_CLAIM, PLAIN_ACK
    try:
        yield
    finally:
        entries_sql.CLAIM, entries_sql.ACK = real


def _fencing(rounds: Sequence[Round], plain: Sequence[Round]) -> str:
    """What fences and conditions cost: medians over rounds of milliseconds for 1,000 items."""

    def spent_ms(some: Sequence[Round], stage: str) -> float:
        return statistics.median(
            1e6 * (report.seconds.get(stage, 0.0) if stage else wall_s) / report.encoded
            for report, wall_s in some
        )

    lines = [
        "",
        "The same without fences (writes without a condition; claims and acks that know leases "
        "only), rounds in turn, median milliseconds for 1,000 items:",
        "",
        "| | claim | write | ack | all |",
        "|---|---|---|---|---|",
    ]
    for name, some in (("with fences", rounds), ("without", plain)):
        cells = [f"{spent_ms(some, stage):.1f}" for stage in ("claim", "write", "ack", "")]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    cost = 1 - spent_ms(plain, "") / spent_ms(rounds, "")
    lines += [
        "",
        f"Cost in throughput: {cost:.0%}. Target: at most {FENCING_TARGET:.0%}: "
        f"{'met' if cost <= FENCING_TARGET else 'missed'}.",
    ]
    return "\n".join(lines)


def _page(rounds: list[tuple[Report, float]], options: argparse.Namespace) -> str:
    rates = [report.encoded / wall_s for report, wall_s in rounds]
    median = statistics.median(rates)
    lines = [
        f"{options.items:,} items of five features, retrievalformer (titles as words), one "
        f"process, batches of up to 512; median of {len(rounds)} rounds, each into a new index.",
        "",
        "| items/s | " + " | ".join(STAGES) + " |",
        "|" + "---|" * (len(STAGES) + 1),
        f"| {median:,.0f} | "
        + " | ".join(f"{_share(rounds, stage):.0%}" for stage in STAGES)
        + " |",
        "",
        f"Fastest {max(rates):,.0f}, slowest {min(rates):,.0f} items/s. Target: at least "
        f"{TARGET_PER_S:,}: {'met' if median >= TARGET_PER_S else 'missed'}.",
    ]
    return "\n".join(lines)


def _share(rounds: list[tuple[Report, float]], stage: str) -> float:
    return statistics.median(report.seconds.get(stage, 0.0) / wall_s for report, wall_s in rounds)


if __name__ == "__main__":
    raise SystemExit(main())
