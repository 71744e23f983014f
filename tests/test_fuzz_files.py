"""Broken files: data sets to import, and encoders that were damaged or made by somebody else.

An import that is refused names the file, and leaves nothing behind; an encoder that is not what
this release writes is an EncoderError, whether its digests agree or not.
"""

from __future__ import annotations

import gzip
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import films
import hostile
import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import given
from importing.files import ml_100k, ml_csv, ml_dat
from worlds import genre_world

from encoders import artifact, train
from encoders.errors import EncoderError
from encoders.types import EncoderInfo, ItemRecord, UserState
from indexer import database, importing
from indexer.errors import ImportFailed

# -- imports ---------------------------------------------------------------------------------------

CSV = 'id,title,genres,year,price\n1,"A, film",Comedy|Drama,1999,9.5\n2,B,"x;y",2000,\n3,C,,,1\n'
LINES = "\n".join(
    json.dumps({"id": n, "title": f"t{n}", "genres": ["a"], "year": 1990 + n}) for n in range(4)
)
EVENTS = "user,item,occurred_at,value\nu,1,2020-01-01,5\nu,2,1577836800,3\nv,1,2020-01-02T00:00Z,\n"


def generic(rng: random.Random, folder: Path) -> tuple[Callable[..., Any], Path]:
    name, text, load = rng.choice(
        [
            ("items.csv", CSV, importing.items),
            ("items.jsonl", LINES, importing.items),
            ("users.csv", CSV, importing.users),
            ("events.csv", EVENTS, importing.interactions),
        ]
    )
    path = folder / name
    raw = broken(rng, text.encode())
    if rng.random() < 0.2:
        path = folder / f"{name}.gz"
        raw = broken(rng, gzip.compress(raw)) if rng.random() < 0.5 else gzip.compress(raw)
    path.write_bytes(raw)
    return load, path


def movielens(rng: random.Random, folder: Path) -> tuple[Callable[..., Any], Path]:
    rng.choice([ml_100k, ml_dat, ml_csv])(folder)
    path = rng.choice(sorted(one for one in folder.iterdir() if one.is_file()))
    path.write_bytes(broken(rng, path.read_bytes()))
    if rng.random() < 0.3:
        archive = folder.with_suffix(".zip")
        with zipfile.ZipFile(archive, "w") as packed:
            for one in folder.iterdir():
                packed.write(one, one.name)
        archive.write_bytes(broken(rng, archive.read_bytes()))
        return importing.movielens, archive
    return importing.movielens, folder


def amazon(rng: random.Random, folder: Path) -> tuple[Callable[..., Any], Path]:
    items = [{"asin": f"a{n}", "title": "t", "price": "$5", "brand": "b"} for n in range(3)]
    (folder / "items.jsonl").write_bytes(broken(rng, "\n".join(map(json.dumps, items)).encode()))
    (folder / "sequences.txt").write_bytes(broken(rng, b"u1 a0 a1 a2\nu2 a1 a2\n"))
    return importing.amazon, folder


def broken(rng: random.Random, data: bytes) -> bytes:
    if rng.random() < 0.1:
        return rng.choice([b"", b"\0" * 100, b"\xff\xfe" + data, data * 3, data[:20], b"PK\3\4"])
    put = hostile.text(rng).encode("utf-8", "surrogatepass")
    at = rng.randrange(len(data) + 1)
    return hostile.garbled(rng, data[:at] + put + data[at:] if rng.random() < 0.5 else data)


