"""Queries while the live index is switched, replaced and dropped, and from several threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from indexer import Retriever
from indexer.query import Hits
from query.world import World, films, trained


class Asking(threading.Thread):
    """Asks the same question until it is stopped; keeps every answer, and the first error."""

    def __init__(self, retriever: Retriever) -> None:
        super().__init__(daemon=True)
        self.answers: list[Hits] = []
        self._retriever = retriever
        self._error: Exception | None = None
        self._stopping = False
        self._answered = threading.Condition()

    @property
    def count(self) -> int:
        return len(self.answers)

    def run(self) -> None:
        try:
            while not self._stopping:
                self.answers.append(self._retriever.recommend(history=["m0", "m5"], k=10))
                with self._answered:
                    self._answered.notify_all()
        except Exception as error:  # noqa: BLE001  # told to the test
            self._error = error
            with self._answered:
                self._answered.notify_all()

    def wait_for(self, count: int) -> None:
        with self._answered:
            assert self._answered.wait_for(
                lambda: self._error is not None or len(self.answers) >= count, timeout=30
            ), "no answer within 30 s"
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        self._stopping = True
        self.join(30)
        if self._error is not None:
            raise self._error


def test_swapping_the_live_index_under_queries_gives_no_error_and_no_mixed_answer(
    world: World,
) -> None:
    encoders = [trained(world.root, weight=0.3), trained(world.root, weight=0.9)]
    for info in encoders:
        world.build(info, films(), live=True)
    expected = {
        info.id: Retriever(
            world.store, alias=f"movies-{number}", settings=world.settings
        ).recommend(history=["m0", "m5"], k=10)
        for number, info in enumerate(encoders, start=1)
    }
    scores = {id_: [round(hit.score, 4) for hit in hits] for id_, hits in expected.items()}
    assert len({tuple(each) for each in scores.values()}) == 2, "the two must be tellable apart"
    asking = Asking(world.retriever)
    asking.start()
    asking.wait_for(3)
    for turn in range(30):
        world.store.point_alias("movies", f"movies-{1 + turn % 2}")
        asking.wait_for(asking.count + 2)
    asking.stop()
    assert {hits.encoder_id for hits in asking.answers} == {info.id for info in encoders}
    for hits in asking.answers:
        assert {hit.payload["built_by"] for hit in hits} == {hits.encoder_id}
        assert [round(hit.score, 4) for hit in hits] == scores[hits.encoder_id]


def test_an_index_may_be_replaced_and_dropped_under_queries(world: World) -> None:
    encoders = [trained(world.root, weight=0.3), trained(world.root, weight=0.9)]
    old = world.build(encoders[0], films(12))
    asking = Asking(world.retriever)
    asking.start()
    for turn in range(1, 12):
        asking.wait_for(asking.count + 1)
        new = world.build(encoders[turn % 2], films(12))
        world.store.drop_collection(old.name)
        old = new
    asking.stop()
    for hits in asking.answers:
        assert {hit.payload["built_by"] for hit in hits} == {hits.encoder_id}


def test_threads_share_a_retriever(movies: World) -> None:
    histories = [[f"m{i}", f"m{i + 3}"] for i in range(40)]
    alone = [movies.retriever.recommend(history, k=5).keys for history in histories]

    def ask(history: Sequence[str]) -> list[str]:
        return movies.retriever.recommend(history, k=5).keys

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, histories)) == alone
