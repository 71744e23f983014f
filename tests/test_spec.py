"""A catalog's description: what may be written, and what each mistake is answered."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.types import Feature
from indexer.catalog import spec
from indexer.catalog.spec import CatalogSpec, Source, TableName
from indexer.errors import SpecError

FULL = """
name = "products"
table = "shop.products"
key = "sku"
returned = ["title", "price", "attributes.colour"]

[features]
title = "text"
brand = "category"
genres = { kind = "categories", from = "attributes.genres" }
price = "number"

[filters]
brand = "keyword"
price = "float"
in_stock = "bool"
genres = { kind = "keyword", from = "attributes.genres" }
location = { kind = "geo", lat = "latitude", lon = "place.lon" }
home = { kind = "geo", from = "place" }
odd = { kind = "keyword", from = ["a.b", "c"] }

[[watch]]
table = "shop.prices"
key = "product_id"
columns = ["amount"]

[[watch]]
table = '"My Shop".stock'
key = "lower(sku)"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "catalog.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_everything_that_can_be_said_is_read(tmp_path: Path) -> None:
    read = spec.load(written(tmp_path, FULL))
    assert (read.name, read.table, read.key) == ("products", "shop.products", "sku")
    assert read.item_features == (
        Feature(name="title", kind="text"),
        Feature(name="brand", kind="category"),
        Feature(name="genres", kind="categories"),
        Feature(name="price", kind="number"),
    )
    assert read.fields == {
        "brand": "keyword",
        "price": "float",
        "in_stock": "bool",
        "genres": "keyword",
        "location": "geo",
        "home": "geo",
        "odd": "keyword",
    }
    assert read.filters["location"].column == "latitude"
    assert read.filters["location"].lon == Source(column="place", path=("lon",))
    assert read.filters["odd"].model_dump(include={"column", "path"}) == {
        "column": "a.b",
        "path": ("c",),
    }
    assert read.returned == {
        "title": Source(column="title"),
        "price": Source(column="price"),
        "colour": Source(column="attributes", path=("colour",)),
    }
    assert [watch.table_name for watch in read.watch] == [
        TableName("shop", "prices"),
        TableName("My Shop", "stock"),
    ]
    assert read.watch[1].columns is None
    assert set(read.columns) == {
        *("title", "brand", "attributes", "price", "in_stock", "latitude", "place", "a.b"),
    }


def test_what_is_left_out_has_a_default(tmp_path: Path) -> None:
    text = 'name = "p"\ntable = "products"\nkey = "id"\n[features]\ntitle = "text"\n'
    read = spec.load(written(tmp_path, text + '[filters]\nbrand = "keyword"\n'))
    assert read.table == "public.products"
    assert read.returned == {"title": Source(column="title"), "brand": Source(column="brand")}
    assert read.watch == ()


def test_a_description_survives_its_own_dump(tmp_path: Path) -> None:
    for one in (spec.load(written(tmp_path, FULL)), spec.BUILTIN):
        again = CatalogSpec.model_validate(one.model_dump(mode="json"))
        assert again == one
        assert again.model_dump(mode="json") == one.model_dump(mode="json")


def test_a_description_can_be_built_in_code() -> None:
    built = CatalogSpec.model_validate(
        {
            "name": "p",
            "table": "products",
            "key": "id",
            "features": {"title": spec.FeatureSource(kind="text", column="name")},
        }
    )
    assert built.returned == {"title": Source(column="name")}


def test_the_builtin_catalog_is_that_of_the_importers() -> None:
    assert spec.BUILTIN.name == "items"
    assert spec.BUILTIN.table == "public.items"
    assert spec.BUILTIN.fields["year"] == "integer"
    assert Feature(name="genres", kind="categories") in spec.BUILTIN.item_features


