"""Files to read from: in a folder, in a zip archive (a wheel is one), plain or gzip-compressed."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, cast

from indexer.errors import ImportFailed

DAMAGED = (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, EOFError)


@dataclass(kw_only=True)
class Source:
    """A file of bytes. `position` says how much of `size` has been read by the latest reader."""

    path: Path
    member: str | None = None
    size: int = 0
    _raw: IO[bytes] | None = None
    _read: int = 0

    @property
    def name(self) -> str:
        """For messages."""
        return str(self.path) if self.member is None else f"{self.path}:{self.member}"

    @property
    def file_name(self) -> str:
        return PurePosixPath(self.member).name if self.member else self.path.name

    @property
    def stem(self) -> str:
        """The name without ".gz": what says which format it is."""
        return self.file_name.removesuffix(".gz")

    def position(self) -> int:
        if self._raw is None:
            return self.size
        return self._read if self.member else self._raw.tell()

    def lines(self) -> Iterator[bytes]:
        """Its lines, each with its end. Raises ImportFailed when the file cannot be read."""
        try:
            yield from self._lines()
        except DAMAGED as cause:
            raise ImportFailed(f"{self.name} is damaged: {cause}. Fetch it again.") from cause
        except OSError as cause:
            raise ImportFailed(f"{self.name} cannot be read: {cause.strerror}.") from cause
        finally:
            self._raw = None

    def text(self, encoding: str) -> Iterator[str]:
        """Its lines as text, ends untouched. Raises ImportFailed at the first line that is not in
        that encoding."""
        if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")):
            yield from self._wide_text(encoding)
            return
        for number, line in enumerate(self.lines(), start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
            except UnicodeDecodeError as cause:
                raise ImportFailed(
                    f"{self.name}, line {number}: byte {cause.start + 1} is not {encoding}. "
                    "Say which encoding it is, for instance --encoding latin-1."
                ) from cause

    def encoding(self) -> str:
        """utf-8 (with or without mark), utf-16 by its mark, or latin-1 where neither fits."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for number, line in enumerate(self.lines()):
                if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    return "utf-16"
                decoder.decode(line)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return "latin-1"
        return "utf-8"

    def read(self) -> bytes:
        return b"".join(self.lines())

    def _lines(self) -> Iterator[bytes]:
        if self.member is not None:
            self._read = 0
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                self._raw = stream
                for line in _unzipped(stream, self.file_name):
                    self._read += len(line)
                    yield line
            return
        with self.path.open("rb") as stream:
            self._raw = stream
            yield from _unzipped(stream, self.file_name)

    def _wide_text(self, encoding: str) -> Iterator[str]:
        try:
            text = self.read().decode(encoding)
        except UnicodeDecodeError as cause:
            raise ImportFailed(f"{self.name}: byte {cause.start + 1} is not {encoding}.") from cause
        yield from io.StringIO(text, newline="")


def _unzipped(stream: IO[bytes], file_name: str) -> Iterator[bytes]:
    if not file_name.endswith(".gz"):
        yield from stream
        return
    with gzip.GzipFile(fileobj=stream) as plain:
        yield from cast("IO[bytes]", plain)


def file(path: Path) -> Source:
    """One file. Raises ImportFailed when there is none."""
    if path.is_dir():
        raise ImportFailed(f"{path} is a folder. Name the file in it.")
    if not path.is_file():
        raise ImportFailed(f"{path}: there is no such file.")
    return Source(path=path, size=path.stat().st_size)


def folder(path: Path) -> list[Source]:
    """What lies in a folder and its subfolders (two deep), in a zip archive, or beside a file.
    Raises ImportFailed when there is nothing there."""
    if not path.exists():
        raise ImportFailed(f"{path}: there is no such file or folder.")
    if path.is_dir():
        return _folder(path)
    if zipfile.is_zipfile(path):
        return _archive(path)
    if path.suffix in {".zip", ".whl"}:
        raise ImportFailed(f"{path} is not a zip archive, or is damaged. Fetch it again.")
    return _folder(path.parent)


def _folder(path: Path) -> list[Source]:
    patterns = ("*", "*/*", "*/*/*")
    found = [child for pattern in patterns for child in sorted(path.glob(pattern))]
    return [file(child) for child in found if child.is_file()]


def _archive(path: Path) -> list[Source]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = [entry for entry in archive.infolist() if not entry.is_dir()]
    except zipfile.BadZipFile as cause:
        raise ImportFailed(f"{path} is damaged: {cause}. Fetch it again.") from cause
    members.sort(key=lambda entry: (entry.filename.count("/"), entry.filename))
    return [Source(path=path, member=one.filename, size=one.file_size) for one in members]
