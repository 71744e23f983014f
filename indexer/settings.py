"""Settings: the environment (`TWINSPAN_*`) over `twinspan.toml` over these defaults. A secret may
lie in a file that `TWINSPAN_<NAME>_FILE` names: then no environment and no process list has it.

Left empty, `database_url`, `qdrant_url` and `broker_url` each mean the embedded part; moving to
servers is setting them, no code. `docs/settings.md` is generated from the descriptions here.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from indexer import environment, wording
from indexer.errors import SettingsError

SETTINGS_FILE = "twinspan.toml"
PROBLEMS_SHOWN = 10
YEARS_S = 10 * 366 * 86_400.0


class Settings(BaseSettings):
    """One value per knob; each description gives the unit and what too low and too high do."""

    model_config = SettingsConfigDict(
        env_prefix=environment.PREFIX,
        env_ignore_empty=True,  # as compose files leave variables
        toml_file=SETTINGS_FILE,
        extra="forbid",
        frozen=True,
    )

    data_dir: Path = Field(
        default=Path(".twinspan"),
        description="Folder of the embedded parts and of trained encoders.",
    )
    database_url: SecretStr | None = Field(
        default=None,
        description="PostgreSQL, as postgresql://user:password@host:port/name. Empty: embedded.",
    )
    qdrant_url: str | None = Field(
        default=None,
        description="Qdrant server, as http://host:6333. Empty: Qdrant Edge, embedded.",
    )
    qdrant_api_key: SecretStr | None = Field(
        default=None, description="API key of the Qdrant server."
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="Celery broker, redis:// or amqp://. Empty: inside `twinspan up`.",
    )
    ca_file: Path | None = Field(
        default=None,
        description="PEM file of authorities to trust for https Qdrant, rediss:// and amqps://. "
        "Empty: the system's. PostgreSQL has its own: sslrootcert in database_url.",
    )
    encoders_uri: str | None = Field(
        default=None,
        description="Folder or bucket (any fsspec address) of encoders. Empty: data_dir/encoders.",
    )
    batch_items: int = Field(
        default=512,
        ge=1,
        le=10_000,
        description="Items claimed, encoded, written together. Low: overhead; high: long leases.",
    )
    batch_bytes: int = Field(
        default=4_000_000,
        ge=10_000,
        le=30_000_000,
        description="Bytes of one write request. Qdrant refuses requests of more than 32 MB.",
    )
    batch_s: float = Field(
        default=1.0,
        gt=0,
        le=60,
        description="Seconds that one batch should take: batches of a slow tower are made smaller. "
        "Low: overhead; high: a fresh change waits behind a backfill's batch.",
    )
    lease_s: float = Field(
        default=60,
        ge=1,
        le=3600,
        description="Seconds a worker may hold a batch. Low: work done twice; "
        "high: a dead worker's batch waits that long.",
    )
    store_timeout_s: float = Field(
        default=10,
        gt=0,
        le=600,
        description="Seconds until a request to the vector store is given up. "
        "At most half of lease_s.",
    )
    max_attempts: int = Field(
        default=5,
        ge=1,
        le=100,
        description="Failures of one item until it is quarantined. Outages are not counted.",
    )
    backoff_s: float = Field(
        default=1.0,
        ge=0,
        le=3600,
        description="Seconds until a failed item is tried again, doubled each time, with jitter.",
    )
    backoff_max_s: float = Field(
        default=600, ge=0, le=86_400, description="The longest of those waits, in seconds."
    )
    tombstone_s: float = Field(
        default=86_400,
        ge=60,
        le=YEARS_S,
        description="Seconds that a deleted item's ledger row is kept. Keep it far above lease_s.",
    )
    standby_s: float = Field(
        default=604_800,
        ge=0,
        le=315_360_000,
        description="Seconds that an index stays standby, warm and current, before it is retired. "
        "Low: a rollback soon has nowhere to go; high: each standby costs its part of store and "
        "towers.",
    )
    history_s: float = Field(
        default=2_592_000,
        ge=86_400,
        le=YEARS_S,
        description="Seconds that shadow reads are kept, and steps of roll-outs that no active "
        "index came about by. Low: nobody can look back; high: with shadow_share the table grows.",
    )
    verify_items_per_s: float = Field(
        default=50,
        ge=0,
        le=1_000_000,
        description="Items per second that a worker compares with catalog and store, all the time. "
        "Low: drift is found late; high: load. 0: never.",
    )
    verify_repair: bool = Field(
        default=False,
        description="Have what that comparison finds written again; else it is logged and counted.",
    )
    route_items: int = Field(
        default=5_000,
        ge=1,
        le=100_000,
        description="Changed items moved from the outbox to the ledger in one transaction.",
    )
    poll_s: float = Field(
        default=0.1,
        gt=0,
        le=60,
        description="Seconds between looks at the outbox. Low: idle load; high: staleness.",
    )
    notify: bool = Field(
        default=False,
        description="Have triggers send NOTIFY, and listen. It serialises the commits of all "
        "writers of the catalog; polling is on in any case.",
    )
    payload_limit: int = Field(
        default=200_000,
        ge=1_000,
        le=10_000_000,
        description="Bytes of one item's payload; an item above it is quarantined.",
    )
    k_max: int = Field(
        default=1_000, ge=1, le=10_000, description="The most hits that one query may ask for."
    )
    shadow_share: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Share of live queries that are also asked, in the background, of an index "
        "that is being built, to compare the answers. 0: none; 1: twice the work for the store.",
    )
    gate_wait_s: float = Field(
        default=60,
        ge=0,
        le=86_400,
        description="Seconds that the gate waits for changes older than its start to be written. "
        "Low: it refuses a busy index; high: a stuck worker is noticed late.",
    )
    gate_quarantined: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="The largest share of items that may be quarantined when an index goes live.",
    )
    gate_samples: int = Field(
        default=500,
        ge=1,
        le=10_000,
        description="Stored items that the gate encodes again and compares. Low: damage to few "
        "items is missed; high: it takes as long as encoding so many.",
    )
    gate_queries: int = Field(
        default=100,
        ge=5,
        le=10_000,
        description="Queries behind each recall and latency that the gate measures, "
        "a quarter as many under each filter. Low: noise; high: it takes long.",
    )
    gate_recall: float = Field(
        default=0.98,
        ge=0,
        le=1,
        description="The least recall@20 of a search against an exact one, without a filter and on "
        "average under filters. 1 asks for what only an exact search has.",
    )
    gate_recall_worst: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="The least recall@20 against an exact search under any single filter tried.",
    )
    gate_users: int = Field(
        default=2_000,
        ge=0,
        le=100_000,
        description="Users whose last interaction is asked for, of the new and of the live index. "
        "Low: a worse encoder is not told from chance; 0: not asked at all.",
    )
    gate_quality_margin: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="How much worse than the live index's offline recall@20 and NDCG@20 a new one "
        "may be, as a share of them. It is refused when that is certain to 95%.",
    )
    gate_p95_ms: float = Field(
        default=500,
        gt=0,
        le=60_000,
        description="Milliseconds within which 95% of single queries to a new index must answer. "
        "Low: a busy moment refuses it; high: a slow tower reaches your users.",
    )
    device: str = Field(
        default="cpu",
        pattern=r"^[a-z]+(:[0-9]{1,4})?$",
        description="Where towers run: cpu, cuda, cuda:1, mps.",
    )
    torch_threads: int = Field(
        default=1,
        ge=1,
        le=256,
        description="torch threads of each worker process. More than one rarely pays on CPU.",
    )
    log_format: Literal["text", "json"] = Field(
        default="text",
        description="Lines that workers and `twinspan up` log: text for people, or json: one "
        "object a line, with index, item counts, fences and seconds as fields.",
    )
    ready_max_age_s: float = Field(
        default=30,
        gt=0,
        le=86_400,
        description="Seconds a change may wait until readiness says no. Low: alarms for a busy "
        "moment; high: a dead worker is noticed late.",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="Address that a worker serves its metrics on.",
    )
    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port that a worker serves its metrics on, at /metrics; 0: none. `twinspan up` "
        "has them on its HTTP API in any case.",
    )
    http_host: str = Field(
        default="127.0.0.1",
        min_length=1,  # empty would mean every address of the machine
        description="Address that `twinspan up` serves on.",
    )
    http_port: int = Field(
        default=7700, ge=0, le=65_535, description="Port that `twinspan up` serves on; 0: any."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class names it
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls)
        return init_settings, env_settings, environment.SecretFiles(settings_cls), toml

    @field_validator(
        "database_url",
        "qdrant_url",
        "qdrant_api_key",
        "broker_url",
        "ca_file",
        "encoders_uri",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("data_dir")
    @classmethod
    def _names_a_folder(cls, folder: Path) -> Path:
        if "\0" in str(folder):
            raise ValueError("a folder's name has no NUL")
        return folder

    @model_validator(mode="after")
    def _lease_outlasts_the_store(self) -> Self:
        if self.lease_s < 2 * self.store_timeout_s:
            raise ValueError(
                f"lease_s ({self.lease_s:g}) must be at least twice store_timeout_s "
                f"({self.store_timeout_s:g}): no write may begin that could outlast its lease"
            )
        return self

    @property
    def encoders_root(self) -> str:
        return self.encoders_uri or str(self.data_dir / "encoders")

    @property
    def broker_tls(self) -> dict[str, object] | None:
        """What Celery's `broker_use_ssl` must be. Certificates are checked, which kombu does
        not do by itself for rediss://. None without TLS, or where the address has `ssl_` options
        of its own."""
        url = self.broker_url.get_secret_value() if self.broker_url else ""
        prefix = {"rediss": "ssl_", "amqps": ""}.get(url.partition("://")[0])
        if prefix is None or "ssl_" in url.partition("?")[2]:
            return None
        trusted = {f"{prefix}ca_certs": str(self.ca_file)} if self.ca_file else {}
        return {f"{prefix}cert_reqs": ssl.CERT_REQUIRED, **trusted}

    @property
    def embedded_parts(self) -> tuple[str, ...]:
        """Which of database, store and broker run inside our own process."""
        parts = {
            "database": self.database_url,
            "store": self.qdrant_url,
            "broker": self.broker_url,
        }
        return tuple(name for name, url in parts.items() if url is None)


def load(**overrides: Any) -> Settings:
    """Read the settings. Raises SettingsError that names the setting and what it must be."""
    environment.check(Settings.model_fields)
    try:
        return Settings(**overrides)
    except ValidationError as cause:
        problems = "; ".join(map(_problem, cause.errors(include_input=False)[:PROBLEMS_SHOWN]))
        raise SettingsError(
            f"settings: {problems}. See `twinspan settings` for names, units and bounds."
        ) from cause
    except (ValueError, OSError, RecursionError) as cause:  # not TOML, not UTF-8, not a file
        raise SettingsError(f"{SETTINGS_FILE}: {wording.line(cause)}") from cause


def _problem(error: ErrorDetails) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        near = environment.near(name, Settings.model_fields)
        return f"{wording.short(name)} is no setting.{near}"
    return f"{name}: {error['msg'].removeprefix('Value error, ')}" if name else error["msg"]
