"""Values on their way in: keys, text, numbers, times, titles. Nothing is lost without a count."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import cast

from indexer.importing.report import Job

KEY_BYTES = 1_000  # PostgreSQL's index rows end at 2,700 bytes
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SURROGATE = re.compile("[\ud800-\udfff]")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

# An article that a catalogue of titles moves to the end.
ARTICLES = "The|A|An|Il|Lo|La|Le|Les|L'|Der|Die|Das|El|Los|Las|Un|Une|Den|Det"
MOVED_ARTICLE = re.compile(rf"^(?P<rest>.+), (?P<article>{ARTICLES})$")
UNIX_TIME = re.compile(r"\s*[+-]?\d+(\.\d*)?([eE]\+?\d+)?\s*", re.ASCII)
YEAR = re.compile(
    r"\s*\((?P<year>(?:18|19|20)\d\d)(?:[-–](?:\d{4})?)?\)\s*(?:\((?:V|TV|mini)\))?\s*$"
)
OTHER_TITLES = re.compile(r"(?P<main>.*?)(?P<others>(?:\s*\([^()]+\))*)")
OTHER_TITLE = re.compile(r"\(([^()]+)\)")


class BadValue(ValueError):
    """A value that its row cannot do without is not usable; the message says why."""


def key(value: object) -> str:
    """The value as a key: text without blanks around it; whole numbers by their digits."""
    if isinstance(value, str):
        return _text_key(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # pandas writes whole numbers with gaps as floats
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadValue("the key is missing" if value is None else "the key is not text or a number")
    return str(value)


@lru_cache(maxsize=100_000)  # files of events name the same few keys again and again
def _text_key(value: str) -> str:
    text = value.strip()
    if not text:
        raise BadValue("the key is missing")
    if UNSTORABLE.search(text):
        raise BadValue("the key holds a NUL or half a surrogate pair")
    if len(text.encode()) > KEY_BYTES:
        raise BadValue(f"the key is longer than {KEY_BYTES} bytes")
    return text


def text(value: str, job: Job) -> str:
    """The text as PostgreSQL can hold it: no NUL, no half of a surrogate pair."""
    if not UNSTORABLE.search(value):
        return value
    if "\x00" in value:
        job.mend("NUL characters were taken out of a text")
    if SURROGATE.search(value):
        job.mend("half a surrogate pair in a text became U+FFFD")
    return SURROGATE.sub("�", value.replace("\x00", ""))


def storable(value: object, job: Job) -> object:
    """The value as jsonb can hold it, whatever it is made of; NaN and infinity become None."""
    if isinstance(value, str):
        return text(value, job)
    if isinstance(value, float) and not math.isfinite(value):
        job.mend("a number that is not finite became null")
        return None
    if isinstance(value, Mapping):
        pairs = cast("Mapping[object, object]", value).items()
        return {text(str(name), job): storable(one, job) for name, one in pairs}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [storable(one, job) for one in cast("Sequence[object]", value)]
    return _plain(value, job)


def _plain(value: object, job: Job) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, Decimal):
        return storable(float(value), job)
    if isinstance(value, bytes | bytearray):
        return text(bytes(value).decode(errors="replace"), job)
    return text(str(value), job)


def number(value: object) -> float | None:
    """The value as a finite number, None where there is none."""
    if value is None or value == "":
        return None
    try:
        found = float(cast("str", value))
    except (TypeError, ValueError, OverflowError):
        raise BadValue("the value is not a number") from None
    if not math.isfinite(found):
        raise BadValue("the value is not finite")
    return found


def price(value: object) -> float | None:
    """A price out of a number, or out of text such as "$1,299.00"; None where it says none."""
    if isinstance(value, str):
        found = re.fullmatch(r"[^\d\-.,]*(\d[\d,]*(?:\.\d+)?)[^\d]*", value.strip())
        return float(found.group(1).replace(",", "")) if found else None
    return None if isinstance(value, bool) or value is None else number(value)


def moment(value: object) -> datetime:
    """A time: Unix seconds (or milli-, micro-, nanoseconds, told by their size) as exact integers,
    ISO 8601 text, or a datetime; UTC where no zone is given. Never by way of a float."""
    try:
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, date):
            return datetime(value.year, value.month, value.day, tzinfo=UTC)
        if isinstance(value, str) and not UNIX_TIME.fullmatch(value):
            parsed = datetime.fromisoformat(value.strip())
            return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            return EPOCH + timedelta(microseconds=microseconds(str(value)))
    except (ValueError, ArithmeticError):  # decimal raises its own Overflow
        pass
    if value is None or value == "":
        raise BadValue("the time is missing")
    raise BadValue("the time is neither Unix time nor ISO 8601")


def microseconds(digits: str) -> int:
    """Unix microseconds out of decimal digits that mean s, ms, us or ns by their size."""
    if len(digits) <= 11 and digits.isdecimal():
        return int(digits) * 1_000_000
    exact = Decimal(digits)
    size = abs(exact)
    if size >= Decimal(10) ** 20:
        raise OverflowError(f"{digits} is no time")
    if size < Decimal(10) ** 11:  # seconds until the year 5138
        return int(exact * 1_000_000)
    if size < Decimal(10) ** 14:
        return int(exact * 1_000)
    return int(exact) if size < Decimal(10) ** 17 else int(exact / 1_000)


def film(title: str) -> tuple[str, int | None]:
    """("The Matrix", 1999) for "Matrix, The (1999)"; the year is None where the title has none.
    Other titles in brackets stay, their articles put right as well."""
    found = YEAR.search(title)
    bare = title[: found.start()] if found else title.strip()
    parts = OTHER_TITLES.fullmatch(bare)
    main, others = (parts["main"], parts["others"]) if parts else (bare, "")
    titles = [_article_first(main)]
    titles += [f"({_article_first(other)})" for other in OTHER_TITLE.findall(others)]
    return " ".join(filter(None, titles)), int(found["year"]) if found else None


def _article_first(title: str) -> str:
    found = MOVED_ARTICLE.match(title.strip())
    if not found:
        return title.strip()
    article = found["article"]
    return f"{article}{'' if article.endswith(chr(39)) else ' '}{found['rest']}"


def year(value: object) -> int | None:
    """A year between 1800 and 2200, None for anything else."""
    found = re.fullmatch(r"\s*(\d{4})(?:\.0)?\s*", str(value))
    return int(found.group(1)) if found and 1800 <= int(found.group(1)) <= 2200 else None
