"""Log lines: text for a person, or one JSON object a line for a machine; secrets masked in both.

A record's `facts` (`log.info(..., extra=logs.facts(index=3))`) are fields of the object: text lines
say the same in their message.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from indexer.settings import Settings

TEXT = "%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"
MASK = "********"
SHORTEST = 4  # characters of a secret that is looked for: shorter ones are words

_CREDENTIALS = re.compile(r"(?<=://)([^\s/:@]*):[^\s/@]+@")


def facts(**values: object) -> dict[str, Mapping[str, object]]:
    """`extra` of a record: its fields, for machines."""
    return {"facts": values}


def formatter(settings: Settings) -> logging.Formatter:
    """That of the setting log_format."""
    kind = JsonLines if settings.log_format == "json" else TextLines
    return kind(secrets_of(settings))


def secrets_of(settings: Settings) -> set[str]:
    """What must not be in a line: secret settings, and the passwords in those that are addresses,
    as they stand there and decoded."""
    found: set[str] = set()
    for name in type(settings).model_fields:
        value: object = getattr(settings, name)
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            password = _password(secret)
            found |= {password, unquote(password)} if "://" in secret else {secret}
    return {secret for secret in found if len(secret) >= SHORTEST}


class TextLines(logging.Formatter):
    """A line, and a traceback where there is one."""

    def __init__(self, secrets: Collection[str] = ()) -> None:
        super().__init__(TEXT)
        self._secrets = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        return self.masked(super().format(record))

    def masked(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return _CREDENTIALS.sub(rf"\1:{MASK}@", text)


class JsonLines(TextLines):
    """One object: at, level, logger, process, message, the facts, and `traceback` where there is
    one."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            said["traceback"] = self.formatException(record.exc_info)
        return json.dumps(self._masked_value(said), default=str)

    def _masked_value(self, value: Any) -> Any:
        """Masked before it is JSON: afterwards a secret may be spelled in escapes."""
        if isinstance(value, str):
            return self.masked(value)
        if isinstance(value, Mapping):
            return {str(key): self._masked_value(one) for key, one in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        if isinstance(value, list | tuple):
            return [self._masked_value(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        return value


def _password(address: str) -> str:
    try:
        return urlsplit(address).password or ""
    except ValueError:
        return ""
