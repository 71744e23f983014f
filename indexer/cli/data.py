"""`migrate`, `attach`, `detach`, `import`: what lies in PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from indexer.cli import output, parts
from indexer.cli.output import Json
from indexer.errors import SpecError, UsageError

if TYPE_CHECKING:
    import sqlalchemy as sa

    from indexer.importing import OnProgress, Report

CATALOG_PANEL = "Catalog"

Catalog = Annotated[str, typer.Option("--catalog", "-c", help="Name of the catalog.")]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        "--column", metavar="FIELD=COLUMN", help="Which column holds a field, where names differ."
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="csv, tsv, jsonl or parquet; else by the file's name."),
]
Encoding = Annotated[str | None, typer.Option("--encoding", help="Of a text file; else UTF-8.")]
Strict = Annotated[
    bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")
]
Source = Annotated[Path, typer.Argument(metavar="PATH", help="A file or a folder.")]

importers = typer.Typer(
    help="Read a data set or a file into the built-in tables, whose catalog is attached then."
)


def add_to(app: typer.Typer) -> None:
    app.command(rich_help_panel=CATALOG_PANEL)(migrate)
    app.command(rich_help_panel=CATALOG_PANEL)(attach)
    app.command(rich_help_panel=CATALOG_PANEL)(detach)
    app.add_typer(importers, name="import", rich_help_panel=CATALOG_PANEL, no_args_is_help=True)


def migrate() -> None:
    """Create or update the schema `indexer` in PostgreSQL. Safe to repeat."""
    from indexer import schema

    with parts.opened(check_schema=False) as opened:
        print(f"schema indexer is at revision {schema.migrate(opened.engine)}")


def attach(
    spec: Annotated[
        str, typer.Argument(metavar="FILE|items", help="The catalog's TOML file, or `items`.")
    ],
    as_json: Json = False,
) -> None:
    """Watch a catalog: install the triggers that its description asks for. Safe to repeat."""
    from indexer import catalog
    from indexer.catalog import spec as specs

    described = specs.BUILTIN if spec == specs.BUILTIN.name else specs.load(Path(spec))
    with parts.opened() as opened:
        with _naming(spec):
            attached = catalog.attach(opened.engine, described, notify=opened.settings.notify)
        items = catalog.count(opened.engine, attached)
    if as_json:
        output.json_document(
            {"catalog": attached.name, "spec_version": attached.spec_version, "items": items}
        )
        return
    print(f"catalog {attached.name} is attached: {items:,} items")
    output.note("next: `twinspan train content` for an encoder, `twinspan reindex` for an index")


@contextmanager
def _naming(path: str) -> Generator[None]:
    """What the database finds wrong with a description is told with the file to mend."""
    try:
        yield
    except SpecError as cause:
        raise SpecError(f"{path}: {cause}") from cause


def detach(
    name: Annotated[str, typer.Argument(help="Name of the catalog.")],
    drop_indexes: Annotated[
        bool, typer.Option("--drop-indexes", help="Drop its indexes and their alias, too.")
    ] = False,
) -> None:
    """Stop watching a catalog: every trace in its tables is removed. Its indexes must be gone."""
    from indexer import catalog, indexes, rollout

    with parts.opened() as opened:
        attached = catalog.get(opened.engine, name)
        mine = [
            index
            for index in indexes.all_of(opened.engine)
            if index.catalog_id == attached.id and index.state != "retired"
        ]
        if mine and not drop_indexes:
            raise UsageError(
                f"catalog {name!r} still has {len(mine)} indexes: "
                f"{', '.join(str(index.id) for index in mine)}. Add --drop-indexes to drop them."
            )
        if mine:
            rollout.drop_all(opened.engine, opened.store, name)
        catalog.detach(opened.engine, name)
    print(f"catalog {name} is detached, {len(mine)} indexes dropped")


@importers.command("movielens")
def import_movielens(
    path: Source, *, catalog: Catalog = "items", strict: Strict = False, as_json: Json = False
) -> None:
    """MovieLens: a folder, a zip archive, a wheel that holds it, or one of its files."""
    from indexer import importing

    _import(
        lambda engine, tell: importing.movielens(
            engine, path, catalog=catalog, strict=strict, on_progress=tell
        ),
        items_of=catalog,
        as_json=as_json,
    )


@importers.command("amazon")
def import_amazon(
    path: Source, *, catalog: Catalog = "items", strict: Strict = False, as_json: Json = False
) -> None:
    """A folder with `sequences.txt` and `items.jsonl`."""
    from indexer import importing

    _import(
        lambda engine, tell: importing.amazon(
            engine, path, catalog=catalog, strict=strict, on_progress=tell
        ),
        items_of=catalog,
        as_json=as_json,
    )


@importers.command("items")
def import_items(
    path: Source,
    *,
    column: Columns = None,
    format: Format = None,
    encoding: Encoding = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """One file of items (CSV, JSON Lines or Parquet) into the built-in catalog."""
    from indexer import importing
    from indexer.catalog import spec as specs

    read = _reader(
        importing.items, path, column=column, format=format, encoding=encoding, strict=strict
    )
    _import(read, items_of=specs.BUILTIN.name, as_json=as_json)


@importers.command("users")
def import_users(
    path: Source,
    *,
    column: Columns = None,
    format: Format = None,
    encoding: Encoding = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """One file of users; every column but the key is a feature."""
    from indexer import importing

    read = _reader(
        importing.users, path, column=column, format=format, encoding=encoding, strict=strict
    )
    _import(read, as_json=as_json)


@importers.command("interactions")
def import_interactions(
    path: Source,
    *,
    catalog: Catalog = "items",
    column: Columns = None,
    format: Format = None,
    encoding: Encoding = None,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """One file of events: user, item, occurred_at and, where there are any, event and value."""
    from indexer import importing

    read = _reader(
        partial(importing.interactions, catalog=catalog),
        path,
        column=column,
        format=format,
        encoding=encoding,
        strict=strict,
    )
    _import(read, as_json=as_json)


def _reader(
    load: Callable[..., Report],
    path: Path,
    *,
    column: Sequence[str] | None,
    format: str | None,
    encoding: str | None,
    strict: bool,
) -> Callable[[sa.Engine, OnProgress], Report]:
    """What imports one file of the person's own."""
    columns = _columns(column)
    return lambda engine, tell: load(
        engine,
        path,
        columns=columns,
        format=format,
        encoding=encoding,
        strict=strict,
        on_progress=tell,
    )


