"""An encoder on disk or in a bucket: a folder named by the digest of what it holds.

`root/<id>/encoder.json` says everything that is known of the encoder and lists every other file
with its SHA-256; the id is the SHA-256 of that text (its first 40 hex digits), so it covers all
names and contents. `encoder.json` is written in one canonical form and must be found in it: a
changed byte anywhere is noticed. Folders appear whole (written aside, then renamed; in a bucket
`encoder.json` comes last). Any fsspec address will do; what is remote is kept in a local cache
by id. Nothing here imports torch until an encoder is loaded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast, get_args

import fsspec  # pyright: ignore[reportMissingTypeStubs]  # it ships none
from fsspec.implementations.local import (  # pyright: ignore[reportMissingTypeStubs]
    LocalFileSystem,
)

from encoders import families
from encoders.errors import ArtifactDamaged, ArtifactMissing, EncoderError, UnknownFamily
from encoders.families import StorableEncoder
from encoders.types import Encoder, EncoderInfo, Feature, FeatureKind, HistoryNeeds, VectorSpec

FORMAT = 1
MANIFEST = "encoder.json"
ID_DIGITS = 40
_ID = re.compile(rf"[0-9a-f]{{{ID_DIGITS}}}")
_REMEDY = "restore the folder from a copy or train again"

log = logging.getLogger(__name__)


def save(
    encoder: Encoder,
    root_uri: str,
    *,
    facts: Mapping[str, object],
    metrics: Mapping[str, float],
) -> EncoderInfo:
    """The encoder lies whole under root/<id>; the same content saved twice is there once."""
    if not isinstance(encoder, StorableEncoder):
        raise UnknownFamily(f"an encoder of family {encoder.family!r} cannot be stored")
    filesystem, root = _open(root_uri)
    with tempfile.TemporaryDirectory(prefix="twinspan-encoder-") as scratch:
        folder = Path(scratch) / "encoder"
        folder.mkdir()
        encoder.write(folder)
        manifest = _manifest(encoder, folder, facts=facts, metrics=metrics)
        identity = _identity(manifest)
        (folder / MANIFEST).write_bytes(_canonical({**manifest, "id": identity}))
        _publish(folder, filesystem, root, identity)
    return describe(f"{root_uri.rstrip('/')}/{identity}")


def describe(uri: str) -> EncoderInfo:
    """What `encoder.json` says, after checking that it says what was written. Raises
    ArtifactMissing, ArtifactDamaged or UnknownFamily; imports no torch."""
    return _info(_read_manifest(*_open(uri), uri), uri)


def load(
    uri: str,
    *,
    expected_id: str | None = None,
    device: str = "cpu",
    cache_dir: Path | None = None,
) -> Encoder:
    """The encoder, every file of it checked against its digest. `cache_dir` keeps local copies
    of remote encoders; None means the user's cache folder."""
    filesystem, path = _open(uri)
    manifest = _read_manifest(filesystem, path, uri)
    info = _info(manifest, uri)
    if expected_id is not None and info.id != expected_id:
        raise ArtifactDamaged(
            f"{uri} holds encoder {info.id}, not {expected_id}: give the address of the latter"
        )
    folder = _local_folder(filesystem, path, manifest, cache_dir or _default_cache())
    _check_files(folder, manifest)
    families.require_device(device)
    try:
        return families.get(info.family).read(
            folder,
            config=families.configure(info.family, manifest["config"]),
            item_features=info.item_features,
            user_features=info.user_features,
            device=device,
        )
    except EncoderError:
        raise
    except Exception as cause:  # whole, as its digests say, but not what this family writes
        raise ArtifactDamaged(
            f"encoder {info.id} at {uri} is not what family {info.family!r} of this release "
            f"reads ({type(cause).__name__}: {cause}): {_REMEDY}, or use the release that wrote it"
        ) from cause


def list_of(root_uri: str) -> list[EncoderInfo]:
    """The encoders under a root, oldest first. One that cannot be read is logged and left out."""
    filesystem, root = _open(root_uri)
    if not filesystem.isdir(root):
        return []
    found: list[EncoderInfo] = []
    for path in sorted(cast("list[str]", filesystem.ls(root, detail=False))):
        name = path.rstrip("/").rpartition("/")[2]
        if _ID.fullmatch(name) is None:
            continue
        try:
            found.append(describe(f"{root_uri.rstrip('/')}/{name}"))
        except (ArtifactMissing, ArtifactDamaged, UnknownFamily) as problem:
            log.warning("left out of the list: %s", problem)
    return sorted(found, key=lambda info: (info.created_at, info.id))


