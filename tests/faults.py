"""Loaded into a real worker (`worker --include=faults`): an encoder without torch; sudden death.

Orders to die are files in the folder `TWINSPAN_FAULTS`, named `<step>.<before|after>.<nth>.<id>`. A
process that comes to a step for the nth time since it took up work looks for one, takes it by
renaming it to `<name>.killed-<pid>` (one process can), and sends SIGKILL to itself: no handler, no
finally. A file that says SIGSTOP makes it stop there instead, until somebody sends SIGCONT; it is
then called `<name>.stopped-<pid>`. Steps: route, claim, read, encode, write, delete, ack, ring.
With `TWINSPAN_FAULTS_IN=child` only prefork children take orders, and their parent starts others.

`TWINSPAN_FAULTS_ENCODED` names a file that gets a line for every item that is encoded: a digest of
its key and features. `TWINSPAN_FAULTS_EDGE` is the port of `edge_server`, which is then the store.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from billiard.process import current_process
from edge_server import SharedEdge
from hashing import HashingEncoder
from live_world import ENCODERS

from encoders.types import ItemRecord
from indexer import catalog, changes, entries
from indexer.stores import connect
from indexer.stores.edge import EdgeStore
from indexer.stores.qdrant import QdrantStore
from indexer.towers import Tower, Towers
from workers.bell import Bell

FOLDER = os.environ.get("TWINSPAN_FAULTS")
ONLY_CHILDREN = os.environ.get("TWINSPAN_FAULTS_IN") == "child"

ENCODE_S = float(os.environ.get("TWINSPAN_FAULTS_ENCODE_S", "0"))  # how long a batch takes
EDGE_PORT = os.environ.get("TWINSPAN_FAULTS_EDGE")
ENCODED = os.environ.get("TWINSPAN_FAULTS_ENCODED")
DONE = {signal.SIGKILL: "killed", signal.SIGSTOP: "stopped"}

STEPS: dict[str, tuple[Any, ...]] = {
    "route": ((changes, "route"),),
    "claim": ((entries, "claim"),),
    "read": ((catalog, "read"),),
    "encode": ((Tower, "encode_items"),),
    "write": ((QdrantStore, "write_if_newer"), (EdgeStore, "write_if_newer")),
    "delete": (
        *((store, "delete_if_newer") for store in (QdrantStore, EdgeStore)),
        *((store, "bury_if_newer") for store in (QdrantStore, EdgeStore)),
    ),
    "ack": ((entries, "ack_if_held"),),
    "ring": ((Bell, "ring"),),
}

_seen: Counter[tuple[int, str, str]] = Counter()


def die_if_ordered(step: str, when: str) -> None:
    """Does not return where an order to die at this moment lies ready."""
    if FOLDER is None or (ONLY_CHILDREN and current_process().name == "MainProcess"):
        return
    _seen[os.getpid(), step, when] += 1
    nth = _seen[os.getpid(), step, when]
    for order in sorted(Path(FOLDER).glob(f"{step}.{when}.*")):
        if order.name.count(".") > 3 or int(order.name.split(".")[2]) > nth:
            continue
        try:
            number = signal.Signals[order.read_text() or "SIGKILL"]
            order.rename(order.with_name(f"{order.name}.{DONE[number]}-{os.getpid()}"))
        except FileNotFoundError:  # another process took it
            continue
        os.kill(os.getpid(), number)


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
    """Every `Towers` of this process knows the encoders for tests; others it loads as ever."""
    real = Towers._load

    def load(self: Towers, encoder_id: str, uri: str) -> Tower:
        if encoder_id not in ENCODERS:
            return real(self, encoder_id, uri)
        encoder = HashingEncoder(salt=ENCODERS[encoder_id], before=_before_encoding)
        return Tower(encoder_id, encoder)

    Towers._load = load


def _before_encoding(records: Sequence[ItemRecord]) -> None:
    if ENCODED is not None:
        lines = "".join(f"{_digest(record)}\n" for record in records)
        file = os.open(ENCODED, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, lines.encode())  # in one piece, whoever else appends
        os.close(file)
    time.sleep(ENCODE_S)


def _digest(record: ItemRecord) -> str:
    said = json.dumps([record.key, dict(record.features)], sort_keys=True)
    return hashlib.blake2b(said.encode(), digest_size=12).hexdigest()


_bring_encoder()
if EDGE_PORT is not None:
    connect.connect = lambda _: SharedEdge(int(EDGE_PORT))
for _step, _owners in STEPS.items():
    for _owner, _name in _owners:
        _wrap(_owner, _name, _step)
