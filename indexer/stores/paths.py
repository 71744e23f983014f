"""Names as the vector stores write them."""

from __future__ import annotations

import re

from indexer.errors import StoreRejected

PLAIN = re.compile(r"[A-Za-z0-9_-]+")
COLLECTION_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
NO_NAME = re.compile(r'\.{0,2}|.*[<>:"/\\|?*\x00-\x1f].*|.{256,}', re.DOTALL)  # Qdrant's own rule


def json_path(field: str) -> str:
    """A top-level payload field as a JSON path; names with dots, blanks or brackets are quoted."""
    if PLAIN.fullmatch(field):
        return field
    if not field or '"' in field or "\\" in field:
        raise StoreRejected(
            f"a payload field cannot be called {field!r}: rename it in the catalog."
        )
    return f'"{field}"'


def field_of(path: str) -> str:
    """The field that a JSON path made by `json_path` names."""
    return path[1:-1] if path.startswith('"') else path


def checked_name(name: str) -> str:
    """A name fit for a collection or an alias: it is a folder's name, and part of a URL."""
    if not COLLECTION_NAME.fullmatch(name):
        raise StoreRejected(
            f"{name!r} is no name for a collection or an alias: "
            "1 to 200 letters, digits, dots, hyphens and underscores, no leading dot."
        )
    return name


def can_exist(name: str) -> bool:
    """Whether a collection or an alias may have that name, whoever made it."""
    return not NO_NAME.fullmatch(name)
