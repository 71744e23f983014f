"""The proof at length: many examples, in rounds that each have a seed of their own.

    python tests/proof/prove.py --examples 5000 --processes 2 --seed 1 --log proved.jsonl

Round n has seed `--seed` + n, one store, and ROUND examples; its line in the log says what it did,
and a later call with the same log goes on where it stopped. A failure prints the shortest history
that shows it and the seed of its round, and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import collections
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import hypothesis  # noqa: E402 - after the path is set
import psycopg  # noqa: E402
from hypothesis import HealthCheck, Phase  # noqa: E402
from hypothesis.stateful import run_state_machine_as_test  # noqa: E402

from indexer import database, schema  # noqa: E402
from indexer.embedded import postgres  # noqa: E402
from indexer.stores.edge import EdgeStore  # noqa: E402
from indexer.stores.qdrant import QdrantStore  # noqa: E402
from proof import baton, mutants, mutation  # noqa: E402
from proof.machine import Proof  # noqa: E402
from proof.world import World  # noqa: E402

ROUND = 25  # examples
STEPS = 60
STORES = ("edge", "qdrant")


@dataclass(frozen=True, kw_only=True)
class Round:
    """One piece of the work, the same whenever and wherever it is done."""

    seed: int
    store: str
    examples: int
    mutant: str = ""


def run(machine: type[Proof], *, examples: int, seed: int, shortest: bool = True) -> None:
    """Raises what the oracle found, after the history that shows it was printed; `shortest`: after
    some minutes of making it shorter."""
    settings = hypothesis.settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, *([Phase.shrink] if shortest else [])],
        database=None,
    )
    hypothesis.seed(seed)(machine)
    run_state_machine_as_test(machine, settings=settings)


@contextmanager
def world_of(server_url: str, store: str, number: int) -> Iterator[World]:
    """A database of its own on the server, and a store in memory."""
    name = f"proof_{os.getpid()}_{number}"
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}")
        url = server_url.rsplit("/", 1)[0] + f"/{name}"
        engine = database.engine(url)
        schema.migrate(engine)
        engine.dispose()
        with folder_in_memory() as folder:
            real = EdgeStore(folder / "edge") if store == "edge" else QdrantStore.in_memory()
            world = World(url, folder, real)
            try:
                yield world
            finally:
                world.close()
                real.close()
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Where the machine has a file system for it: Edge syncs some twenty files."""
    shared = Path("/dev/shm")
    where = shared if shared.is_dir() else None
    with tempfile.TemporaryDirectory(dir=where, prefix="twinspan-") as name:
        yield Path(name)


def prove(task: tuple[str, Round]) -> dict[str, Any]:
    """Run one round; the answer is its line in the log."""
    logging.disable(logging.CRITICAL)
    server_url, one = task
    seen: collections.Counter[str] = collections.Counter()
    started, problem = time.monotonic(), ""
    with world_of(server_url, one.store, one.seed) as world, _counting(seen):
        chosen = [mutant for mutant in mutants.MUTANTS if mutant.name == one.mutant]
        edits = [edit for mutant in chosen for edit in (*mutant.without, *mutant.edits)]
        with mutation.applied(*edits), world.instrumented():
            try:
                machine = type("Proof", (Proof,), {"world": world, "seen": seen})
                run(machine, examples=one.examples, seed=one.seed, shortest=not one.mutant)
            except BaseException:  # noqa: BLE001 - it is told, and ends the run
                problem = traceback.format_exc(chain=False)
    took_s = time.monotonic() - started
    return {**vars(one), "took_s": round(took_s, 1), "problem": problem, "seen": dict(seen)}


@contextmanager
def _counting(seen: collections.Counter[str]) -> Iterator[None]:
    """Steps of processes by the seam that they passed, and histories."""
    gate, reset = baton.gate, World.reset

    def counting_gate(name: str) -> baton.Process | None:
        process = gate(name)
        if process is not None:
            seen[name] += 1
        return process

    def counting_reset(world: World) -> None:
        seen["histories"] += 1
        reset(world)

    with (
        mock.patch.object(baton, "gate", counting_gate),
        mock.patch.object(World, "reset", counting_reset),
    ):
        yield


def rounds(examples: int, seed: int, stores: tuple[str, ...], mutant: str) -> Iterator[Round]:
    """Stores take turns, so that half the work is half of each."""
    for number in range(-(-examples // ROUND)):
        count = min(ROUND, examples - number * ROUND)
        store = stores[number % len(stores)]
        yield Round(seed=seed + number, store=store, examples=count, mutant=mutant)


def main() -> int:
    arguments = _arguments()
    log = Path(arguments.log)
    log.parent.mkdir(parents=True, exist_ok=True)
    done = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    known = {(line["seed"], line["store"], line["mutant"]) for line in done if not line["problem"]}
    stores = STORES if arguments.store == "both" else (arguments.store,)
    wanted = list(rounds(arguments.examples, arguments.seed, stores, arguments.mutant))
    left = [one for one in wanted if (one.seed, one.store, one.mutant) not in known]
    print(f"seed {arguments.seed}: {len(wanted)} rounds of {ROUND}, {len(left)} to go", flush=True)
    with (
        folder_in_memory() as folder,
        postgres.start(folder / "pg", fsync=False, settings={"max_connections": "100"}) as server,
    ):
        lines = _in_turn([(server.url, one) for one in left], arguments.processes)
        failed = _report(lines, log, stop=not arguments.mutant)
    return 1 if failed else 0


def _in_turn(tasks: list[tuple[str, Round]], processes: int) -> Iterator[dict[str, Any]]:
    if processes <= 1:
        yield from map(prove, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(prove, tasks)


def _report(lines: Iterator[dict[str, Any]], log: Path, *, stop: bool) -> bool:
    total, seen, busy_s, failed = 0, collections.Counter[str](), 0.0, False
    started = time.monotonic()
    for line in lines:
        with log.open("a") as out:
            out.write(json.dumps(line) + "\n")
        total += line["examples"]
        busy_s += line["took_s"]
        seen.update(line["seen"])
        rate = total / (time.monotonic() - started)
        print(
            f"{total} examples, {rate:.1f}/s; round of seed {line['seed']} on {line['store']}"
            f" took {line['took_s']} s{': FAILED' if line['problem'] else ''}",
            flush=True,
        )
        if line["problem"]:
            failed = True
            print(line["problem"], flush=True)
            if stop:
                break
    rules = sum(hasattr(rule, "hypothesis_stateful_rule") for rule in vars(Proof).values())
    histories = max(1, seen.pop("histories", 1))
    print(f"{total} examples in {busy_s:.0f} process seconds, {rules} rules; per history:")
    print(", ".join(f"{name} {count / histories:.2f}" for name, count in seen.most_common()))
    return failed


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The proof at length.")
    parser.add_argument("--examples", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--store", choices=[*STORES, "both"], default="both")
    parser.add_argument("--mutant", default="", help="search with this mutant in force")
    parser.add_argument("--log", default="proved.jsonl")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
