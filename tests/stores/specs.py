"""What collections of the contract are made for, each under a name of its own."""

from __future__ import annotations

import itertools
import os
from typing import Any

from generated_filters import FIELDS

from encoders.types import VectorSpec
from indexer.stores import Collection, CollectionSpec

VECTORS = (VectorSpec(name="tower", dimension=4), VectorSpec(name="codes", dimension=None))
names = itertools.count()


def fresh_spec(**changes: Any) -> CollectionSpec:
    name = f"contract-{os.getpid()}-{next(names)}"
    spec = CollectionSpec(
        collection=Collection(name=name, catalog="items"),
        vectors=VECTORS,
        fields=FIELDS,
        metadata={"index_id": 7, "encoder_id": "abc", "returned": ["word"]},
    )
    return CollectionSpec(**{**vars_of(spec), **changes})


def vars_of(spec: CollectionSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in ("collection", "vectors", "fields", "metadata")}
