"""RetrievalFormer: an item tower over features and a causal transformer over item vectors.

The paper: "Transformer-Quality Recommendations with Efficient ANN Retrieval and Cold-Start
Resilience" (ICLR 2026 submission 21558; re-studied by its authors in arXiv 2608.24079).

    item      y_i = unit(AttentionFusion(features of i))                             `items`
    event     z_t = AttentionFusion({y of its item, what happened, rating, time gap})  `users`
    profile   p_u = AttentionFusion(features of u)
    user      x_u = unit(Transformer([z_1 ... z_T, SEP, p_u, CLS]) at CLS)
    score     s(u, i) = x_u . y_i

The configuration `paper` is that, `full` the default. Where `full` departs, it is by an option:
- identity="sum": y = unit(fusion + own vector). An item's vector is dropped at random in training
  (identity_noise), and new items have none: both are then what their features say.
- own_events: where texts describe, only items of so many events have a vector of their own. Rarer
  ones are what their features say, which is enough there: their own was learnt by heart.
- content_width: y = unit([y, g * c]), where c is what `content` says of the item without training,
  on its main axes, and the user is asked with a mean over the contents of the history, weighted by
  attention and mapped, and with what the transformer expects of the next one's contents
  (`users.ContentHead`). What is not learned of an item cannot be learnt by heart: it holds for new
  items as for old ones.
- text_as="shared": the fusion reads the words of texts that describe, and of these the words that
  several items share (`features.SHARED_BY`, `features.DESCRIBING`). Texts that name, as titles of
  films do, told it each training item without its own vector, and no new one: contents alone read
  these.
- newcomers: items that came after training are marked in their vectors, and queries raise their
  logits by so much. A model that is right about popularity ranks what nobody has met below what
  many have. Items that were there and that nobody chose are not new.
- readout="last": [p_u, z_1 ... z_T] read at z_T, as SASRec does, so that one pass answers for all
  prefixes; SEP, p_u and CLS need three tokens per target.
- context="sum": z = linear(y) + context, at a sixth of the fusion's price.
- gated: LiGR layers, whose branches are weighted by sigmoid gates, with SwiGLU (eSASRec).
- exact_items: softmax over the whole catalogue while it is small. The authors' re-study found +6.9%
  and +54% Recall@20 over sampled InfoNCE.

What the paper leaves open, and was chosen for both:
- The history reaches the user tower as item vectors (at serving those that lie in the index), not
  as item features: one fetch by key instead of features at query time, and the two towers cannot
  disagree on an item. It is what Eq. 6 computes, since the item tower's weights are shared.
- "+" in Eq. 7 is read as the union of a set: tokens {h, context...}, those missing left out.
- Every event of a user is a training target, not one per user. With "cls" each target has a CLS
  whose mask shows exactly what it will see at serving; nothing is approximated. An epoch passes
  over all of them, so `paper` has 24 instead of "up to 100". Its batch has 500 of them, as the
  paper's has 512: with 4,096, three passes taught what one teaches now (docs/experiments.md).
- Beyond `exact_items`, the batch's targets and uniformly drawn items stand in for the catalogue;
  each negative is corrected by the log of its chance to be among them. That is log-Q for the
  in-batch part, counts an item that is both only once, and leaves a row's own target alone, which
  is there for certain: the sum then estimates the exact one without bias.
- Items without any training event are no negatives: nobody could choose them, and whoever learns to
  rank them last has learnt it of their features, too.
- Vectors have length one and the temperature is learned on the user's side, in training only:
  collections compare by dot product, and a query's length does not change its ranking.
- Positions are not described: each head learns how it forgets with distance (ALiBi's straight
  line and a logarithm), which does not depend on where a window was cut.
- The transformer is pre-norm, since it trains without a long warm-up; AttentionFusion is post-norm
  as in Eqs. 2-4.
- "Feature noising" is not detailed: features are hidden and values taken for unknown at random,
  profiles also whole. In a world where profiles say all, histories were else not learnt at all.

Shapes: B users, L history events, P targets, N items, D width,
K of contents, I of an item's vector, T real targets of a batch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders import softmax
from encoders.batches import Batch
from encoders.fusion import Entities, FeatureTokens, SharedTables
from encoders.retrievalformer import items, users
from encoders.retrievalformer.config import Config
from encoders.retrievalformer.fitting import Fitted
from encoders.retrievalformer.users import History, history_of


class Towers(nn.Module):
    """Both towers on shared tables. Computes its own loss."""

    def __init__(self, config: Config, fitted: Fitted) -> None:
        super().__init__()
        self.config = config
        self.fitted = fitted
        self.tables = SharedTables(fitted.pipelines.vocabularies, config.width)
        item_tokens, profile_tokens = (
            FeatureTokens(
                side,
                self.tables,
                width=config.width,
                noise=config.noise,
                hidden=hidden,
                text_width=fitted.frozen.dimension if fitted.frozen else None,
            )
            for side, hidden in (
                (fitted.pipelines.items, 0.0),
                (fitted.pipelines.users, config.profile_noise),
            )
        )
        parts = items.Parts(
            contents=fitted.contents.dimension if fitted.contents else 0,
            known=len(fitted.keys),
        )
        self.items = items.build(config.identity, item_tokens, users.fusion_of(config), parts)
        sizes = users.Sizes(
            events=len(fitted.event_names),
            value=fitted.values.width if fitted.values else 1,
            item=self.items.read,
            contents=parts.contents,
        )
        self.users = users.build(config, profile_tokens, sizes)
        self.sharpness = nn.Parameter(torch.tensor(math.log(1 / config.temperature)))

    @property
    def inverse_temperature(self) -> Tensor:
        """A scalar: logits are scores times this. Learned of what y says, which is so much shorter
        where something stands beside it."""
        return self.sharpness.exp().clamp(max=100) / self.items.scale

    def queries(self, history: History, profiles: Entities, *, newcomers: float) -> Tensor:
        """(B, P, I): the dot product with an item's vector is its score, by the temperature too
        low; that of new items is higher by `newcomers` logits than the score itself."""
        vectors = history.vectors[..., : self.items.read] / self.items.scale
        queries = self.users(replace(history, vectors=vectors), profiles)  # (B, P, D + K)
        if not self.config.own_rows:
            return queries
        bonus = newcomers / (items.NEW * self.items.scale * self.inverse_temperature)
        queries = torch.cat([queries, bonus.expand_as(queries[..., :1])], dim=-1)
        return F.pad(queries, (0, 1))  # the rest is not asked for

    def loss(self, batch: Batch, catalogue: Entities, profiles: Entities, share: Tensor) -> Tensor:
        """Mean cross-entropy of the batch's targets among all items that have events, or among a
        sample of them when they are many. `profiles` are of the batch's users; `share` (N,) says
        which part of all training events each item has."""
        device = share.device
        targets = torch.as_tensor(batch.target, device=device)  # (B, P)
        wanted = targets >= 0
        targets = targets[wanted]  # (T,)
        history = torch.as_tensor(batch.item, device=device)  # (B, L)
        encoded, ranked, chance = self._candidates(targets, history, share)
        vectors = self.items(self._some_new(catalogue.take(encoded)))  # (R, I)
        past = history_of(
            batch,
            F.embedding(torch.searchsorted(encoded, history), vectors),  # (B, L, I)
            self.fitted.values,
        )
        queries = self.queries(past, profiles, newcomers=0.0)[wanted]
        queries = self.inverse_temperature * queries  # (T, I)
        own = torch.searchsorted(ranked, targets)  # (T,)
        if chance is None:
            return softmax.cross_entropy(queries, vectors, own, None)
        columns = F.embedding(torch.searchsorted(encoded, ranked), vectors)  # (C, D)
        return softmax.cross_entropy(queries, columns, own, -chance.log())

    def _some_new(self, records: Entities) -> Entities:
        """A share `identity_noise` of items, drawn anew each time, is taken for new ones."""
        drawn = torch.rand(records.rows, device=records.identity.device)
        new = drawn < self.config.identity_noise
        return replace(records, identity=records.identity.masked_fill(new, items.NEWCOMER))

    def _candidates(
        self, targets: Tensor, history: Tensor, share: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Item numbers to encode (R,) and, of these, to rank (C,), both ascending, and each ranked
        item's chance to be among them: None for all, else the targets with uniformly drawn ones."""
        everything = share.nonzero()[:, 0]
        N, drawn = len(everything), self.config.uniform_items
        if self.config.exact_items >= N:
            return everything, everything, None
        uniform = everything[torch.randint(N, (drawn,), device=share.device)]
        ranked = _unique(torch.cat([targets, uniform]))
        absent = len(targets) * torch.log1p(-share[ranked]) + drawn * math.log1p(-1 / N)
        return _unique(torch.cat([ranked, history.flatten()])), ranked, -torch.expm1(absent)


def _unique(values: Tensor) -> Tensor:
    """Ascending, each once."""
    return cast(Tensor, cast(Any, torch).unique(values))
