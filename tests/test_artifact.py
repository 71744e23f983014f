"""Encoders on disk: whole or not at all, found by digest, never trusted when a byte differs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from worlds import genre_world

from encoders import artifact, families, train
from encoders.errors import ArtifactDamaged, ArtifactMissing, TrainingFailed, UnknownFamily
from encoders.types import Encoder, EncoderInfo

OPTIONS: dict[str, dict[str, object]] = {
    "content": {},
    "retrievalformer": {"width": 16, "epochs": 1, "text_as": "both"},
}


@pytest.fixture(scope="module", params=families.NAMES)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EncoderInfo:
    root = tmp_path_factory.mktemp("made")
    data = genre_world(fans=4, films=8, events=4).data
    return train.train(request.param, data, str(root), config=OPTIONS[request.param], threads=1)


@pytest.fixture
def copy(made: EncoderInfo, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made.uri, tmp_path / made.id))


def same(one: Encoder, other: Encoder) -> bool:
    items = genre_world(fans=1, films=8, events=4).data.items
    name = one.similar_vector
    return np.array_equal(
        np.asarray(one.encode_items(items).vectors[name]),
        np.asarray(other.encode_items(items).vectors[name]),
    )


def test_the_folder_is_named_by_the_digest(made: EncoderInfo) -> None:
    folder = Path(made.uri)
    assert folder.name == made.id
    assert len(made.id) >= 32
    assert (folder / "encoder.json").exists()
    assert not [path for path in folder.parent.iterdir() if path.name != made.id]


def test_describe_says_what_training_said_without_torch(made: EncoderInfo) -> None:
    assert artifact.describe(made.uri) == made
    code = (
        "import sys; from encoders import artifact; artifact.describe(sys.argv[1]);"
        "artifact.list_of(sys.argv[1] + '/..'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, made.uri], check=True)


def test_facts_and_metrics_are_kept(made: EncoderInfo) -> None:
    assert made.facts["items"] == 32
    assert made.facts["seed"] == 0
    assert "torch" in dict(made.facts["versions"])  # type: ignore[call-overload]
    assert 0 <= made.metrics["recall@20"] <= 1


def test_a_copy_elsewhere_is_the_same_encoder(made: EncoderInfo, copy: Path) -> None:
    info = artifact.describe(str(copy))
    assert (info.id, info.uri) == (made.id, str(copy))
    assert same(artifact.load(str(copy), expected_id=made.id), artifact.load(made.uri))
    renamed = copy.rename(copy.with_name("prod model"))
    assert artifact.describe(str(renamed)).id == made.id


def test_it_holds_no_pickle(made: EncoderInfo) -> None:
    kinds = {path.suffix for path in Path(made.uri).rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 0.999])
def test_one_changed_byte_in_any_file_is_noticed(
    made: EncoderInfo, copy: Path, place: float
) -> None:
    files = [path for path in copy.rglob("*") if path.is_file()]
    assert len(files) > 2
    for path in files:
        before = path.read_bytes()
        at = int(place * len(before))
        path.write_bytes(before[:at] + bytes([before[at] ^ 1]) + before[at + 1 :])
        with pytest.raises(ArtifactDamaged, match=rf"{path.name}.*damaged.*restore"):
            artifact.load(str(copy))
        path.write_bytes(before)
    artifact.load(str(copy))


def test_a_lost_file_is_noticed(made: EncoderInfo, copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors is gone"):
        artifact.load(str(copy))


def test_a_file_that_does_not_belong_is_noticed(made: EncoderInfo, copy: Path) -> None:
    (copy / "text" / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ArtifactDamaged, match=r"pytorch_model\.bin does not belong"):
        artifact.load(str(copy))
    (copy / "text" / "pytorch_model.bin").unlink()
    (copy / ".DS_Store").write_bytes(b"x")  # a file manager's, read by nobody
    artifact.load(str(copy))


def test_another_encoder_than_expected_is_refused(made: EncoderInfo, copy: Path) -> None:
    with pytest.raises(ArtifactDamaged, match=f"holds encoder {made.id}, not 00000"):
        artifact.load(str(copy), expected_id="00000")
    copy.rename(copy.with_name("0" * artifact.ID_DIGITS))
    with pytest.raises(ArtifactDamaged, match=made.id):
        artifact.load(str(copy.with_name("0" * artifact.ID_DIGITS)))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"id": 3}', b"null"])
def test_a_manifest_that_is_none_is_damaged(made: EncoderInfo, copy: Path, content: bytes) -> None:
    (copy / "encoder.json").write_bytes(content)
    with pytest.raises(ArtifactDamaged, match=r"encoder\.json is damaged"):
        artifact.describe(str(copy))


def resealed(folder: Path, **changes: object) -> str:
    """The folder's address after its manifest was changed by someone who can count digests."""
    manifest = json.loads((folder / "encoder.json").read_bytes())
    manifest.pop("id")
    manifest.update(changes)
    identity = artifact._identity(manifest)
    target = folder.rename(folder.with_name(identity))
    (target / "encoder.json").write_bytes(artifact._canonical({**manifest, "id": identity}))
    return str(target)