GOOD: dict[str, Any] = {
    "name": "p",
    "table": "products",
    "key": "id",
    "features": {"title": "text"},
}
MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"name": None}, r"name: .*string"),
    ({"features": {"title": {"kind": "text", "from": ["doc", "a\0b"]}}}, r"from\[1\] holds NUL"),
    ({"key": "\ud800"}, r"the description\.key holds half of a surrogate pair"),
    ({"table": "x" * 301}, r"table: 'xxx.*' is not the name of a table"),
    ({"returned": [[[[[[[[[["a"]]]]]]]]]]}, r"nested more than 8 levels"),
    ({"name": "a/b"}, r"name: use up to 100 letters"),
    ({"name": ""}, r"name: use up to 100 letters"),
    ({"table": "a.b.c"}, r"table: 'a\.b\.c' is not the name of a table"),
    ({"table": ""}, r"table: '' is not the name of a table"),
    ({"key": ""}, r"key: name the column"),
    ({"features": {}}, r"features: name at least one"),
    ({"features": "title"}, r"features: it is a table"),
    ({"features": {"title": "txt"}}, r"features\.title\.kind: .*'category'.*'text'"),
    ({"features": {"title": 5}}, r"features\.title: write title = "),
    ({"features": {"title": {"from": "x"}}}, r"features\.title\.kind: missing"),
    ({"features": {"title": {"kind": "text", "form": "x"}}}, r"features\.title\.form: unknown"),
    ({"features": {"title": {"kind": "text", "from": ""}}}, r"features\.title: '' is no place"),
    ({"features": {"title": {"kind": "text", "from": "a..b"}}}, r"'a\.\.b' is no place"),
    ({"features": {"title": {"kind": "text", "from": []}}}, r"features\.title: \[\] is no place"),
    ({"features": {"title": {"kind": "text", "from": 7}}}, r"features\.title: 7 is no place"),
    ({"features": {"title": {"kind": "text", "lat": "a", "lon": "b"}}}, r"features\.title\.lon"),
    ({"features": {"_title": "text"}}, r"'_title': names that begin with '_' are reserved"),
    ({"filters": {"_key": "keyword"}}, r"filters: '_key': .*reserved"),
    ({"filters": {"a.b": "keyword"}}, r"'a\.b': use letters.*from = "),
    ({"filters": {"a": "string"}}, r"filters\.a\.kind: .*'keyword'"),
    ({"filters": {"a": {"kind": "geo", "lat": "x"}}}, r"filters\.a: give `from`, or .* `lat`"),
    ({"filters": {"a": {"kind": "geo", "from": "x", "lat": "x", "lon": "y"}}}, r"give `from`"),
    ({"filters": {"a": {"kind": "float", "lat": "x", "lon": "y"}}}, r'belong to kind "geo"'),
    ({"returned": "title"}, r"returned: write a list"),
    ({"returned": {"_key": "title"}}, r"returned: '_key': .*reserved"),
    ({"returned": {"a": "x"}, "filters": {"a": "float"}}, r"returned\.a: the filter of that name"),
    ({"watch": [{"table": "x"}]}, r"watch\.0\.key: missing"),
    ({"watch": [{"table": "x", "key": " "}]}, r"watch\.0\.key: .*may not be empty"),
    ({"watch": [{"table": "x", "key": "a", "columns": []}]}, r"watch\.0\.columns: name at least"),
    ({"watch": [{"table": "x", "key": "a"}] * 2}, r"public\.x is named twice"),
    ({"wacth": []}, r"wacth: unknown here"),
]


@pytest.mark.parametrize(("changed", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_answered_in_one_line_with_file_and_field(
    changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said) as raised:
        spec.parse({**GOOD, **changed}, name="catalog.toml")
    assert str(raised.value).startswith("catalog.toml: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("missing", ["name", "table", "key"])
def test_what_every_catalog_has_is_asked_for(missing: str) -> None:
    with pytest.raises(SpecError, match=f"{missing}: missing"):
        spec.parse({name: value for name, value in GOOD.items() if name != missing}, name="f")


def test_the_descriptions_in_the_docs_are_good(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent / "docs" / "catalogs.md"
    examples = re.findall(r"```toml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert [spec.load(written(tmp_path, one)).name for one in examples] == ["products", "offers"]


def test_a_file_that_is_none_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"nothing\.toml: cannot be read"):
        spec.load(tmp_path / "nothing.toml")
    with pytest.raises(SpecError, match="cannot be read"):
        spec.load(tmp_path)
    with pytest.raises(SpecError, match=r"catalog\.toml: not TOML: .*line 1"):
        spec.load(written(tmp_path, "name = products"))
    (tmp_path / "latin").write_bytes(b'name = "caf\xe9"')
    with pytest.raises(SpecError, match="not UTF-8 at byte 11"):
        spec.load(tmp_path / "latin")
    with pytest.raises(SpecError, match="larger than"):
        spec.load(written(tmp_path, "#" * 1_000_001))


@pytest.mark.parametrize(
    ("text", "schema", "name"),
    [
        ("products", "public", "products"),
        ("Shop.Products", "Shop", "Products"),
        ('"Weird Table"."sélect"', "Weird Table", "sélect"),
        ('a."b.c"', "a", "b.c"),
        ('"a""b"', "public", 'a"b'),
        (" a . b ", "a", "b"),
        ("über.straße", "über", "straße"),
    ],
)
def test_a_tables_name_is_read_as_it_is_written(text: str, schema: str, name: str) -> None:
    assert TableName.parse(text) == TableName(schema, name)


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a.b.c", '"a', 'a"b', '""', "a\0"])
def test_what_is_no_tables_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a table"):
        TableName.parse(text)


_CHARACTERS = st.characters(exclude_characters="\0", exclude_categories=["Cs"])


@given(
    st.builds(
        TableName,
        *[st.text(_CHARACTERS, min_size=1, max_size=63)] * 2,  # PostgreSQL's names are no longer
    )
)
def test_any_tables_name_survives_being_written(name: TableName) -> None:
    assert TableName.parse(str(name)) == name


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)
PARTS = st.sampled_from(
    ["name", "table", "key", "features", "filters", "returned", "watch", "nonsense"]
)


@given(st.dictionaries(PARTS, JUNK))
def test_junk_is_refused_and_never_crashes(junk: dict[str, Any]) -> None:
    for raw in (junk, {**GOOD, **junk}):
        try:
            spec.parse(raw, name="f")
        except SpecError as error:
            assert "\n" not in str(error)
