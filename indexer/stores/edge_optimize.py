"""Build the graphs of a shard in a child process: `python -m indexer.stores.edge_optimize DIR`.

The engine's `optimize()` holds the interpreter lock for its whole length (20 s at 100,000 items),
so the process that serves must not call it. It works on a copy that nobody else has open.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

from indexer.errors import StoreUnavailable
from indexer.stores import edge_files

NICENESS = 10  # searches and writes go first
PR_SET_PDEATHSIG = 1


def start(points: Path) -> subprocess.Popen[str]:
    """A child that optimises the shard in this folder, and dies with us."""
    paths = os.pathsep.join(each for each in sys.path if each)
    return subprocess.Popen(
        [sys.executable, "-m", "indexer.stores.edge_optimize", str(points), str(os.getpid())],
        env={**os.environ, "PYTHONPATH": paths},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str], name: str) -> None:
    """The child has ended well; raises StoreUnavailable with its last words otherwise."""
    _, said = child.communicate()
    if child.returncode != 0:
        last = (said.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise StoreUnavailable(
            f"optimising collection {name!r} failed: {last}. The collection is as it was."
        )


def main(points: str, parent: int) -> None:
    """Optimise the shard in `points` and make it durable."""
    _die_with(parent)
    os.nice(NICENESS)
    import qdrant_edge

    shard = qdrant_edge.EdgeShard.load(points)
    shard.optimize()
    shard.flush()
    shard.close()
    edge_files.sync_files(Path(points))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("the process that asked for this is gone")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
