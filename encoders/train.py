"""From a dataset to an encoder in its folder, with what is known of it.

Training sees every event but the last two of each user: the last but one decides when to stop,
the last is what the metrics in the artifact are about. Which of several events of one moment is the
last, the seed says: sources list them by item id, which a model would learn. Families that are only
fitted (`content`) take any dataset, even an empty one; those that learn need users who did
something.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import cast

from encoders import artifact, dataset, evaluate, evaluation, families
from encoders.dataset import Dataset, Split, Ties
from encoders.errors import TrainingFailed
from encoders.families import StorableEncoder
from encoders.progress import Progress, Run
from encoders.types import EncoderInfo

EVALUATED_USERS = 10_000  # at most; drawn with the seed
TIES: Ties = "shuffled"  # of what is trained on; `evaluation.question` asks in the same order


def train(
    family: str,
    data: Dataset,
    root_uri: str,
    *,
    config: Mapping[str, object] | None = None,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    threads: int | None = None,
    device: str = "cpu",
) -> EncoderInfo:
    """A trained and evaluated encoder lies under root_uri/<id>.

    `config` overrides options of the family. With a `checkpoint` folder, an interrupted run takes
    up where its last epoch ended and ends as if it had never stopped. `threads` are torch's; None
    leaves them alone, and more than idle cores is far slower than one. Feature values that cannot
    be read count as missing. Raises UnknownFamily, TrainingFailed or NotEnoughData.
    """
    options = families.configure(family, config or {})
    families.require_device(device)
    _set_threads(threads)
    data, unreadable = dataset.readable(evaluation.in_order(data, TIES, seed))
    split = dataset.leave_one_out(data)
    began = time.monotonic()
    trainer = _TRAINERS[family]
    encoder, learnt = trainer(
        options,
        split,
        Run(
            seed=seed, device=device, checkpoint=checkpoint, progress=progress or _silent, ties=TIES
        ),
    )
    seconds = time.monotonic() - began
    info = artifact.save(
        encoder,
        root_uri,
        facts={
            **_facts(split, seed),
            **learnt,
            "unreadable_values": unreadable,
            "train_s": round(seconds, 2),
        },
        metrics=_metrics(encoder, split, seed),
    )
    if checkpoint is not None:
        from encoders import checkpoints

        checkpoints.remove(checkpoint)
    return info


def _train_content(
    options: families.Config, split: Split, run: Run
) -> tuple[StorableEncoder, Mapping[str, object]]:
    from encoders import content

    encoder = content.fit(
        cast(content.Config, options),
        split.dataset.items,
        split.dataset.item_features,
        popularity=evaluate.popularity(split),
        device=run.device,
    )
    return encoder, {}


def _train_retrievalformer(
    options: families.Config, split: Split, run: Run
) -> tuple[StorableEncoder, Mapping[str, object]]:
    from encoders import learning
    from encoders.retrievalformer import Config
    from encoders.retrievalformer.learner import Learner

    learning.require(split)
    with learning.seeded(run):
        learner = Learner.untrained(cast(Config, options), split, run.device)
    curve = learning.learn(learner, split, run)
    return learner.encoder, {"epochs": len(curve), "curve": [line.as_dict() for line in curve]}


_TRAINERS: Mapping[
    str, Callable[[families.Config, Split, Run], tuple[StorableEncoder, Mapping[str, object]]]
] = {"content": _train_content, "retrievalformer": _train_retrievalformer}


def _facts(split: Split, seed: int) -> dict[str, object]:
    data = split.dataset
    return {
        "items": len(data.items),
        "users": len(data.user_keys),
        "events": len(data.user),
        "training_events": int(split.train.sum()),
        "dataset": data.fingerprint,
        "seed": seed,
        "ties": TIES,
        "versions": {
            "python": platform.python_version(),
            **{
                name: metadata.version(name) for name in ("numpy", "torch", "sentence-transformers")
            },
        },
    }


def _metrics(encoder: StorableEncoder, split: Split, seed: int) -> dict[str, float]:
    """On each user's last event, beside what plain popularity reaches; {} without such users."""
    if not (split.test >= 0).any():
        return {}
    ours = evaluate.rank_with(encoder, split, split.test, limit=EVALUATED_USERS, seed=seed)
    popular = evaluate.rank_by_popularity(split, split.test, limit=EVALUATED_USERS, seed=seed)
    popular_metrics = {f"popularity_{k}": v for k, v in popular.metrics().items() if "@20" in k}
    return {**ours.metrics(), **popular_metrics}


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise TrainingFailed(f"threads must be at least 1, not {threads}")
    import torch

    torch.set_num_threads(threads)


def _silent(_: Progress) -> None: ...
