"""The families of towers: a closed registry, so that an artifact can never name code to import.

A family is a module with a `Config` (frozen dataclass), its named `CONFIGS`, a `FAMILY` name and a
`read`. It is imported when it is first asked for, because its towers need torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

from encoders.errors import EncoderError, TrainingFailed, UnknownFamily
from encoders.types import Encoder, Feature

_MODULES = {
    "content": "encoders.content",
    "retrievalformer": "encoders.retrievalformer",
}

NAMES = tuple(_MODULES)


class Config(Protocol):
    """A family's frozen dataclass of numbers and strings."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


@runtime_checkable
class StorableEncoder(Encoder, Protocol):
    """An encoder that can be written into a folder and read again by its family."""

    @property
    def config(self) -> Config: ...

    def write(self, folder: Path) -> None:
        """model.safetensors, vocabularies.json and what else `read` needs lie in the folder."""
        ...


class Family(Protocol):
    FAMILY: str
    CONFIGS: Mapping[str, Mapping[str, object]]  # by name: what differs from the defaults
    Config: type[Any]

    def read(
        self,
        folder: Path,
        *,
        config: Config,
        item_features: tuple[Feature, ...],
        user_features: tuple[Feature, ...],
        device: str,
    ) -> StorableEncoder:
        """The encoder that `write` put there. Weights must fit exactly."""
        ...


def get(name: str) -> Family:
    """The family of that name. Raises UnknownFamily."""
    if name not in _MODULES:
        raise UnknownFamily(f"unknown family {name!r}; this release knows {', '.join(NAMES)}")
    return cast(Family, cast(object, importlib.import_module(_MODULES[name])))


def configure(name: str, overrides: Mapping[str, object]) -> Config:
    """The family's defaults with these values in their place; `config` may name one of its
    configurations to begin with. Raises TrainingFailed that names the value which is unknown or of
    another type than its default."""
    family = get(name)
    defaults = family.Config()
    fields = {field.name: getattr(defaults, field.name) for field in dataclasses.fields(defaults)}
    overrides = dict(overrides)
    for key, value in (*_named(name, overrides.pop("config", None)).items(), *overrides.items()):
        if key not in fields:
            raise TrainingFailed(f"{name} has no option {key!r}; it has {', '.join(fields)}")
        fields[key] = _like(name, key, fields[key], value)
    return family.Config(**fields)


def require_device(name: str) -> None:
    """Torch can compute there. Raises EncoderError; "cpu" is not even asked about."""
    if name == "cpu":
        return
    import torch

    try:
        torch.empty(1, device=name)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError) as cause:
        reason = str(cause).partition("\n")[0]
        raise EncoderError(
            f"device {name!r} cannot be used ({reason}); use cpu, or cuda where there is a GPU and "
            "a torch built for it"
        ) from cause


def _named(name: str, config: object) -> Mapping[str, object]:
    """What the family's configuration of that name says beside the defaults; None is the first."""
    known = get(name).CONFIGS
    if config is None:
        return {}
    if not isinstance(config, str) or config not in known:
        raise TrainingFailed(f"{name} has no configuration {config!r}; it has {', '.join(known)}")
    return known[config]


def _like(family: str, key: str, default: object, value: object) -> object:
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not type(default):
        raise TrainingFailed(
            f"{family} option {key!r} must be {type(default).__name__}, not {value!r}"
        )
    return value
