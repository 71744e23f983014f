"""The variables `TWINSPAN_*`: secrets out of the files that they name, and none misspelt."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from indexer import wording
from indexer.errors import SettingsError

PREFIX = "TWINSPAN_"
OTHERS = ("TWINSPAN_TEST_", "TWINSPAN_FAULTS")  # variables of our own tests
DATA_SETS = "TWINSPAN_DATA"  # a folder that tests and benchmarks read


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets out of the files that `TWINSPAN_<NAME>_FILE` names."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The file's content without its last line's end; None where no file is named. Raises
        SettingsError, which names the variable and never shows the content."""
        variable = file_variable(field_name)
        path = os.environ.get(variable)
        if not is_secret(field) or not path:
            return None, field_name, False
        if os.environ.get(own_variable(field_name)):
            raise SettingsError(
                f"{variable} and {own_variable(field_name)} are both set: remove one of them."
            )
        try:
            return Path(path).read_text(encoding="utf-8").rstrip("\r\n"), field_name, False
        except (OSError, UnicodeDecodeError) as cause:
            said = getattr(cause, "strerror", None) or "not text in UTF-8"
            raise SettingsError(
                f"{variable}: {wording.short(path)} cannot be read: {said}."
            ) from None

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(field, name)[0] for name, field in fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def is_secret(field: FieldInfo) -> bool:
    return SecretStr in get_args(field.annotation)


def own_variable(name: str) -> str:
    """The variable that holds a setting itself."""
    return f"{PREFIX}{name.upper()}"


def file_variable(name: str) -> str:
    """The variable that names the file of a secret."""
    return f"{own_variable(name)}_FILE"


def check(fields: Mapping[str, FieldInfo]) -> None:
    """Raises SettingsError for a misspelt variable: it would leave a default in force, and nobody
    would know."""
    known = [own_variable(name) for name in fields]
    known += [file_variable(name) for name, field in fields.items() if is_secret(field)]
    for variable in os.environ:
        name = variable.upper()
        if name in (*known, DATA_SETS) or name.startswith(OTHERS) or not name.startswith(PREFIX):
            continue
        raise SettingsError(
            f"{wording.short(variable)} is no setting.{near(name, known)} Correct the variable, "
            "or remove it; `twinspan settings` lists them all."
        )


def near(name: str, known: Iterable[str]) -> str:
    """A question whether the nearest of the known names was meant; empty where none is near."""
    found = difflib.get_close_matches(name[: wording.LENGTH], list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""
