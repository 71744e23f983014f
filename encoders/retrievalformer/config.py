"""What can be chosen about RetrievalFormer, and the configurations that have a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from encoders import text
from encoders.errors import TrainingFailed
from encoders.features import Words
from encoders.options import require

_BOUNDS = {
    **dict.fromkeys(("width", "layers", "heads", "expansion", "history"), (1, 4_096)),
    **dict.fromkeys(("vocabulary", "buckets", "uniform_items", "own_events"), (1, 10_000_000)),
    **dict.fromkeys(("targets", "validation_users"), (1, 1_000_000)),
    **dict.fromkeys(("epochs", "patience", "windows", "exact_items"), (0, 1_000_000_000)),
    **dict.fromkeys(("dropout", "noise", "profile_noise", "identity_noise"), (0, 0.9)),
    **dict.fromkeys(("temperature", "learning_rate"), (1e-6, 10)),
    "content_width": (0, 4_096),
    "warm_up": (0, 1),
    "newcomers": (-100, 100),
}
_CHOICES = {
    "identity": ("none", "token", "sum"),
    "readout": ("last", "cls"),
    "context": ("sum", "fusion"),
    "positions": ("distance", "learned"),
    "text_as": ("none", "shared", "words", "frozen", "both"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Defaults, called `full`, for a new data set on two CPU cores. The first group shapes the
    towers and what they answer, the second is about training only."""

    width: int = 128
    layers: int = 2
    heads: int = 2
    expansion: int = 2  # of the feed-forward layers
    history: int = 50  # newest events read
    identity: str = "sum"  # an item's own vector: "none", a "token" of the fusion, a "sum" with it
    own_events: int = 50  # that an item needs for one, where its texts describe; elsewhere 1
    readout: str = "last"  # the user is read at the "last" event, or at an appended "cls"
    context: str = "sum"  # an event is the "sum" of item and context, or their "fusion"
    content_width: int = 64  # of the part that says what items are, not learned; 0: without
    gated: bool = True  # LiGR layers instead of plain ones
    positions: str = "distance"  # forgetting by "distance", or "learned" places from the end
    text_as: str = "shared"  # words of texts that describe; all "words", "frozen", "both", "none"
    text_model: str = text.DEFAULT
    vocabulary: int = 30_000  # values per feature, item keys too; rarer ones share the buckets
    buckets: int = 256
    newcomers: float = 1.5  # the logarithm of by how much items that came later are favoured

    dropout: float = 0.2
    noise: float = 0.05  # share of features hidden in training
    profile_noise: float = 0.3  # share of profiles hidden whole in training
    identity_noise: float = 0.1  # share of items taken for new ones in training, at each step
    temperature: float = 0.1  # where the learned one begins
    exact_items: int = 20_000  # catalogues up to this size are trained with the exact softmax
    uniform_items: int = 4_096  # drawn per step beyond
    targets: int = 50  # per window; more is faster, with shorter histories
    windows: int = 0  # per step; 0: about 4,096 targets, or a sixteenth of the data
    learning_rate: float = 5e-3
    warm_up: float = 0.05  # share of all steps
    weight_decay: float = 0.01
    epochs: int = 0  # at most; 0: 24, on much data fewer (6,000 steps), on little more (550)
    patience: int = 0  # epochs without a better recall; 0: a quarter of all, at least two
    validation_users: int = 10_000  # at most, drawn with the seed

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise TrainingFailed(
                    f"{name} must be one of {', '.join(map(repr, known))}, not {value!r}"
                )
        require(self, _BOUNDS)
        if self.width % self.heads:
            raise TrainingFailed(f"width {self.width} must be a multiple of heads {self.heads}")
        if self.positions == "learned" and self.readout != "last":
            raise TrainingFailed('positions "learned" need readout "last": a window has one end')

    @property
    def own_rows(self) -> bool:
        """Items can have a vector of their own."""
        return self.identity != "none"

    @property
    def counts_events(self) -> bool:
        """Whether an item has a vector of its own can be for `own_events` to say."""
        return self.own_rows and self.words == "shared"

    @property
    def words(self) -> Words:
        """Which of a text's words are a token of the fusion."""
        if self.text_as == "shared":
            return "shared"
        return "all" if self.text_as in ("words", "both") else "none"

    @property
    def reads_frozen(self) -> bool:
        """The fusion has a token for a text's frozen vector."""
        return self.text_as in ("frozen", "both")


# What the paper describes, as far as it does; the model file lists what it leaves open.
PAPER: Mapping[str, object] = {
    "width": 64,
    "dropout": 0.05,
    "identity": "none",
    "readout": "cls",
    "context": "fusion",
    "content_width": 0,
    "gated": False,
    "text_as": "words",
    "exact_items": 0,
    "uniform_items": 2_048,
    "targets": 25,
    "windows": 20,  # times 25: its batch of 512
    "learning_rate": 1e-3,
    "epochs": 24,
    "patience": 10,
}

CONFIGS: Mapping[str, Mapping[str, object]] = {"full": {}, "paper": PAPER}
