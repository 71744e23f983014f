"""One run, from its name to its files; done once, and resumed where it was interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.recommenders import worlds
from benchmarks.recommenders.models import MODELS, Outcome
from encoders import checkpoints, evaluation, protocols
from encoders.dataset import Dataset, Ties
from encoders.evaluate import Ranks
from encoders.progress import Progress, Run
from encoders.protocols import Protocol

RESULTS = Path(__file__).parent / "results"
SAID_S = 30.0  # between two lines in the midst of an epoch

PROTOCOLS: Mapping[str, Callable[[Dataset, int], Protocol]] = {
    "loo": lambda data, _: protocols.leave_one_out(data),
    "looc": lambda data, seed: protocols.leave_one_out_cold(data, seed=seed),
    "cold20": lambda data, seed: protocols.cold_items(data, share=0.2, seed=seed),
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A run by name. `ties`: events of one user at one time are shuffled by the seed, or as they
    were listed. `more` are options beside the model's."""

    data: str
    model: str
    protocol: str = "loo"
    seed: int = 0
    ties: Ties = "shuffled"
    more: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As options are typed: a row of the page can be asked for by what it is called."""
        changed = "".join(f",{key}={_typed(value)}" for key, value in sorted(self.more.items()))
        listed = "" if self.ties == "shuffled" else ",ties=listed"
        return f"{self.model}{changed}{listed}-{self.seed}"

    @property
    def path(self) -> Path:
        """Of its JSON; the ranks lie beside it."""
        return RESULTS / self.data / self.protocol / f"{self.name}.json"


def do(asked: Asked, *, device: str) -> None:
    """Its files are there."""
    if asked.path.exists():
        say(f"{asked.path.name} is there already")
        return
    protocol = _protocol(asked)
    checkpoint = worlds.KEPT / asked.data / "checkpoints" / f"{asked.protocol}-{asked.name}"
    run = Run(
        seed=asked.seed,
        device=device,
        checkpoint=checkpoint,
        progress=_teller(asked),
        ties=asked.ties,
    )
    began = time.monotonic()
    outcome = MODELS[asked.model].run(protocol, run, asked.more)
    seconds = time.monotonic() - began
    _write(asked, protocol, outcome, device=device, seconds=seconds)
    checkpoints.remove(checkpoint)


def _protocol(asked: Asked) -> Protocol:
    data = evaluation.in_order(worlds.read(asked.data), asked.ties, asked.seed)
    return PROTOCOLS[asked.protocol](data, asked.seed)


def _teller(asked: Asked) -> Callable[[Progress], None]:
    """Says how it goes."""
    told = 0.0
    began = time.monotonic()

    def tell(now: Progress) -> None:
        nonlocal told
        if now.recall is None and time.monotonic() - told < SAID_S:
            return
        told = time.monotonic()
        recall = "" if now.recall is None else f", recall@20 {now.recall:.4f} (best {now.best:.4f})"
        say(
            f"{asked.data} {asked.protocol} {asked.name}: {told - began:.0f} s, epoch "
            f"{now.epoch - 1 + now.done:.2f} of {now.epochs}, loss {now.loss:.4f}, "
            f"{now.examples_per_s:,.0f} events/s{recall}"
        )

    return tell


def _write(
    asked: Asked,
    protocol: Protocol,
    outcome: Outcome,
    *,
    device: str,
    seconds: float,
) -> None:
    data = protocol.data
    found = {
        **asdict(asked),
        "options": dict(outcome.options),
        "epochs": len(outcome.curve),
        "seconds": round(seconds, 1),  # since it was last started
        "metrics": _metrics(outcome.ranks),
        "others": _metrics(outcome.others),
        "newcomers": {
            str(newcomers): {"asked": _metrics(asked), "others": _metrics(others)}
            for newcomers, (asked, others) in outcome.newcomers.items()
        },
        "curve": [line.as_dict() for line in outcome.curve],
        "users": len(data.user_keys),
        "items": len(data.items),
        "events": len(data.user),
        "asked": len(outcome.ranks.users),
        "cold": len(protocol.cold),
        "dataset": data.fingerprint,
        "device": device,
        **circumstances(),
    }
    asked.path.parent.mkdir(parents=True, exist_ok=True)
    evaluation.write_ranks(asked.path.with_suffix(".npz"), model=outcome.ranks)
    asked.path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    say(f"{asked.path}: {found['metrics']}")


def circumstances() -> Mapping[str, Any]:
    """Of a run that ends now."""
    ended = f"{datetime.now(UTC):%Y-%m-%d %H:%M}"
    return {"cores": os.cpu_count(), "commit": _commit(), "ended": ended}


def _metrics(ranks: Ranks) -> Mapping[str, float]:
    if not len(ranks.users):
        return {}
    return {name: round(value, 6) for name, value in ranks.metrics().items()}


def read_ranks(path: Path) -> Ranks:
    """What `evaluation.write_ranks` wrote: doubled, so that the halves of ties are whole."""
    with np.load(path, allow_pickle=False) as found:
        return Ranks(
            users=found["users"].astype(np.int64),
            masked=found["model_masked"] / 2,
            unmasked=found["model_unmasked"] / 2,
        )


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _commit() -> str:
    said = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


def say(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)
