"""Which index answers, with which encoder, and what the answer says about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from encoders import artifact
from encoders.errors import ArtifactDamaged
from indexer import Retriever
from indexer.errors import CollectionMissing, EncoderMismatch
from indexer.towers import Tower
from query.world import World, films, trained


def test_without_an_index_the_error_names_the_alias_and_the_remedy(world: World) -> None:
    with pytest.raises(CollectionMissing, match=r"'movies'.*twinspan reindex"):
        world.retriever.recommend()


def test_hits_say_where_they_come_from(movies: World) -> None:
    hits = movies.retriever.recommend(history=["m0", "m1"], k=8)
    info = artifact.list_of(str(movies.root))[0]
    assert (hits.index_id, hits.collection, hits.encoder_id) == (1, "movies-1", info.id)
    assert list(hits.timings) == ["resolve", "history", "encode", "search"]
    assert all(ms >= 0 for ms in hits.timings.values())
    assert json.loads(json.dumps(hits.as_dict()))["encoder"] == info.id
    assert "8 hits from movies-1" in repr(hits)
    assert repr(hits).endswith(", …>")
    assert hits[0] == next(iter(hits))
    assert len(hits[2:4]) == 2


def test_the_next_query_follows_the_alias(movies: World) -> None:
    before = movies.retriever.recommend(history=["m0"], k=3)
    second = trained(movies.root, weight=0.9)
    movies.build(second, films(40))
    after = movies.retriever.recommend(history=["m0"], k=3)
    assert before.encoder_id != after.encoder_id == second.id
    assert {hit.payload["built_by"] for hit in after} == {second.id}


def test_a_tower_that_did_not_build_the_index_is_refused(movies: World) -> None:
    own, other = artifact.list_of(str(movies.root))[0], trained(movies.root, weight=0.9)
    given = Retriever(
        movies.store,
        alias="movies",
        settings=movies.settings,
        encoder=Tower(other.id, artifact.load(other.uri)),
    )
    for ask in (lambda: given.recommend(k=1), lambda: given.similar("m0")):
        with pytest.raises(EncoderMismatch, match=f"{own.id}.*{other.id}"):
            ask()
    movies.build(other, films())
    assert given.recommend(k=1).encoder_id == other.id


def test_a_damaged_encoder_is_refused(movies: World) -> None:
    weights = Path(artifact.list_of(str(movies.root))[0].uri) / "model.safetensors"
    content_bytes = bytearray(weights.read_bytes())
    content_bytes[-1] ^= 1
    weights.write_bytes(content_bytes)
    with pytest.raises(ArtifactDamaged):
        movies.retriever.recommend()


def test_a_physical_collection_can_be_asked_by_its_own_name(movies: World) -> None:
    movies.build(trained(movies.root, weight=0.9), films(20), live=False)
    shadow = Retriever(movies.store, alias="movies-2", settings=movies.settings)
    assert shadow.recommend(k=1).index_id == 2
