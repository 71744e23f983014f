"""The HTTP API on a port of this process, over a live index of films on real parts."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import films
import httpx

from encoders.types import EncoderInfo
from indexer import catalog, database, http, reindex, rollout, sync
from indexer.catalog import spec
from indexer.embedded import Services
from indexer.http.server import HttpServer
from indexer.settings import Settings
from indexer.stores.edge import EdgeStore
from indexer.towers import Towers


@dataclass(kw_only=True)
class Served:
    """An API on a port of this process, with one live index of films."""

    services: Services
    api: http.Api
    client: httpx.Client
    encoder: EncoderInfo
    index_id: int
    worker: dict[str, bool] = field(default_factory=lambda: {"alive": True})

    def build(self, encoder: EncoderInfo) -> int:
        """A complete index that is not live."""
        index = reindex.start(
            self.services.engine,
            self.services.store,
            catalog_name="items",
            encoder_uri=encoder.uri,
        )
        for _ in reindex.fill(self.services.engine, index):
            pass
        self.drain()
        return index.id

    def drain(self) -> None:
        services = self.services
        sync.drain(services.engine, services.store, services.towers, services.settings)

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.api.token}"}


@contextmanager
def serving(folder: Path, database_url: str) -> Generator[Served]:
    settings = Settings.model_validate(
        {"data_dir": folder, "database_url": database_url, "k_max": 500, "gate_wait_s": 0}
    )
    engine, store = database.engine(database_url), EdgeStore(folder / "edge")
    services = Services(settings=settings, engine=engine, store=store, towers=Towers(settings))
    worker = {"alive": True}
    api = http.Api(services, worker_alive=lambda: worker["alive"])
    try:
        with _on_a_port(folder, services, api, worker) as served:
            yield served
    finally:
        api.close()
        store.close()
        engine.dispose()


@contextmanager
def _on_a_port(
    folder: Path, services: Services, api: http.Api, worker: dict[str, bool]
) -> Generator[Served]:
    catalog.attach(services.engine, spec.BUILTIN)
    films.insert(services.engine, films.rows())
    encoder = films.trained(folder / "encoders")
    with (
        HttpServer(http.make_app(api), host="127.0.0.1", port=0) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        made = Served(
            services=services, api=api, client=client, encoder=encoder, index_id=0, worker=worker
        )
        made.index_id = made.build(encoder)
        rollout.promote(
            services.engine, services.store, services.towers, services.settings, made.index_id
        )
        api.start()
        yield made


def problem(response: httpx.Response, status: int) -> str:
    """The message of a refusal; checks that it is one, with no traceback in it."""
    assert response.status_code == status, response.text
    body = response.json()
    assert set(body) == {"error", "message"}, body
    assert "Traceback" not in body["message"]
    assert "\n" not in body["message"]
    return f"{body['error']}: {body['message']}"
