"""The HTTP side of one process: queries for everybody, changes for who has the token.

Built for loopback, where other `twinspan` commands need it because Qdrant Edge belongs to one
process. Errors are JSON with `error` and `message`, and a status that says whose turn it is: 400 to
413 the caller's, 503 an outage, 500 ours.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

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
from pydantic import ValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from encoders.errors import ArtifactMissing, EncoderError
from indexer import catalog, changes, entries, indexes, reindex, release, scraping, standing
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
    QueryError,
    StoreLocked,
    StoreRejected,
    StoreUnavailable,
    TwinspanError,
    UsageError,
)
from indexer.http import index_routes
from indexer.http import models as http_models
from indexer.http.guard import Guard, problem_response
from indexer.http.health import Health
from indexer.http.models import (
    HealthOut,
    HitsOut,
    IndexOut,
    IndexStatusOut,
    LiveOut,
    Problem,
    ProgressOut,
    RecommendIn,
    SimilarIn,
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
    (IndexStateError, 409),
    (EncoderMismatch, 409),
    (CollectionMismatch, 409),
    (DatabaseError, 503),
    (StoreUnavailable, 503),
    (StoreLocked, 503),
    (EmbeddedError, 503),
)
REFUSALS = {400: "BadRequest", 401: "Unauthorized", 404: "NotFound", 405: "MethodNotAllowed"}
PROBLEMS_SHOWN = 5
QUERY_LIST_MAX = 200  # history items in an address; a body may have many more


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
    for router in (_health_routes(api), _query_routes(api), index_routes.routes(api)):
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


def _query_routes(api: Api) -> APIRouter:
    router = APIRouter(tags=["queries"])

    @router.post("/recommend", summary="The best items for a user")
    def recommend(asked: RecommendIn) -> HitsOut:
        query = asked.model_dump(exclude={"alias"}, exclude_unset=True)
        hits = api.retrievers.get(asked.alias).recommend_many([query])[0]
        return HitsOut.model_validate(hits.as_dict())

    @router.post("/similar", summary="The items most like one")
    def similar(asked: SimilarIn) -> HitsOut:
        retriever = api.retrievers.get(asked.alias)
        hits = retriever.similar(str(asked.key), where=asked.where, k=asked.k, exact=asked.exact)
        return HitsOut.model_validate(hits.as_dict())

    @router.get("/recommend", summary="The best items for a user, asked in the address")
    def recommend_by_address(  # noqa: PLR0917 - FastAPI gives them by name
        item: Annotated[list[str] | None, Query(max_length=QUERY_LIST_MAX)] = None,
        user_key: str | None = None,
        where: Annotated[str | None, Query(description="A filter, as JSON.")] = None,
        k: int = 20,
        alias: str = http_models.DEFAULT_ALIAS,
        exclude_seen: bool = True,
        exact: bool = False,
    ) -> HitsOut:
        return recommend(
            _checked(
                RecommendIn,
                alias=alias,
                history=item or [],
                user_key=user_key,
                where=_json(where),
                k=k,
                exclude_seen=exclude_seen,
                exact=exact,
            )
        )

    @router.get("/similar", summary="The items most like one, asked in the address")
    def similar_by_address(
        key: str,
        where: Annotated[str | None, Query(description="A filter, as JSON.")] = None,
        k: int = 20,
        alias: str = http_models.DEFAULT_ALIAS,
        exact: bool = False,
    ) -> HitsOut:
        return similar(
            _checked(SimilarIn, alias=alias, key=key, where=_json(where), k=k, exact=exact)
        )

    return router


def _status(api: Api) -> StatusOut:
    services = api.services
    summaries = entries.summary(api.engine)
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


def _index_status(
    api: Api, index: indexes.Index, summary: entries.Summary | None
) -> IndexStatusOut:
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


def _json(text: str | None) -> object:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise QueryError(f"where is not JSON: {cause}") from cause


M = TypeVar("M", bound=http_models.Request)


def _checked(model: type[M], **parts: object) -> M:
    """What an address asked for, held to the same limits as a body."""
    try:
        return model.model_validate(parts)
    except ValidationError as cause:
        raise QueryError(_problems(cause.errors(include_input=False, include_url=False))) from cause


def _problems(errors: Sequence[Any]) -> str:
    """One line for all that is wrong with a request; never its content."""
    lines = (
        f"{'.'.join(str(part) for part in error['loc']) or 'request'}: {error['msg']}"
        for error in errors[:PROBLEMS_SHOWN]
    )
    return "; ".join(lines)


def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError), error
    return problem_response(400, "UsageError", _problems(error.errors()))


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
