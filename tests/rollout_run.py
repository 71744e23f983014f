"""A new tower under load: built while everything is written, killed, promoted, taken back.

    python tests/rollout_run.py [--items 100000] [--kills 10] [--per-second 20] [--seconds 30]

Two Celery workers over a Redis of their own, a PostgreSQL from the wheel, a store that is Qdrant
Edge in a process of its own. One session writes all the time, one process asks all the time (see
`rollout_queries`). `twinspan reindex` and workers are killed in turn; the command is resumed, the
workers come back. Prints JSON; exit status 1 when anything is amiss.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import live
import numpy as np
from live_world import ENCODERS
from rollout_stage import WITHIN_S, Stage, staged
from rollout_writer import FIXED, Writer

from indexer import indexes, reindex, rollout, verify
from indexer.indexes import Index


@dataclass(kw_only=True)
class Figures:
    """Freshness is in milliseconds from a commit until the live index shows it."""

    items: int
    kills: dict[str, int] = field(default_factory=dict[str, int])
    freshness_ms: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    build_s: float = 0.0
    promote_s: list[float] = field(default_factory=list[float])
    rollback_s: float = 0.0
    queries: dict[str, object] = field(default_factory=dict[str, object])
    changes: int = 0
    verified: dict[str, int] = field(default_factory=dict[str, int])  # items by index that agree
    amiss: list[str] = field(default_factory=list[str])


def run(folder: Path, options: argparse.Namespace, tell: Callable[[str], None]) -> Figures:
    figures = Figures(items=options.items)
    with staged(folder, options.items) as stage:
        old, new = ENCODERS
        first = stage.build(old)
        for _ in reindex.fill(stage.engine, first):
            pass
        stage.wait(lambda: stage.left(first) == 0, "the first index")
        tell("the first index is complete")
        figures.promote_s.append(stage.promote(first))
        url = stage.environment["TWINSPAN_DATABASE_URL"]
        writer = Writer(url, stage.store, options.items, options.per_second)
        writer.index = first
        with _asking(stage, figures), writer:
            _observe(stage, writer, "warm", min(3, options.seconds))
            _observe(stage, writer, "alone", options.seconds)
            tell("observed alone")
            _build(stage, stage.build(new), writer, figures, options, tell)
        figures.changes = writer.changes
        figures.freshness_ms = {phase: _spread(ms) for phase, ms in writer.seen.items()}
        _compare(stage, figures)
    return figures


def _build(
    stage: Stage,
    second: Index,
    writer: Writer,
    figures: Figures,
    options: argparse.Namespace,
    tell: Callable[[str], None],
) -> None:
    """The second index, from its first key to its second promotion."""
    began = time.monotonic()
    writer.phase = "backfill"
    command = stage.resume(second)
    half = options.items * 0.5
    stage.wait(lambda: stage.left(second) < half, "half of the backfill")
    writer.phase = "backfill with kills"
    figures.kills = {"worker": 0, "reindex": 0}
    for kill in range(options.kills):
        left = half * (1 - kill / options.kills)
        stage.wait(lambda left=left: stage.left(second) <= left, f"kill {kill}")
        if kill % 3 == 2:
            command.kill()
            command.wait()
            command = stage.resume(second)
            figures.kills["reindex"] += 1
        else:
            stage.crew.workers[kill % 2].kill()
            figures.kills["worker"] += 1
        tell(f"kill {kill + 1}, {stage.left(second)} left")
    stage.wait(lambda: stage.left(second) == 0, "the backfill")
    assert command.wait(WITHIN_S) == 0, "reindex --resume failed"
    figures.build_s = round(time.monotonic() - began, 1)
    writer.phase = "afterwards"
    _turn(stage, second, writer, figures, min(3, options.seconds), tell)


def _turn(
    stage: Stage,
    second: Index,
    writer: Writer,
    figures: Figures,
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """Promoted, rolled back, promoted again, with a moment of queries after each."""
    figures.promote_s.append(stage.promote(second))
    tell("promoted")
    _observe(stage, writer, "promoted", seconds)
    began = time.perf_counter()
    rollout.rollback(stage.engine, stage.store, second.alias)
    figures.rollback_s = time.perf_counter() - began
    tell("rolled back")
    _observe(stage, writer, "rolled back", seconds)
    figures.promote_s.append(stage.promote(second))
    tell("promoted again")
    _observe(stage, writer, "promoted again", seconds)


def _observe(stage: Stage, writer: Writer, phase: str, seconds: float) -> None:
    writer.phase = phase
    until = time.monotonic() + seconds
    stage.wait(lambda: time.monotonic() > until and writer.count(phase) > 0, phase)


@contextmanager
def _asking(stage: Stage, figures: Figures) -> Generator[None]:
    """A process that asks, from the first answer to the end of the block."""
    script = live.TESTS / "rollout_queries.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(stage.store_port), "items", str(FIXED)],
        env={**os.environ, "PYTHONPATH": f"{live.REPOSITORY}{os.pathsep}{live.TESTS}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        preexec_fn=live.die_with_the_tests,  # noqa: PLW1509 - one system call, no lock
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "asking"
        yield
        said, _ = process.communicate(timeout=60)
        figures.queries = json.loads(said)
    finally:
        process.kill()
        process.wait()


def _compare(stage: Stage, figures: Figures) -> None:
    """Both indexes hold what the catalog says, and every answer was right."""
    stage.wait(stage.is_clean, "nothing dirty")
    for index in indexes.active(stage.engine):
        tower = stage.towers.get(index.encoder_id, index.encoder_uri)
        seen = verify.compare(stage.engine, stage.store, index, tower=tower)
        figures.verified[f"{index.state} {index.id}"] = seen.agree
        if seen.agree != seen.items or seen.drift:
            figures.amiss.append(f"index {index.id}: {seen}")
    if figures.queries["failed"] or figures.queries["mixed"]:
        figures.amiss.append(f"queries: {figures.queries}")


def _spread(values: list[float]) -> dict[str, float]:
    p50, p99 = np.percentile(values, [50, 99])
    return {"n": len(values), "p50": round(p50), "p99": round(p99), "max": round(max(values))}


def main() -> int:
    options = _options()
    began = time.monotonic()

    def tell(what: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {what}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="twinspan-rollout-") as folder:
        figures = run(Path(folder), options, tell)
    print(json.dumps(asdict(figures), indent=2))
    return 1 if figures.amiss else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build, promote and take back under load.")
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--per-second", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
