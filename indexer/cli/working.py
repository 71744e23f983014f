"""Work that a command does itself, where no worker can be there to do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from indexer.cli.parts import Parts
    from indexer.gate import Pause
    from indexer.indexes import Index

SLICE_S = 2.0  # of work between two looks
LOOK_S = 0.25  # between two looks at what somebody else does


def is_alone(opened: Parts) -> bool:
    """Whether no worker could do the work."""
    return opened.settings.broker_url is None and opened.server is None


def work(opened: Parts, index: Index) -> list[str]:
    """A slice of the index's work is done here; returns what kept it from being done."""
    from indexer import sync

    report = sync.drain(
        opened.engine,
        opened.store,
        opened.towers,
        opened.settings,
        index_id=index.id,
        slice_s=SLICE_S,
    )
    return report.outages


def pause_of(opened: Parts, index_id: int, *, here: bool = False) -> Pause:
    """What is done while the gate waits: the work, where no worker can be there to do it, or where
    it shall be done `here`."""
    from indexer import gate, indexes

    if opened.settings.broker_url is not None and not here:
        return gate.sleep
    index = indexes.get(opened.engine, index_id)

    def work_or_sleep() -> None:
        work(opened, index)
        gate.sleep()

    return work_or_sleep
