"""Building, promoting, rolling back and retiring indexes over HTTP, for who has the token."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Path, Query

from indexer import history, indexes, reindex, rollout
from indexer.http import verify_routes
from indexer.http.models import (
    Alias,
    BuildOut,
    ByIn,
    ForceIn,
    GateOut,
    IndexId,
    IndexOut,
    ProgressOut,
    ReindexIn,
    StepOut,
)

if TYPE_CHECKING:
    from indexer.http import Api

AliasInPath = Annotated[Alias, Path(description="See GET /status.")]


def routes(api: Api) -> APIRouter:
    """Every route here needs the token."""

    def check_token(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {api.token}".encode()):
            raise HTTPException(
                401,
                "this needs the header `Authorization: Bearer TOKEN`; "
                "the token stands in up.json in the data directory",
            )

    router = APIRouter(tags=["indexes"], dependencies=[Depends(check_token)])
    _add_building(router, api)
    _add_switching(router, api)
    _add_ending(router, api)
    _add_judging(router, api)
    verify_routes.add_to(router, api, prefix="/indexes/{index_id}")
    return router


def _add_building(router: APIRouter, api: Api) -> None:
    @router.post("/indexes", status_code=201, summary="Start building an index")
    def start(asked: ReindexIn) -> IndexOut:
        index = reindex.start(
            api.engine,
            api.services.store,
            catalog_name=asked.catalog,
            encoder_uri=asked.encoder_uri,
            alias=asked.alias,
            queue=asked.queue,
            adopt=asked.adopt,
            trust=asked.trust,
            by=asked.by,
        )
        if asked.fill:
            api.filler.add(index.id)
        return IndexOut.model_validate(index)

    @router.get("/indexes/{index_id}", summary="An index and how far it is")
    def one(index_id: IndexId) -> BuildOut:
        index = indexes.get(api.engine, index_id)
        progress = ProgressOut.model_validate(reindex.progress(api.engine, index_id))
        return BuildOut(**IndexOut.model_validate(index).model_dump(), progress=progress)


def _add_switching(router: APIRouter, api: Api) -> None:
    services = api.services

    @router.post("/indexes/{index_id}/promote", summary="Make an index the live one of its alias")
    def promote(index_id: IndexId, asked: ForceIn | None = None) -> IndexOut:
        asked = asked or ForceIn()
        index = rollout.promote(
            services.engine,
            services.store,
            services.towers,
            services.settings,
            index_id,
            force=asked.force,
            by=asked.by,
        )
        api.retrievers.warm_up({index.alias})
        return IndexOut.model_validate(index)

    @router.post("/aliases/{alias}/rollback", summary="Have the index before answer again")
    def rollback(alias: AliasInPath, asked: ForceIn | None = None) -> IndexOut:
        asked = asked or ForceIn()
        index = rollout.rollback(
            services.engine, services.store, alias, force=asked.force, by=asked.by
        )
        api.retrievers.warm_up({index.alias})
        return IndexOut.model_validate(index)


def _add_ending(router: APIRouter, api: Api) -> None:
    services = api.services

    @router.post("/indexes/{index_id}/cancel", summary="Give up an index that is being built")
    def cancel(index_id: IndexId, asked: ByIn | None = None) -> IndexOut:
        by = (asked or ByIn()).by
        index = rollout.cancel(services.engine, services.store, index_id, by=by)
        return IndexOut.model_validate(index)

    @router.post("/indexes/{index_id}/retire", summary="Drop an index that nothing names")
    def retire(index_id: IndexId, asked: ByIn | None = None) -> IndexOut:
        by = (asked or ByIn()).by
        index = rollout.retire(services.engine, services.store, index_id, by=by)
        return IndexOut.model_validate(index)


def _add_judging(router: APIRouter, api: Api) -> None:
    services = api.services

    @router.post("/indexes/{index_id}/gate", summary="Ask the gate about an index")
    def judge(index_id: IndexId, asked: ByIn | None = None) -> GateOut:
        report = rollout.judge(
            services.engine,
            services.store,
            services.towers,
            services.settings,
            index_id,
            by=(asked or ByIn()).by,
        )
        return GateOut.model_validate(report.as_dict())

    @router.get("/history", summary="What was done to indexes, newest first")
    def steps(
        alias: str | None = None, limit: Annotated[int, Query(ge=1, le=10_000)] = 100
    ) -> list[StepOut]:
        found = history.of(services.engine, alias, limit=limit)
        return [StepOut.model_validate(step) for step in found]
