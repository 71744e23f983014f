"""AttentionFusion: a set of features becomes one vector, and what feeds it.

Each feature of an entity is one token: the mean of its rows in a table shared by everything that
has this feature, its scaled number, or its frozen text vector, each through a linear map of its
own that also says which feature it is. The tokens attend to each other once, without positions,
and their mean is the entity's vector: neither the order of features nor of values can show.
A missing feature has no token; an entity without any gets a learned vector.

Shapes: N entities, M tokens of one, D width, R rows of a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.features import Columns, Pipeline, Vocabulary, table_of
from encoders.text import FrozenText
from encoders.types import FloatArray


class AttentionFusion(nn.Module):
    """One post-norm transformer block without positions, then the mean of the present tokens."""

    def __init__(self, *, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.norm_attended = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )
        self.norm_fed = nn.LayerNorm(width)
        self.nothing = nn.Parameter(torch.randn(width))

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """(N, M, D) float and (N, M) bool -> (N, D)."""
        some = present.any(dim=1, keepdim=True)  # (N, 1)
        if not bool(some.any()):
            return self.nothing.expand(len(tokens), -1)
        visible = present | ~some  # (N, M): a row of nothing attends to itself, and is replaced
        N, M, D = tokens.shape
        q, k, v = self.attend(tokens).view(N, M, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible[:, None, None, :])
        mixed = self.join(mixed.transpose(1, 2).reshape(N, M, D))  # (N, M, D)
        tokens = self.norm_attended(tokens + mixed)
        tokens = self.norm_fed(tokens + self.feed(tokens))
        weights = visible.to(tokens.dtype)
        weights = weights / weights.sum(dim=1, keepdim=True)  # (N, M)
        fused = torch.bmm(weights[:, None, :], tokens)[:, 0]  # (N, D)
        return torch.where(some, fused, self.nothing)


class SharedTables(nn.Module):
    """One embedding table per vocabulary, for items, histories and profiles alike."""

    def __init__(self, vocabularies: Mapping[str, Vocabulary], width: int) -> None:
        super().__init__()
        self.place = {name: i for i, name in enumerate(vocabularies)}
        self.tables = nn.ModuleList(nn.Embedding(len(v), width) for v in vocabularies.values())
        for i, vocabulary in enumerate(vocabularies.values()):
            alias = cast(Any, torch).from_numpy(vocabulary.alias_rows())
            self.register_buffer(f"alias_{i}", alias, persistent=False)

    def mean(self, name: str, ids: Tensor, starts: Tensor, *, swapped: float) -> Tensor:
        """(N, D): the mean of each bag's rows. A share `swapped` of the values is taken for
        unknown, so that the buckets of unknown values learn to mean something."""
        i = self.place[name]
        if swapped > 0:
            alias: Tensor = getattr(self, f"alias_{i}")
            swap = torch.rand(ids.shape, device=ids.device) < swapped
            ids = torch.where(swap, alias[ids], ids)
        weight = self.tables.get_submodule(str(i)).get_parameter("weight")
        return F.embedding_bag(ids, weight, starts, mode="mean", include_last_offset=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Entities:
    """N records as tensors, ready for FeatureTokens; `identity` (N,) is an item's row in the table
    of those that have one, below 0 for others; `contents` (N, K) are taken as they are."""

    rows: int
    identity: Tensor
    contents: Tensor
    bags: Mapping[str, tuple[Tensor, Tensor]]  # ids, starts (N + 1,)
    dense: Mapping[str, Tensor]  # (N, K), NaN rows where missing

    def take(self, rows: Tensor) -> Entities:
        """These records, in this order."""
        return Entities(
            rows=len(rows),
            identity=self.identity[rows],
            contents=self.contents[rows],
            bags={name: _take_bags(*bag, rows) for name, bag in self.bags.items()},
            dense={name: values[rows] for name, values in self.dense.items()},
        )


def entities(
    columns: Columns,
    pipeline: Pipeline,
    frozen: FrozenText | None,
    device: torch.device,
    *,
    identity: NDArray[np.int64] | None = None,
    contents: FloatArray | None = None,
) -> Entities:
    """The columns as tensors on that device; texts go through the frozen model, if there is one.
    Without `identity` (N,) no record has a row of its own, without `contents` (N, K) K is 0."""

    def tensor(array: NDArray[np.generic]) -> Tensor:
        return cast(Any, torch).from_numpy(array).to(device)

    dense = {
        f"number:{n}": tensor(s.encode(columns.numbers[n])) for n, s in pipeline.scales.items()
    }
    if frozen is not None:
        for name, texts in columns.texts.items():
            vectors = frozen.encode(texts)
            vectors[~vectors.any(axis=1)] = np.nan
            dense[f"text:{name}"] = tensor(vectors * np.float32(frozen.dimension**0.5))
    return Entities(
        rows=columns.rows,
        identity=tensor(np.full(columns.rows, -1) if identity is None else identity),
        contents=tensor(np.zeros((columns.rows, 0), np.float32) if contents is None else contents),
        bags={name: (tensor(bag.ids), tensor(bag.starts)) for name, bag in columns.bags.items()},
        dense=dense,
    )


class FeatureTokens(nn.Module):
    """Records -> tokens, one per feature; a text may give two (its words, and its frozen vector).

    In training a share `noise` of the features is hidden and half of that share of the values is
    taken for unknown: at serving, items come with less than was promised. A share `hidden` of the
    records is hidden whole.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tables: SharedTables,
        *,
        width: int,
        noise: float,
        hidden: float,
        text_width: int | None,
    ) -> None:
        super().__init__()
        self.noise = noise
        self.hidden = hidden
        self.width = width
        self._shared = [tables]  # in a list: its parameters belong to whoever made it
        self.bags = [
            (feature.name, table_of(feature))
            for feature in pipeline.features
            if table_of(feature) in pipeline.vocabularies
        ]
        dense = {f"number:{name}": scale.width for name, scale in pipeline.scales.items()}
        if text_width is not None:
            texts = [f.name for f in pipeline.features if f.kind == "text"]
            dense |= {f"text:{name}": text_width for name in texts}
        self.dense = list(dense)
        widths = [width] * len(self.bags) + list(dense.values())
        self.maps = nn.ModuleList(nn.Linear(w, width) for w in widths)

    @property
    def _device(self) -> torch.device:
        return next(self._shared[0].parameters(), torch.empty(0)).device

    def forward(self, records: Entities) -> tuple[Tensor, Tensor]:
        """N records -> (N, M, D) float and (N, M) bool; M is 1, and absent, without features."""
        if not self.maps:
            return (
                torch.zeros(records.rows, 1, self.width, device=self._device),
                torch.zeros(records.rows, 1, dtype=torch.bool, device=self._device),
            )
        tokens, present = self._bag_tokens(records)
        for name, linear in zip(self.dense, self.maps[len(self.bags) :], strict=True):
            values = records.dense[name]  # (N, K)
            present.append(~values[:, 0].isnan())
            tokens.append(linear(values.nan_to_num()))
        there = torch.stack(present, dim=1)  # (N, M)
        if self.training and self.noise > 0:
            there = there & (torch.rand(there.shape, device=there.device) >= self.noise)
        if self.training and self.hidden > 0:
            there = there & (torch.rand(len(there), 1, device=there.device) >= self.hidden)
        return torch.stack(tokens, dim=1), there

    def _bag_tokens(self, records: Entities) -> tuple[list[Tensor], list[Tensor]]:
        tokens: list[Tensor] = []
        present: list[Tensor] = []
        swapped = self.noise / 2 if self.training else 0.0
        for (name, table), linear in zip(self.bags, self.maps, strict=False):
            ids, starts = records.bags[name]
            tokens.append(linear(self._shared[0].mean(table, ids, starts, swapped=swapped)))
            present.append(starts[1:] > starts[:-1])
        return tokens, present


def _take_bags(ids: Tensor, starts: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    counts = (starts[1:] - starts[:-1])[rows]
    ends = counts.cumsum(0)
    first = starts[:-1][rows] - (ends - counts)  # where a bag lies, less where it will lie
    places = torch.arange(int(counts.sum()), device=ids.device)
    return ids[places + first.repeat_interleave(counts)], F.pad(ends, (1, 0))
