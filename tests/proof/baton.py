"""Processes that run one at a time and stop before each seam, so that a test is their scheduler.

A process is a thread of the real code. It runs only while `resume` waits for it, and parks at every
`gate` that it comes to. One that is never resumed again is a process that was killed with -9: the
code after the gate did not run, no handler, no finally. One that is resumed late is a zombie.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

STUCK_S = 300.0  # a process that does not come to a gate in that time waits for somebody parked

_here = threading.local()


class Killed(BaseException):
    """Ends the thread of a killed process; every gate on its way out raises it again."""


class Process:
    """A thread of `work`, parked before its first step. `at` is the gate before which it stands,
    None once it has ended. `fault` is what shall happen to its next call of the given kind."""

    def __init__(self, name: str, work: Callable[[], object]) -> None:
        self.name = name
        self.at: str | None = "start"
        self.outcome: BaseException | None = None
        self.result: object = None
        self.faults: dict[str, str] = {}  # "store" or "database" -> what happens
        self.behind_s = 0.0  # how much less time has passed on its clock than for the others
        self.fence: int | None = None  # of the batch that it holds
        self.died = False
        self._work = work
        self._go, self._parked = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def resume(self) -> str | None:
        """Run to the next gate or to the end; returns where it stands now."""
        assert self.at is not None, f"{self.name} has ended"
        self._go.release()
        assert self._parked.acquire(timeout=STUCK_S), f"{self.name} is stuck after {self.at}"
        if self.at is None:
            self._thread.join()
        return self.at

    def run_to(self, *gates: str) -> str | None:
        """Run until it stands before one of these gates, or has ended."""
        while self.resume() not in {*gates, None}:
            pass
        return self.at

    def finish(self) -> None:
        while self.at is not None:
            self.resume()

    def kill(self) -> None:
        """It does nothing any more."""
        self.died = True
        while self.at is not None:
            self.resume()

    def take_fault(self, kind: str) -> str | None:
        return self.faults.pop(kind, None)

    def _run(self) -> None:
        _here.process = self
        self._go.acquire()
        try:
            if self.died:
                raise Killed
            self.result = self._work()
        except BaseException as outcome:  # noqa: BLE001 - the scheduler judges it
            self.outcome = outcome
        self.at = None
        self._parked.release()

    def _park(self, gate: str) -> None:
        if not self.died:
            self.at = gate
            self._parked.release()
            self._go.acquire()
        if self.died:
            raise Killed


def current() -> Process | None:
    """The process whose thread this is; None for the scheduler's own."""
    return getattr(_here, "process", None)


def gate(name: str) -> Process | None:
    """Wait here until the scheduler says so. The scheduler's own calls pass."""
    process = current()
    if process is not None:
        process._park(name)
    return process
