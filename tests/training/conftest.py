"""A small world to train on."""

from __future__ import annotations

import pytest
from worlds import genre_world

from encoders.dataset import Dataset


@pytest.fixture(scope="module")
def data() -> Dataset:
    return genre_world(fans=6, films=12, events=8).data