def test_a_family_of_another_release_is_refused(made: EncoderInfo, copy: Path) -> None:
    with pytest.raises(UnknownFamily, match=r"'os\.system'.*content, retrievalformer"):
        artifact.load(resealed(copy, family="os.system"))


def test_a_format_of_another_release_is_refused(made: EncoderInfo, copy: Path) -> None:
    with pytest.raises(UnknownFamily, match="format 99"):
        artifact.describe(resealed(copy, format=99))


def test_nothing_there_is_a_clear_error(tmp_path: Path) -> None:
    for uri in (tmp_path, tmp_path / "nothing", f"file://{tmp_path}/nothing"):
        with pytest.raises(ArtifactMissing, match=r"no encoder at .*: it has no encoder\.json"):
            artifact.load(str(uri))


def test_saving_again_changes_nothing(made: EncoderInfo, tmp_path: Path) -> None:
    encoder = artifact.load(made.uri)
    first = artifact.save(encoder, str(tmp_path), facts={}, metrics={})
    again = artifact.save(encoder, str(tmp_path), facts={}, metrics={})
    assert same(artifact.load(first.uri), artifact.load(again.uri))
    assert len(artifact.list_of(str(tmp_path))) == len({first.id, again.id})


def test_saving_from_many_threads_leaves_whole_folders_only(
    made: EncoderInfo, tmp_path: Path
) -> None:
    encoders = [artifact.load(made.uri) for _ in range(4)]
    threads = [
        threading.Thread(
            target=artifact.save, args=(e, str(tmp_path)), kwargs={"facts": {}, "metrics": {}}
        )
        for e in encoders
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for info in artifact.list_of(str(tmp_path)):
        artifact.load(info.uri)
    assert not list(tmp_path.glob(".*"))


def test_a_failing_save_leaves_nothing(
    made: EncoderInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(_: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(artifact, "_fsync", full_disk)
    with pytest.raises(OSError, match="disk full"):
        artifact.save(artifact.load(made.uri), str(tmp_path), facts={}, metrics={})
    assert not list(tmp_path.iterdir())


def test_the_list_is_by_age_and_leaves_out_what_cannot_be_read(
    made: EncoderInfo, copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = copy.parent
    newer = artifact.save(artifact.load(str(copy)), str(root), facts={"n": 2}, metrics={})
    (root / "notes").mkdir()
    (root / ("a" * artifact.ID_DIGITS)).mkdir()
    assert [info.id for info in artifact.list_of(str(root))] == [made.id, newer.id]
    assert "aaaa" in caplog.text
    assert artifact.list_of(str(root / "nowhere")) == []


@pytest.fixture
def bucket() -> Iterator[str]:
    uri = f"memory://{uuid.uuid4().hex}"
    yield uri
    fsspec.filesystem("memory").rm(uri, recursive=True)


def test_a_bucket_holds_encoders_and_a_cache_keeps_copies(
    made: EncoderInfo, bucket: str, tmp_path: Path
) -> None:
    encoder = artifact.load(made.uri)
    info = artifact.save(encoder, bucket, facts={}, metrics={})
    assert [one.id for one in artifact.list_of(bucket)] == [info.id]
    assert info.uri == f"{bucket}/{info.id}"
    assert same(artifact.load(info.uri, expected_id=info.id, cache_dir=tmp_path), encoder)
    assert [path.name for path in tmp_path.iterdir()] == [info.id]

    weights = tmp_path / info.id / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert same(artifact.load(info.uri, cache_dir=tmp_path), encoder)  # the copy is made anew


def test_damage_in_a_bucket_is_noticed(made: EncoderInfo, bucket: str, tmp_path: Path) -> None:
    info = artifact.save(artifact.load(made.uri), bucket, facts={}, metrics={})
    files = fsspec.filesystem("memory")
    files.pipe_file(f"{info.uri}/model.safetensors", b"nonsense")
    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors is damaged"):
        artifact.load(info.uri, cache_dir=tmp_path)
    files.rm(f"{info.uri}/model.safetensors")
    with pytest.raises(ArtifactDamaged, match=r"model\.safetensors is gone"):
        artifact.load(info.uri, cache_dir=tmp_path)


def test_unknown_families_and_options_are_clear_errors() -> None:
    with pytest.raises(UnknownFamily, match="knows content, retrievalformer"):
        families.get("nonsense")
    with pytest.raises(TrainingFailed, match=r"no option 'depth'; it has .*width"):
        families.configure("retrievalformer", {"depth": 3})
    with pytest.raises(TrainingFailed, match="'width' must be int, not 'wide'"):
        families.configure("retrievalformer", {"width": "wide"})
    with pytest.raises(TrainingFailed, match="multiple of heads"):
        families.configure("retrievalformer", {"width": 63})
    assert families.configure("content", {"half_life": 3}).half_life == 3.0  # type: ignore[attr-defined]