@hostile.times(80)
@given(rng=hostile.rngs)
def test_a_broken_file_is_imported_with_a_count_or_refused_by_name(
    engine: sa.Engine, tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("data")
    load, path = rng.choice([generic, generic, movielens, amazon])(rng, folder)
    before = rows(engine)
    try:
        report = load(engine, path, strict=rng.random() < 0.3)
    except ImportFailed as error:
        said = hostile.sentence(error)
        assert "\n" not in said, said
        known = {folder.name, path.name, *(one.name for one in folder.iterdir())}
        assert any(name in said for name in known), said
        assert rows(engine) == before
    else:
        assert report is not None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rows(engine: sa.Engine) -> list[int]:
    tables = ("public.items", "indexer.users", "indexer.interactions")
    with database.begin(engine) as connection:
        return [
            connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
            for table in tables
        ]


# -- encoders --------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["content", "retrievalformer"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderInfo:
    root = tmp_path_factory.mktemp("made")
    if request.param == "content":
        return films.trained(root)
    data = genre_world(fans=4, films=8, events=4).data
    config = {"width": 16, "epochs": 1}
    return train.train(request.param, data, str(root), config=config, threads=1)


@hostile.times(60)
@given(rng=hostile.rngs)
def test_a_broken_encoder_is_refused_by_name_whether_its_digests_agree_or_not(
    made: EncoderInfo, tmp_path_factory: pytest.TempPathFactory, rng: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("encoder") / "broken"
    shutil.copytree(made.uri, folder)
    spoil(rng, folder)
    try:
        artifact.describe(str(folder))
        encoder = artifact.load(str(folder))
    except EncoderError as error:
        hostile.sentence(error)
    else:  # then it is one: it reads items and users
        try:
            found = encoder.encode_items([ItemRecord(key="a", features={"year": 1990})])
            users = encoder.encode_users([UserState(features={}, history=[])])
        except EncoderError as error:
            hostile.sentence(error)
        else:
            assert len(users) == 1
            assert len(np.asarray(found.vectors[encoder.similar_vector])) == 1
    finally:
        shutil.rmtree(folder.parent)


def spoil(rng: random.Random, folder: Path) -> None:
    """Change some file; half the time as somebody who knows how digests are made."""
    manifest = json.loads((folder / artifact.MANIFEST).read_bytes())
    if rng.random() < 0.6:
        manifest = hostile.mutated(rng, manifest)
    else:
        name = rng.choice(list(manifest["files"]))
        raw = (folder / name).read_bytes()
        if name.endswith(".json") and rng.random() < 0.7:
            raw = as_json(hostile.mutated(rng, json.loads(raw)))
        else:
            raw = hostile.garbled(rng, raw)
        (folder / name).write_bytes(raw)
    seal(rng, folder, manifest)


def seal(rng: random.Random, folder: Path, manifest: Any) -> None:
    if not isinstance(manifest, dict) or rng.random() < 0.3:
        (folder / artifact.MANIFEST).write_bytes(as_json(manifest))
        return
    files = manifest.get("files")
    for name in list(files) if isinstance(files, dict) and rng.random() < 0.9 else ():
        try:
            files[name] = artifact._sha256(folder / name)
        except (OSError, ValueError):
            continue
    manifest.pop("id", None)
    try:
        sealed = {**manifest, "id": artifact._identity(manifest)}
        (folder / artifact.MANIFEST).write_bytes(artifact._canonical(sealed))
    except (ValueError, RecursionError, TypeError):
        (folder / artifact.MANIFEST).write_bytes(as_json(manifest))


def as_json(value: Any) -> bytes:
    try:
        return json.dumps(value).encode()
    except (ValueError, RecursionError):
        return b"[" * 100_000


@pytest.mark.parametrize(
    "uri", ["nope://x", "", "\0", "http://", "file://\0", "s3://", "a" * 5_000]
)
def test_an_address_of_no_encoder_is_refused_by_name(uri: str) -> None:
    with pytest.raises(EncoderError) as caught:
        artifact.load(uri)
    hostile.sentence(caught.value)


@pytest.mark.parametrize("name", ["../escaped", "/tmp/escaped", "a/../../b", ".hidden", "a\\b", ""])
def test_an_encoder_names_no_file_outside_its_folder(
    made: EncoderInfo, tmp_path: Path, name: str
) -> None:
    folder = Path(shutil.copytree(made.uri, tmp_path / "encoder"))
    manifest = json.loads((folder / artifact.MANIFEST).read_bytes())
    manifest["files"][name] = "0" * 64
    del manifest["id"]
    sealed = {**manifest, "id": artifact._identity(manifest)}
    (folder / artifact.MANIFEST).write_bytes(artifact._canonical(sealed))
    with pytest.raises(EncoderError, match="names no file by"):
        artifact.load(str(folder))
