"""Which release this is."""

from __future__ import annotations

from importlib import metadata


def version() -> str:
    try:
        return metadata.version("twinspan")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
