"""The API on a real port, over a real index, once for each module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from served import Served, serving


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_url: str,
    databases: Callable[[str], Any],
) -> Iterator[Served]:
    scratch = databases(postgres_url)
    url = scratch.create()
    with serving(tmp_path_factory.mktemp("served"), url) as found:
        yield found
    scratch.drop(url)
