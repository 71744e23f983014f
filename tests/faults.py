"""Loaded into a real worker (`worker --include=faults`): an encoder without torch; sudden death.

Orders to die are files in the folder `TWINSPAN_FAULTS`, named `<step>.<before|after>.<nth>.<id>`. A
process that comes to a step for the nth time since it took up work looks for one, takes it by
renaming it to `<name>.killed-<pid>` (one process can), and sends SIGKILL to itself: no handler, no
finally. Steps: route, claim, read, encode, write, ack, ring. With `TWINSPAN_FAULTS_IN=child` only
prefork children die, and their parent starts others.
"""

from __future__ import annotations

import functools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from billiard.process import current_process
from hashing import HashingEncoder
from live_world import ENCODER_ID

from indexer import catalog, changes, entries
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Tower, Towers
from workers.bell import Bell

FOLDER = os.environ.get("TWINSPAN_FAULTS")
ONLY_CHILDREN = os.environ.get("TWINSPAN_FAULTS_IN") == "child"

ENCODE_S = float(os.environ.get("TWINSPAN_FAULTS_ENCODE_S", "0"))  # how long a batch takes

STEPS: dict[str, tuple[Any, ...]] = {
    "route": ((changes, "route"),),
    "claim": ((entries, "claim"),),
    "read": ((catalog, "read"),),
    "encode": ((Tower, "encode_items"),),
    "write": ((QdrantStore, "write_if_newer"), (EdgeStore, "write_if_newer")),
    "ack": ((entries, "ack_if_held"),),
    "ring": ((Bell, "ring"),),
}

_seen: Counter[tuple[int, str, str]] = Counter()


def die_if_ordered(step: str, when: str) -> None:
    """Does not return where an order for this moment lies ready."""
    if FOLDER is None or (ONLY_CHILDREN and current_process().name == "MainProcess"):
        return
    _seen[os.getpid(), step, when] += 1
    nth = _seen[os.getpid(), step, when]
    for order in sorted(Path(FOLDER).glob(f"{step}.{when}.*")):
        if "killed" in order.name or int(order.name.split(".")[2]) > nth:
            continue
        try:
            order.rename(order.with_name(f"{order.name}.killed-{os.getpid()}"))
        except FileNotFoundError:  # another process took it
            continue
        os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner: Any, name: str, step: str) -> None:
    real: Callable[..., Any] = getattr(owner, name)

    @functools.wraps(real)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        die_if_ordered(step, "before")
        result = real(*arguments, **named)
        die_if_ordered(step, "after")
        return result

    setattr(owner, name, wrapped)


def _bring_encoder() -> None:
    """Every `Towers` of this process knows the encoder for tests; others it loads as ever."""
    real = Towers.__init__

    def with_encoder(self: Towers, *arguments: Any) -> None:
        real(self, *arguments)
        self.add(ENCODER_ID, HashingEncoder(before=lambda _: time.sleep(ENCODE_S)))

    Towers.__init__ = with_encoder


_bring_encoder()
for _step, _owners in STEPS.items():
    for _owner, _name in _owners:
        _wrap(_owner, _name, _step)
