"""The files around Qdrant Edge: who holds the directory, what a collection is, what aliases name.

Everything is replaced by writing a new file, fsync, rename, fsync of the folder: a crash leaves
the old or the new, never half.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from encoders.types import VectorSpec
from indexer.errors import StoreError, StoreLocked, StoreUnavailable
from indexer.filters import FieldKind
from indexer.stores import Collection, CollectionSpec

FORMAT = 1


class DirectoryLock:
    """This process holds the directory until `release`, or until it dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        path = folder / "lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as cause:
            raise StoreUnavailable(
                f"Qdrant Edge cannot use {folder}: {cause.strerror}. Set data_dir to a folder "
                "that this user may write to."
            ) from cause
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            os.close(self._descriptor)
            raise StoreLocked(_held_message(folder, path)) from cause
        self._sign()

    def _sign(self) -> None:
        holder = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": " ".join(sys.argv)[:200],
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(holder).encode(), 0)

    def release(self) -> None:
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1


def _held_message(folder: Path, path: Path) -> str:
    try:
        holder = json.loads(path.read_text())
        who = (
            f"process {holder['pid']} on {holder['host']} "
            f"({holder['command']}) since {holder['since']}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        who = "another process"
    return (
        f"the vector store in {folder} is held by {who}. Qdrant Edge belongs to one process: "
        "stop that one, talk to it over HTTP, or set qdrant_url to use a server."
    )


def replace_json(path: Path, content: Mapping[str, object]) -> None:
    """The file has this content, durably; readers see the old or the new, never half."""
    fresh = path.with_name(path.name + ".new")
    try:
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        sync(path.parent)
    except OSError as cause:
        raise StoreUnavailable(f"cannot write {path}: {cause.strerror}.") from cause


def remove(path: Path) -> None:
    """The file is gone, durably."""
    path.unlink(missing_ok=True)
    sync(path.parent)


def sync_files(folder: Path) -> None:
    """The files in this folder and below are durable, those that are mapped into memory too."""
    for path in (*folder.rglob("*"), folder):
        sync(path)


def sync(path: Path) -> None:
    """The file, or the folder's list of files, is durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path) -> dict[str, Any]:
    """The file's content; {} when there is none. Raises StoreError when it cannot be read."""
    try:
        content: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as cause:
        raise StoreError(
            f"{path} cannot be read: {cause}. Restore it, or remove its collection and reindex."
        ) from cause
    if not isinstance(content, dict):
        raise StoreError(f"{path} is not what we wrote. Restore it, or remove it and reindex.")
    return cast("dict[str, Any]", content)


def spec_to_json(spec: CollectionSpec) -> dict[str, object]:
    return {
        "format": FORMAT,
        "name": spec.collection.name,
        "catalog": spec.collection.catalog,
        "vectors": [{"name": one.name, "dimension": one.dimension} for one in spec.vectors],
        "fields": dict(spec.fields),
        "metadata": dict(spec.metadata),
    }


def spec_from_json(content: Mapping[str, Any]) -> CollectionSpec:
    if content["format"] != FORMAT:
        raise StoreError(
            f"collection {content['name']!r} has format {content['format']}, this release reads "
            f"{FORMAT}. Upgrade twinspan, or reindex."
        )
    return CollectionSpec(
        collection=Collection(name=content["name"], catalog=content["catalog"]),
        vectors=tuple(
            VectorSpec(name=one["name"], dimension=one["dimension"]) for one in content["vectors"]
        ),
        fields=cast("dict[str, FieldKind]", dict(content["fields"])),
        metadata=dict(content["metadata"]),
    )
