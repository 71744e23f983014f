"""The models by the names that tables use, each made and trained by one call.

Options are a model's defaults, the same for every data set; an ablation is a model with one option
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from encoders import baselines, content, evaluate, families, learning
from encoders.batches import Batch
from encoders.evaluate import Ranks
from encoders.progress import Epoch, Run
from encoders.protocols import Protocol
from encoders.retrievalformer.learner import Learner as RetrievalFormerLearner
from encoders.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model reached on a protocol's targets, and what it was made with."""

    ranks: Ranks
    options: Mapping[str, Any]
    curve: Sequence[Epoch] = ()  # of what was learnt


@dataclass(frozen=True, kw_only=True)
class Model:
    """`about` is its line in the tables' legend."""

    about: str
    make: Callable[[Protocol, Mapping[str, Any], Run], Outcome]
    options: Mapping[str, Any]  # changed from the defaults of its kind

    def run(self, protocol: Protocol, run: Run, more: Mapping[str, Any]) -> Outcome:
        return self.make(protocol, {**self.options, **more}, run)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Popularity:
    """Implements encoders.evaluate.Scorer: the same for everybody."""

    counts: FloatArray  # (N,)
    history: int = 1

    def __call__(self, batch: Batch) -> FloatArray:
        return np.tile(self.counts, (len(batch.user), 1))


def _popularity(protocol: Protocol, options: Mapping[str, Any], run: Run) -> Outcome:
    scorer = _Popularity(counts=evaluate.popularity(protocol.training))
    return Outcome(ranks=_ranks(scorer, protocol, run), options=options)


def _content(protocol: Protocol, options: Mapping[str, Any], run: Run) -> Outcome:
    """Nearest to the mean of what the user had, by content; nothing is learnt."""
    config = content.Config(**options)
    data = protocol.data
    encoder = content.fit(
        config,
        data.items,
        data.item_features,
        popularity=evaluate.popularity(protocol.training),
        device=run.device,
    )
    asked = replace(protocol.training, dataset=data)
    ranks = evaluate.rank_with(encoder, asked, protocol.targets, seed=run.seed)
    return Outcome(ranks=ranks, options=asdict(config))


def _baseline(name: str) -> Callable[[Protocol, Mapping[str, Any], Run], Outcome]:
    def make(protocol: Protocol, options: Mapping[str, Any], run: Run) -> Outcome:
        with learning.seeded(run):
            config = baselines.Config(**options)
            learner = baselines.build(name, config, protocol.training, device=run.device)
        return _learnt(learner, protocol, run)

    return make


def _retrievalformer(protocol: Protocol, options: Mapping[str, Any], run: Run) -> Outcome:
    config: Any = families.configure("retrievalformer", options)
    with learning.seeded(run):
        learner = RetrievalFormerLearner.untrained(config, protocol.training, run.device)
    return _learnt(learner, protocol, run)


def _learnt(learner: learning.Learner, protocol: Protocol, run: Run) -> Outcome:
    curve = learning.learn(learner, protocol.training, run)
    ranks = _ranks(learner.scorer(), protocol, run)
    schedule: Any = learner.schedule
    return Outcome(ranks=ranks, options=asdict(schedule), curve=curve)


def _ranks(scorer: evaluate.Scorer, protocol: Protocol, run: Run) -> Ranks:
    return evaluate.rank_by(scorer, protocol.data, protocol.targets, seed=run.seed)


MODELS: Mapping[str, Model] = {
    "popularity": Model(
        about="the most frequent items, for everybody", make=_popularity, options={}
    ),
    "content-knn": Model(
        about="nearest by content to the user's history; learns nothing", make=_content, options={}
    ),
    "two-tower": Model(
        about="mean of the history against item identity and features",
        make=_baseline("two-tower"),
        options={},
    ),
    "sasrec": Model(
        about="SASRec with the softmax over all items", make=_baseline("sasrec"), options={}
    ),
    "esasrec": Model(
        about="eSASRec: LiGR layers and a sampled softmax", make=_baseline("esasrec"), options={}
    ),
    "paper": Model(
        about="RetrievalFormer as it was published, as far as that says",
        make=_retrievalformer,
        options={"config": "paper"},
    ),
    "full": Model(
        about="RetrievalFormer as `twinspan train retrievalformer` makes it",
        make=_retrievalformer,
        options={"config": "full"},
    ),
}