def _open(uri: str) -> tuple[Any, str]:
    try:
        filesystem, path = cast("tuple[Any, str]", cast(Any, fsspec).url_to_fs(str(uri)))
    except (ValueError, ImportError) as cause:  # no such scheme; its package is not installed
        raise ArtifactMissing(f"no encoder can lie at {str(uri)[:200]!r}: {cause}") from cause
    return filesystem, path.rstrip("/")


def _manifest(
    encoder: StorableEncoder,
    folder: Path,
    *,
    facts: Mapping[str, object],
    metrics: Mapping[str, float],
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "family": encoder.family,
        "config": dataclasses.asdict(cast(Any, encoder.config)),
        "vectors": [dataclasses.asdict(vector) for vector in encoder.vectors],
        "item_features": [dataclasses.asdict(feature) for feature in encoder.item_features],
        "user_features": [dataclasses.asdict(feature) for feature in encoder.user_features],
        "history": dataclasses.asdict(encoder.history),
        "facts": dict(facts),
        "metrics": dict(metrics),
        "created_at": datetime.now(UTC).isoformat(),
        "files": {name: _sha256(folder / name) for name in _names_in(folder)},
    }


def _names_in(folder: Path) -> list[str]:
    """Every visible file but the manifest, with / between folders."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(
        path.as_posix()
        for path in files
        if path.as_posix() != MANIFEST and not any(part.startswith(".") for part in path.parts)
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _canonical(manifest: Mapping[str, object]) -> bytes:
    return (json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def _identity(manifest: Mapping[str, object]) -> str:
    return hashlib.sha256(_canonical(manifest)).hexdigest()[:ID_DIGITS]


def _publish(folder: Path, filesystem: Any, root: str, identity: str) -> None:
    target = f"{root}/{identity}"
    if filesystem.exists(f"{target}/{MANIFEST}"):
        return
    if isinstance(filesystem, LocalFileSystem):
        _place(folder, Path(target))
        return
    for name in (*_names_in(folder), MANIFEST):
        filesystem.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.put_file(str(folder / name), f"{target}/{name}")


def _place(folder: Path, target: Path) -> None:
    """A copy of the folder is at the target, all of it or nothing, safe on disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
    try:
        copy = shutil.copytree(folder, aside / "encoder")
        for path in copy.rglob("*"):
            if path.is_file():
                _fsync(path)
        try:
            copy.rename(target)
        except OSError:
            if not (target / MANIFEST).exists():  # else another process was as fast
                raise
        _fsync(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read_manifest(filesystem: Any, path: str, uri: str) -> dict[str, Any]:
    try:
        raw = cast(bytes, filesystem.cat_file(f"{path}/{MANIFEST}"))
    except (OSError, ValueError) as cause:  # not there, not to be read, no name at all
        raise ArtifactMissing(
            f"no encoder at {uri[:500]}: it has no {MANIFEST}; check the address or train one"
        ) from cause
    damaged = ArtifactDamaged(f"{uri}/{MANIFEST} is damaged: {_REMEDY}")
    try:
        manifest = json.loads(raw)
        if not isinstance(manifest, dict) or raw != _canonical(cast("dict[str, Any]", manifest)):
            raise damaged
    except (ValueError, RecursionError) as cause:
        raise damaged from cause
    manifest = cast("dict[str, Any]", manifest)
    if manifest.pop("id", None) != _identity(manifest):
        raise damaged
    name = path.rpartition("/")[2]
    if _ID.fullmatch(name) and name != _identity(manifest):
        raise ArtifactDamaged(f"{uri} holds encoder {_identity(manifest)}: {_REMEDY}")
    if manifest.get("format") != FORMAT:
        raise UnknownFamily(
            f"{uri} has format {str(manifest.get('format'))[:20]}, this release reads {FORMAT}: "
            "upgrade twinspan"
        )
    _check_names(manifest.get("files"), uri)
    return manifest


def _check_names(files: object, uri: str) -> None:
    """Every file lies inside the folder: what a bucket says must not write elsewhere."""
    names = cast("dict[object, object]", files) if isinstance(files, dict) else {None: None}
    for name, digest in names.items():
        parts = name.split("/") if isinstance(name, str) else []
        inside = parts and all(part and not part.startswith(".") for part in parts)
        if not inside or "\0" in str(name) or "\\" in str(name) or not isinstance(digest, str):
            raise ArtifactDamaged(f"{uri}/{MANIFEST} names no file by {str(name)[:100]!r}")


def _info(manifest: Mapping[str, Any], uri: str) -> EncoderInfo:
    if manifest.get("family") not in families.NAMES:
        raise UnknownFamily(
            f"{uri} is of family {str(manifest.get('family'))[:50]!r}; "
            f"this release knows {', '.join(families.NAMES)}: upgrade twinspan"
        )
    try:
        return _info_of(manifest, uri)
    except (KeyError, TypeError, ValueError, AttributeError) as cause:
        raise ArtifactDamaged(
            f"{uri}/{MANIFEST} does not describe an encoder ({type(cause).__name__}: "
            f"{str(cause)[:200]}): {_REMEDY}"
        ) from cause


def _info_of(manifest: Mapping[str, Any], uri: str) -> EncoderInfo:
    history = manifest["history"]
    return EncoderInfo(
        id=_identity(manifest),
        family=manifest["family"],
        uri=uri,
        vectors=_vectors(manifest["vectors"]),
        item_features=_features(manifest["item_features"]),
        user_features=_features(manifest["user_features"]),
        history=HistoryNeeds(
            vectors=_texts(history["vectors"]),
            payload=_texts(history["payload"]),
            limit=_positive(history["limit"]),
        ),
        facts=dict(manifest["facts"].items()),
        metrics=dict(manifest["metrics"].items()),
        created_at=datetime.fromisoformat(manifest["created_at"]),
    )


def _vectors(described: list[dict[str, Any]]) -> tuple[VectorSpec, ...]:
    found = tuple(VectorSpec(**vector) for vector in described)
    _texts([vector.name for vector in found])
    for vector in found:
        if vector.dimension is not None:
            _positive(vector.dimension)
    if not found:
        raise ValueError("no vectors")
    return found


def _features(described: list[dict[str, str]]) -> tuple[Feature, ...]:
    names = _texts([one["name"] for one in described])
    for one in described:
        if one["kind"] not in get_args(FeatureKind):
            raise ValueError(f"no kind of feature: {one['kind']!r}")
    return tuple(
        Feature(name=name, kind=cast(FeatureKind, one["kind"]))
        for name, one in zip(names, described, strict=True)
    )


def _texts(names: object) -> tuple[str, ...]:
    listed = cast("list[object]", names)
    if not isinstance(names, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError("a list of names is something else")
    return tuple(cast("list[str]", names))


def _positive(number: object) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number < 2**31:
        raise ValueError("a whole number is none, or too small or large")
    return number


def _local_folder(filesystem: Any, path: str, manifest: Mapping[str, Any], cache_dir: Path) -> Path:
    if isinstance(filesystem, LocalFileSystem):
        return Path(path)
    target = cache_dir / _identity(manifest)
    if target.exists():
        try:
            _check_files(target, manifest)
        except ArtifactDamaged:  # a spoilt copy: fetch it again
            shutil.rmtree(target)
        else:
            return target
    with tempfile.TemporaryDirectory(prefix="twinspan-encoder-") as scratch:
        for name in (*manifest["files"], MANIFEST):
            local = Path(scratch) / name
            local.parent.mkdir(parents=True, exist_ok=True)
            _fetch(filesystem, f"{path}/{name}", local)
        _place(Path(scratch), target)
    return target


def _fetch(filesystem: Any, remote: str, local: Path) -> None:
    try:
        filesystem.get_file(remote, str(local))
    except FileNotFoundError as cause:
        raise ArtifactDamaged(f"{remote} is gone: {_REMEDY}") from cause


def _check_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    wanted = cast("dict[str, str]", manifest["files"])
    for name, digest in wanted.items():
        path = folder / name
        if not path.is_file():
            raise ArtifactDamaged(f"encoder {_identity(manifest)}: {path} is gone: {_REMEDY}")
        if _sha256(path) != digest:
            raise ArtifactDamaged(f"encoder {_identity(manifest)}: {path} is damaged: {_REMEDY}")
    strangers = set(_names_in(folder)) - set(wanted)
    if strangers:
        raise ArtifactDamaged(
            f"encoder {_identity(manifest)}: {folder / min(strangers)} does not belong to it: "
            "remove that file"
        )


def _default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "twinspan" / "encoders"
