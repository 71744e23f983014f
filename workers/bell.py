"""Sending wake-ups, and asking the broker which of them nobody has taken yet."""

# Celery comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from celery import Celery
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.exceptions import OperationalError

from indexer import tracing
from indexer.errors import TwinspanError
from indexer.indexes import Index
from workers.rings import Rings
from workers.tasks import DRAIN

LOST = (OperationalError, OSError)  # whatever the transport
MEMORY = 1_000  # wake-ups remembered per queue
TRANSIENT = 1  # delivery mode: RabbitMQ need not write a doorbell to disk
# RabbitMQ: until a silent broker is given up, in seconds; a wake-up counts once it has arrived.
AMQP_OPTIONS = {"read_timeout": 10, "write_timeout": 10, "confirm_publish": True}


class BrokerUnavailable(TwinspanError):
    """The broker does not answer."""


class Bell:
    """A connection to the broker, for one thread. Opened on first use, and again after an error.
    With `queue` all wake-ups go there, whatever queue an index names."""

    def __init__(self, app: Celery, *, queue: str | None = None) -> None:
        self._app = app
        self._only_queue = queue
        self._rings = Rings()
        self._sent: dict[str, deque[int]] = {}  # queue -> index ids, oldest first
        self._queues: dict[str, Queue] = {}  # those declared on this connection
        self._connection: Connection | None = None
        self._producer: Any = None

    def ring(self, due: Sequence[Index], *, fence: int) -> int:
        """Every due index has a wake-up waiting, or one that was taken a moment ago. `fence` is
        the last that a claim took. Returns how many were sent. Raises BrokerUnavailable."""
        if not due:
            self._rings.choose((), (), fence=fence, now=time.monotonic())
            return 0
        connection = self._open()
        try:
            self._connect(connection)
            return self._ring(due, fence, time.monotonic())
        except (*connection.connection_errors, *connection.channel_errors, *LOST) as cause:
            self.close()
            raise BrokerUnavailable(
                f"the broker at {connection.as_uri()} does not answer ({cause}). Check broker_url."
            ) from cause

    def close(self) -> None:
        """The connection is closed; the next `ring` opens another."""
        connection, self._connection = self._connection, None
        self._producer = None
        self._queues.clear()
        if connection is not None:
            connection.release()

    def _open(self) -> Connection:
        if self._connection is None:
            url: str = self._app.conf.broker_write_url
            options = AMQP_OPTIONS if url.startswith(("amqp", "pyamqp")) else {}
            opened: Connection = self._app.connection_for_write(transport_options=options)
            self._connection = opened
        return self._connection

    def _connect(self, connection: Connection) -> None:
        """One attempt: the caller has a pause of its own between attempts."""
        if self._producer is None:
            connection.ensure_connection(max_retries=1, interval_start=0)
            self._producer = self._app.amqp.Producer(connection.channel(), auto_declare=False)

    def _ring(self, due: Sequence[Index], fence: int, now: float) -> int:
        queues = {self._queue_of(index) for index in due}
        waiting = {id_ for queue in queues for id_ in self._waiting(queue)}
        chosen = self._rings.choose(due, waiting, fence=fence, now=now)
        for index in chosen:
            self._send(index)
            self._rings.rung(index.id, fence=fence, now=now)
        return len(chosen)

    def _waiting(self, queue: str) -> list[int]:
        """Index ids of the wake-ups that are still in the queue: as it is first in, first out,
        those sent last."""
        depth = self._queue(queue).queue_declare().message_count
        sent = self._sent.setdefault(queue, deque(maxlen=MEMORY))
        return list(sent)[-depth:] if depth else []

    def _send(self, index: Index) -> None:
        self._app.send_task(
            DRAIN,
            args=(index.id,),
            queue=self._queue(self._queue_of(index)),
            producer=self._producer,
            delivery_mode=TRANSIENT,
            ignore_result=True,
            retry=False,
            headers=tracing.carrier() or None,
        )
        self._sent[self._queue_of(index)].append(index.id)

    def _queue_of(self, index: Index) -> str:
        return self._only_queue or index.queue

    def _queue(self, name: str) -> Queue:
        """The queue as workers declare it, existing afterwards."""
        if name not in self._queues:
            queue: Queue = self._app.amqp.queues.new_missing(name)(self._producer.channel)
            queue.declare()
            self._queues[name] = queue
        return self._queues[name]
