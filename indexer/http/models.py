"""What goes over HTTP: requests with their limits, and answers. OpenAPI is generated from these."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    model_validator,
)

from indexer import sayable
from indexer.query import DEFAULT_ALIAS
from indexer.query.asked import FEATURES_MAX, HISTORY_MAX, KEY_MAX

K_MAX = 10_000  # the setting k_max may be lower
FILTER_PARTS_MAX = 10_000  # values and conditions of one `where`
DEPTH_MAX = 64  # levels of nesting in a request

Key = Annotated[str, Field(max_length=KEY_MAX)]
Alias = Annotated[str, Field(min_length=1, max_length=KEY_MAX)]
IndexId = Annotated[int, Path(ge=1, le=sayable.INTEGER_MAX, description="See GET /status.")]
K = Annotated[StrictInt, Field(ge=1, le=K_MAX)]


def _check_size(where: Any) -> Any:
    parts = sayable.check(where, depth_max=DEPTH_MAX)
    if parts > FILTER_PARTS_MAX:
        raise ValueError(f"a filter of {parts:,} parts; the most is {FILTER_PARTS_MAX:,}")
    return where


Where = Annotated[
    dict[str, Any] | None,
    BeforeValidator(_check_size),
    Field(description="A filter, as docs/filters.md describes."),
]


class Request(BaseModel):
    """No unknown fields, no guessing of types, and no text that UTF-8 cannot say."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _is_sayable(cls, value: Any) -> Any:
        sayable.check(value, depth_max=DEPTH_MAX)
        return value


class PastEvent(Request):
    """One event of a history."""

    item_key: Key | StrictInt
    event: Key | None = None
    value: float | None = None
    occurred_at: Annotated[
        str | None, Field(description="A time, as 2026-01-31T12:00:00Z.", max_length=64)
    ] = None


class RecommendIn(Request):
    """A user: a key, or a history with features; both together extend what is stored."""

    alias: Alias = DEFAULT_ALIAS
    history: Annotated[
        list[Key | StrictInt | PastEvent],
        Field(max_length=HISTORY_MAX, description="Item keys or events, oldest first."),
    ] = []
    features: Annotated[dict[str, Any], Field(max_length=FEATURES_MAX)] | None = None
    user_key: Key | StrictInt | None = None
    where: Where = None
    k: K = 20
    exclude_seen: StrictBool = True
    exact: Annotated[StrictBool, Field(description="Scan every item, not the graph.")] = False


class SimilarIn(Request):
    """An item that the index holds."""

    alias: Alias = DEFAULT_ALIAS
    key: Key | StrictInt
    where: Where = None
    k: K = 20
    exact: StrictBool = False


class ByIn(Request):
    """Who asks for it, for the history; else the database's user."""

    by: Annotated[str | None, Field(min_length=1, max_length=200)] = None


class ForceIn(ByIn):
    """`force` does it against the gate's advice, which the history keeps."""

    force: StrictBool = False


class ReindexIn(ByIn):
    """A new index of a catalog, built with the encoder in that folder or bucket."""

    catalog: Key
    encoder_uri: Key
    alias: Alias | None = None
    queue: Alias = "twinspan"
    adopt: Annotated[
        Key | None, Field(description="Take vectors from this collection where content agrees.")
    ] = None
    trust: Annotated[
        StrictBool, Field(description="Vouch for it where it does not name its encoder.")
    ] = False
    fill: Annotated[
        StrictBool, Field(description="Read the catalog in the background; else the caller does.")
    ] = True


class HitOut(BaseModel):
    key: str
    score: float
    payload: dict[str, Any]


class HitsOut(BaseModel):
    """The best first, all from one index and the encoder that built it. `unknown` are history keys
    that the index does not hold, `ignored` features that the user tower does not read."""

    hits: list[HitOut]
    index: int
    collection: str
    encoder: str
    timings_ms: dict[str, float]
    history: int
    unknown: list[str]
    ignored: list[str]


class IndexOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    catalog: str
    alias: str
    encoder_id: str
    encoder_uri: str
    encoder_family: str
    collection: str
    queue: str
    state: str
    backfill_done: bool
    adopts: str | None
    error: str | None
    created_at: datetime
    live_at: datetime | None
    standby_at: datetime | None
    retired_at: datetime | None


class ProgressOut(BaseModel):
    """`total` items in the catalog, `done` in the store, `dirty` to be worked on. `rate` is items a
    second over the last minute, null when nobody works; `left_s` is what the rest takes."""

    model_config = ConfigDict(from_attributes=True)

    total: int
    filled: bool
    done: int
    dirty: int
    quarantined: int
    complete: bool
    rate: float | None
    left_s: float | None


class BuildOut(IndexOut):
    progress: ProgressOut


class StepOut(BaseModel):
    """Something that was done to an index; `outcome` is begun, done or undone, of the gate passed
    or refused."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    index_id: int
    alias: str
    action: str
    by: str
    at: datetime
    forced: bool
    outcome: str
    report: dict[str, Any] | None


class IndexStatusOut(IndexOut):
    """`oldest_s` is the age of the oldest change or delete that the store does not have yet;
    `progress` is that of an index being built."""

    items: int
    deletes: int
    live: int
    backfill: int
    failing: int
    quarantined: int
    oldest_s: float | None
    progress: ProgressOut | None


class HealthOut(BaseModel):
    """`ready` is false, with the problems named, when database, store or worker is gone, or when a
    change has been waiting too long. `last_ready_at` is when it was last found true."""

    ready: bool
    problems: list[str]
    oldest_change_s: float | None
    last_ready_at: datetime | None
    last_writes: Annotated[
        dict[str, datetime | None], Field(description="When each alias was last written to.")
    ]


class LiveOut(BaseModel):
    """This process runs; it says nothing about what it works with."""

    alive: bool = True
    instance: str


class StatusOut(BaseModel):
    version: str
    embedded: list[str]
    database: str
    store: str
    catalogs: list[str]
    changes_pending: int
    indexes: list[IndexStatusOut]
    health: HealthOut


class CheckOut(BaseModel):
    """`passed` is null for what could not be asked, or only informs."""

    name: str
    passed: bool | None
    measured: str
    meaning: str
    remedy: str
    value: float | None
    threshold: float | None
    figures: dict[str, Any]


class GateOut(BaseModel):
    """What the gate found; `started_at` is the moment up to which changes had to be written."""

    index_id: int
    encoder_id: str
    live_index_id: int | None
    seed: int
    started_at: datetime
    took_s: float
    passed: bool
    checks: list[CheckOut]


class VerifyIn(Request):
    """`vectors`: encode every item again; else about `sample` of them. `repair`: have what drifted
    written again. `resume`: go on with the verification that was interrupted last."""

    vectors: StrictBool = False
    sample: int = Field(default=64, ge=0, le=sayable.INTEGER_MAX)
    repair: StrictBool = False
    resume: StrictBool = False
    items_per_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    patience_s: float = Field(default=10, ge=0, le=3_600, allow_inf_nan=False)


class VerificationOut(BaseModel):
    """What a comparison of catalog, ledger and store saw; `drift` is the sum of what should not be:
    from `missed_change` to `ledger_wrong`."""

    verification: int
    phase: str
    looked: int
    finished: bool
    items: int
    agree: int
    missed_change: int
    missing: int
    stale_payload: int
    stale_vector: int
    ghost: int
    wrong_encoder: int
    ledger_wrong: int
    in_flight: int
    quarantined: int
    unusable: int
    repaired: int
    vectors: int
    vectors_differ: int
    examples: dict[str, list[str]]
    drift: int


class Problem(BaseModel):
    """Every answer that is not a success: the kind of error, and what to do."""

    error: str
    message: str
