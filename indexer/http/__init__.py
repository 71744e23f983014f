"""The HTTP side of one process: queries for everybody, changes for who has the token.

Built for loopback, where other `twinspan` commands need it because Qdrant Edge belongs to one
process. Errors are JSON with `error` and `message`, and a status that says whose turn it is: 400 to
413 the caller's, 503 an outage, 500 ours.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated

import sqlalchemy as sa
from fastapi import (
    APIRouter,
    FastAPI,
    Query,
    Request,
    Response,
)
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from encoders.errors import ArtifactMissing, EncoderError
from indexer import catalog, changes, indexes, ledger, reindex, release, scraping, standing
from indexer.embedded import Services
from indexer.embedded.filling import Filler
from indexer.errors import (
    CatalogUnknown,
    CollectionMismatch,
    CollectionMissing,
    DatabaseError,
    EmbeddedError,
    EncoderMismatch,
    IndexStateError,
    IndexUnknown,
    StoreLocked,
    StoreRejected,
    StoreUnavailable,
    TwinspanError,
    UsageError,
)
from indexer.http import index_routes, query_routes
from indexer.http.guard import Guard, problem_response, problems
from indexer.http.health import Health
from indexer.http.models import (
    HealthOut,
    IndexOut,
    IndexStatusOut,
    LiveOut,
    Problem,
    ProgressOut,
    StatusOut,
)
from indexer.http.retrievers import Retrievers

# The first kind that an error is of decides.
STATUSES: tuple[tuple[type[Exception], int], ...] = (
    (UsageError, 400),
    (StoreRejected, 400),
    (CatalogUnknown, 404),
    (CollectionMissing, 404),
    (ArtifactMissing, 404),
    (IndexUnknown, 404),
    (IndexStateError, 409),
    (EncoderMismatch, 409),
    (CollectionMismatch, 409),
    (DatabaseError, 503),
    (StoreUnavailable, 503),
    (StoreLocked, 503),
    (EmbeddedError, 503),
)
REFUSALS = {400: "BadRequest", 401: "Unauthorized", 404: "NotFound", 405: "MethodNotAllowed"}


class Api:
    """What the routes work with."""

    def __init__(self, services: Services, *, worker_alive: Callable[[], bool]) -> None:
        self.services = services
        self.instance = secrets.token_hex(8)
        self.token = secrets.token_urlsafe(24)
        self.health = Health(services, worker_alive)
        self.retrievers = Retrievers(services)
        self.filler = Filler(services.engine, services.store)
        self.metrics = scraping.registry(lambda: standing.look(services.engine))

    @property
    def engine(self) -> sa.Engine:
        return self.services.engine

    def start(self) -> None:
        """Backfills that were interrupted go on, and towers of live indexes are loaded."""
        self.filler.start()
        self.retrievers.warm_up(
            {one.alias for one in indexes.active(self.engine) if one.state == "live"}
        )

    def close(self) -> None:
        self.filler.stop()
        self.retrievers.close()


def make_app(api: Api) -> FastAPI:
    """The application, with OpenAPI at /openapi.json."""
    app = FastAPI(
        title="Twinspan",
        version=release.version(),
        description="Recommendations from an index that follows its catalog.",
        responses={"4XX": {"model": Problem}, "5XX": {"model": Problem}},
        docs_url=None,  # it would load its pages from elsewhere
        redoc_url=None,
    )
    for router in (_health_routes(api), query_routes.routes(api), index_routes.routes(api)):
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(StarletteHTTPException, _refused)
    for kind in (TwinspanError, EncoderError):
        app.add_exception_handler(kind, _failed)
    app.add_exception_handler(Exception, _unexpected)
    app.add_middleware(Guard, host=api.services.settings.http_host)
    return app


def _health_routes(api: Api) -> APIRouter:
    router = APIRouter(tags=["health"])

    @router.get("/health/live", summary="Whether this process runs")
    async def live() -> LiveOut:
        return LiveOut(instance=api.instance)

    @router.get(
        "/health",
        summary="Whether it does its work: 200 when ready, else 503",
        responses={503: {"model": HealthOut}},
    )
    def health(
        response: Response,
        max_age_s: Annotated[
            float | None, Query(gt=0, description="Seconds a change may wait; else the setting.")
        ] = None,
    ) -> HealthOut:
        found = api.health.look(max_age_s=max_age_s)
        response.status_code = 200 if found.ready else 503
        return found

    @router.get("/metrics", summary="For Prometheus", response_class=Response)
    def metrics() -> Response:
        return Response(scraping.page(api.metrics), media_type=scraping.CONTENT_TYPE)

    @router.get("/status", summary="Catalogs, indexes, and what is waiting")
    def status() -> StatusOut:
        return _status(api)

    return router


def _status(api: Api) -> StatusOut:
    services = api.services
    summaries = ledger.summary(api.engine)
    return StatusOut(
        version=release.version(),
        embedded=list(services.settings.embedded_parts),
        database=api.engine.url.render_as_string(hide_password=True),
        store=services.store.name,
        catalogs=[one.name for one in catalog.all_of(api.engine)],
        changes_pending=changes.pending(api.engine),
        indexes=[
            _index_status(api, one, summaries.get(one.id))
            for one in indexes.all_of(api.engine)
            if one.state != "retired"
        ],
        health=api.health.look(),
    )


def _index_status(api: Api, index: indexes.Index, summary: ledger.Summary | None) -> IndexStatusOut:
    building = index.state == "building"
    return IndexStatusOut(
        **IndexOut.model_validate(index).model_dump(),
        items=summary.present if summary else 0,
        deletes=summary.deletes if summary else 0,
        live=summary.live if summary else 0,
        backfill=summary.backfill if summary else 0,
        failing=summary.failing if summary else 0,
        quarantined=summary.quarantined if summary else 0,
        oldest_s=summary.oldest_s if summary else None,
        progress=ProgressOut.model_validate(reindex.progress(api.engine, index.id))
        if building
        else None,
    )


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), error
    return problem_response(400, "UsageError", problems(error.errors()))


def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, StarletteHTTPException), error
    return problem_response(
        error.status_code, REFUSALS.get(error.status_code, "Refused"), error.detail
    )


def _failed(_request: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in STATUSES if isinstance(error, kind)), 500)
    return problem_response(status, type(error).__name__, str(error) or str(error.__doc__))


def _unexpected(request: Request, error: Exception) -> JSONResponse:
    """Starlette raises it again afterwards, so that the log has it in full."""
    message = f"{type(error).__name__} in {request.url.path}: not expected; the log has the details"
    return problem_response(500, "InternalError", message)
