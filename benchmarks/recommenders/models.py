"""The models by the names that tables use, each made and trained by one call.

Options are a model's defaults, the same for every data set; an ablation is a model with one option
changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from encoders import baselines, content, evaluate, families, learning
from encoders.batches import Batch
from encoders.evaluate import Ranks
from encoders.progress import Epoch, Run
from encoders.protocols import Protocol
from encoders.retrievalformer import Config
from encoders.retrievalformer.learner import Learner as RetrievalFormerLearner
from encoders.retrievalformer.learner import Scorer as RetrievalFormerScorer
from encoders.types import FloatArray

NEWCOMERS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # how much new items are favoured, all in one run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a model reached on a protocol's targets, and what it was made with."""

    ranks: Ranks
    others: Ranks  # of users whose last item is not cold; of nobody where none is
    options: Mapping[str, Any]
    curve: Sequence[Epoch] = ()  # of what was learnt
    newcomers: Mapping[float, tuple[Ranks, Ranks]] = field(default_factory=dict[Any, Any])


@dataclass(frozen=True, kw_only=True)
class Model:
    """`about` is its line in the tables' legend."""

    about: str
    make: Callable[[Protocol, Any, Run], Outcome]  # Any: what `configure` returns
    configure: Callable[[Mapping[str, Any]], Any]  # options -> a dataclass

    def run(self, protocol: Protocol, run: Run, more: Mapping[str, Any]) -> Outcome:
        return self.make(protocol, self.configure(more), run)


@dataclass(frozen=True)
class _Nothing:
    """What can be chosen about popularity."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Popularity:
    """Implements encoders.evaluate.Scorer: the same for everybody."""

    counts: FloatArray  # (N,)
    history: int = 1

    def __call__(self, batch: Batch) -> FloatArray:
        return np.tile(self.counts, (len(batch.user), 1))


def _popularity(protocol: Protocol, config: _Nothing, run: Run) -> Outcome:
    scorer = _Popularity(counts=evaluate.popularity(protocol.training))
    ranks, others = _ranks(scorer, protocol, run)
    return Outcome(ranks=ranks, others=others, options=asdict(config))


def _content(protocol: Protocol, config: content.Config, run: Run) -> Outcome:
    """Nearest to the mean of what the user had, by content; nothing is learnt."""
    data = protocol.data
    encoder = content.fit(
        config,
        data.items,
        data.item_features,
        popularity=evaluate.popularity(protocol.training),
        device=run.device,
    )
    asked = replace(protocol.training, dataset=data)
    ranks, others = (
        evaluate.rank_with(encoder, asked, targets, seed=run.seed)
        for targets in (protocol.targets, protocol.others)
    )
    return Outcome(ranks=ranks, others=others, options=asdict(config))


def _baseline(name: str, about: str) -> Model:
    def make(protocol: Protocol, config: baselines.Config, run: Run) -> Outcome:
        with learning.seeded(run):
            learner = baselines.build(name, config, protocol.training, device=run.device)
        return _learnt(learner, protocol, run)

    def configure(options: Mapping[str, Any]) -> baselines.Config:
        return baselines.configure(name, baselines.Config(**options))

    return Model(about=about, make=make, configure=configure)


def _retrievalformer(name: str, about: str) -> Model:
    def make(protocol: Protocol, config: Config, run: Run) -> Outcome:
        with learning.seeded(run):
            learner = RetrievalFormerLearner.untrained(config, protocol.training, run.device)
        return _learnt(learner, protocol, run)

    def configure(options: Mapping[str, Any]) -> Any:
        return families.configure("retrievalformer", {"config": name, **options})

    return Model(about=about, make=make, configure=configure)


def _learnt(learner: learning.Learner, protocol: Protocol, run: Run) -> Outcome:
    curve = learning.learn(learner, protocol.training, run)
    scorer = learner.scorer()
    ranks, others = _ranks(scorer, protocol, run)
    favoured: dict[float, tuple[Ranks, Ranks]] = {}
    if len(protocol.cold) and isinstance(scorer, RetrievalFormerScorer):
        for newcomers in NEWCOMERS:
            asked = replace(scorer, newcomers=newcomers)
            favoured[newcomers] = _ranks(asked, protocol, run)
    schedule: Any = learner.schedule
    return Outcome(
        ranks=ranks, others=others, options=asdict(schedule), curve=curve, newcomers=favoured
    )


def _ranks(scorer: evaluate.Scorer, protocol: Protocol, run: Run) -> tuple[Ranks, Ranks]:
    """Of those who are asked, and of the others."""
    ranks, others = (
        evaluate.rank_by(scorer, protocol.data, targets, seed=run.seed)
        for targets in (protocol.targets, protocol.others)
    )
    return ranks, others


MODELS: Mapping[str, Model] = {
    "popularity": Model(
        about="the most frequent items, for everybody",
        make=_popularity,
        configure=lambda options: _Nothing(**options),
    ),
    "content-knn": Model(
        about="nearest by content to the user's history; learns nothing",
        make=_content,
        configure=lambda options: content.Config(**options),
    ),
    "two-tower": _baseline("two-tower", "mean of the history against item identity and features"),
    "sasrec": _baseline("sasrec", "SASRec with the softmax over all items"),
    "esasrec": _baseline("esasrec", "eSASRec: LiGR layers and a sampled softmax"),
    "paper": _retrievalformer("paper", "RetrievalFormer as it was published, as far as that says"),
    "full": _retrievalformer(
        "full", "RetrievalFormer as `twinspan train retrievalformer` makes it"
    ),
}
