"""Searches on a Qdrant server: how each is best done there, asked as one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qdrant_client import models

from indexer.filters import Filter
from indexer.stores import (
    Collection,
    ScoredPoint,
    Search,
    points,
    policy,
    qdrant_filters,
    qdrant_points,
)
from indexer.stores.qdrant_server import Server


def answers(
    server: Server, collection: Collection, searches: Sequence[Search]
) -> list[list[ScoredPoint]]:
    """The best points of each search, best first. The in-memory mode scans in any case."""
    estimated = {} if server.local else _estimates(server, collection, searches)
    requests = [
        models.QueryRequest(
            query=qdrant_points.vector(one.values),
            using=one.vector,
            filter=qdrant_filters.build(
                one.where, without_ids=[collection.point_id(key) for key in one.exclude]
            ),
            params=None if server.local else _params(one, estimated),
            limit=one.limit,
            with_payload=points.selection(one.payload),
        )
        for one in searches
    ]
    with server.calling() as client:
        found = client.query_batch_points(collection.name, requests)
    return [
        [qdrant_points.scored(each, one.payload) for each in answer.points]
        for one, answer in zip(searches, found, strict=True)
    ]


def _estimates(
    server: Server, collection: Collection, searches: Sequence[Search]
) -> dict[Filter, int]:
    """How many points pass each of the filters, by the server's own estimate; an exact search
    needs none."""
    found: dict[Filter, int] = {}
    for where in {one.where for one in searches if one.where is not None and not one.exact}:
        with server.calling() as client:
            passing = qdrant_filters.build(where)
            found[where] = client.count(collection.name, passing, exact=False).count
    return found


def _params(one: Search, estimated: Mapping[Filter, int]) -> models.SearchParams:
    passing = None if one.where is None else estimated.get(one.where)
    chosen = policy.plan(exact=one.exact, limit=one.limit, passing=passing)
    return models.SearchParams(
        exact=chosen.exact,
        hnsw_ef=None if chosen.exact else chosen.ef,
        acorn=models.AcornSearchParams(enable=True) if chosen.acorn else None,
    )