def _columns(pairs: Sequence[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, column = pair.partition("=")
        if not (name and equals and column):
            raise UsageError(f"--column {pair!r}: write FIELD=COLUMN, for instance key=sku.")
        found[name] = column
    return found


def _import(
    read: Callable[[sa.Engine, OnProgress], Report], *, items_of: str | None = None, as_json: bool
) -> None:
    """`items_of` is the catalog whose items it reads: the built-in one is attached then."""
    from indexer.importing import Progress

    with parts.opened() as opened, output.progress("importing") as bar:

        def tell(now: Progress) -> None:
            total = now.bytes_total or None
            bar.at(now.bytes_read if total else now.rows, total, f"{now.step} {now.rows:,}")

        report = read(opened.engine, tell)
        if items_of is not None:
            _attach_if_builtin(opened, items_of)
    if as_json:
        output.json_document(report)
    else:
        _show(report)


def _attach_if_builtin(opened: parts.Parts, name: str) -> None:
    """Its tables are there to be filled and watched, so nobody has to ask for that."""
    from indexer import catalog
    from indexer.catalog import spec as specs

    if name == specs.BUILTIN.name and name not in {
        one.name for one in catalog.all_of(opened.engine)
    }:
        catalog.attach(opened.engine, specs.BUILTIN, notify=opened.settings.notify)
        output.note(f"catalog {name} is attached")


def _show(report: Report) -> None:
    kinds = {"items": report.items, "users": report.users, "interactions": report.interactions}
    output.table(
        ("", "read", "added", "changed", "unchanged", "repeated"),
        [
            (name, done.read, done.added, done.changed, done.unchanged, done.repeated)
            for name, done in kinds.items()
            if done.read
        ],
        title=f"{report.source}, {report.seconds:.1f} s",
    )
    for what, counted in (("skipped", report.skipped), ("mended", report.mended)):
        for reason, count in counted.items():
            output.note(f"{what}: {count:,} × {reason}")
    for line in (*report.examples, *report.notes):
        output.note(f"  {line}")
