"""Documents from outside, looked at before anything walks them: how deep, how many, what text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from indexer import wording

INTEGER_MAX = 2**31 - 1  # what PostgreSQL's integer holds


def check(value: object, *, depth_max: int, place: str = "body", nul: bool = True) -> int:
    """Raises ValueError, with its place, for a lone surrogate, for NUL unless `nul` allows it, and
    for nesting beyond `depth_max`. Returns how many values there are, on all levels."""
    parts = 0
    waiting: list[tuple[object, str, int]] = [(value, place, 0)]
    while waiting:
        part, where, depth = waiting.pop()
        parts += 1
        if depth > depth_max:
            raise ValueError(f"nested more than {depth_max} levels deep")
        if isinstance(part, str):
            _check_text(part, where, nul)
        elif isinstance(part, Mapping):
            mapping = cast("Mapping[object, object]", part)
            for name in mapping:
                if isinstance(name, str):
                    _check_text(name, f"a name in {where}", nul)
            waiting += [
                (each, f"{where}.{wording.line(name)}", depth + 1) for name, each in mapping.items()
            ]
        elif isinstance(part, list | tuple):
            listed = cast("list[object]", part)
            waiting += [(one, f"{where}[{i}]", depth + 1) for i, one in enumerate(listed)]
    return parts


def _check_text(text: str, where: str, nul: bool) -> None:
    if not nul and "\0" in text:
        raise ValueError(f"{where} holds NUL, which PostgreSQL cannot")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{where} holds half of a surrogate pair, which is no text") from None
