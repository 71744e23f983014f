"""Recommendations over HTTP: asked in a body, or in the address."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, TypeVar

from fastapi import APIRouter, Query
from pydantic import ValidationError

from indexer.errors import QueryError
from indexer.http import models
from indexer.http.guard import problems
from indexer.http.models import HitsOut, RecommendIn, SimilarIn

if TYPE_CHECKING:
    from indexer.http import Api

LIST_MAX = 200  # history items in an address; a body may have many more

Items = Annotated[list[str] | None, Query(max_length=LIST_MAX)]
WhereText = Annotated[str | None, Query(description="A filter, as JSON.")]


def routes(api: Api) -> APIRouter:
    """They answer whoever asks."""
    router = APIRouter(tags=["queries"])
    _add_bodies(router, api)
    _add_addresses(router, api)
    return router


def _add_bodies(router: APIRouter, api: Api) -> None:
    @router.post("/recommend", summary="The best items for a user")
    def recommend(asked: RecommendIn) -> HitsOut:
        return _recommend(api, asked)

    @router.post("/similar", summary="The items most like one")
    def similar(asked: SimilarIn) -> HitsOut:
        return _similar(api, asked)


def _add_addresses(router: APIRouter, api: Api) -> None:
    @router.get("/recommend", summary="The best items for a user, asked in the address")
    def recommend_by_address(  # noqa: PLR0917 - FastAPI gives them by name
        item: Items = None,
        user_key: str | None = None,
        where: WhereText = None,
        k: int = 20,
        alias: str = models.DEFAULT_ALIAS,
        exclude_seen: bool = True,
        exact: bool = False,
    ) -> HitsOut:
        asked = _checked(
            RecommendIn,
            alias=alias,
            history=item or [],
            user_key=user_key,
            where=_json(where),
            k=k,
            exclude_seen=exclude_seen,
            exact=exact,
        )
        return _recommend(api, asked)

    @router.get("/similar", summary="The items most like one, asked in the address")
    def similar_by_address(
        key: str,
        where: WhereText = None,
        k: int = 20,
        alias: str = models.DEFAULT_ALIAS,
        exact: bool = False,
    ) -> HitsOut:
        asked = _checked(SimilarIn, alias=alias, key=key, where=_json(where), k=k, exact=exact)
        return _similar(api, asked)


def _recommend(api: Api, asked: RecommendIn) -> HitsOut:
    query = asked.model_dump(exclude={"alias"}, exclude_unset=True)
    hits = api.retrievers.get(asked.alias).recommend_many([query])[0]
    return HitsOut.model_validate(hits.as_dict())


def _similar(api: Api, asked: SimilarIn) -> HitsOut:
    retriever = api.retrievers.get(asked.alias)
    hits = retriever.similar(str(asked.key), where=asked.where, k=asked.k, exact=asked.exact)
    return HitsOut.model_validate(hits.as_dict())


def _json(text: str | None) -> object:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise QueryError(f"where is not JSON: {cause}") from cause


M = TypeVar("M", bound=models.Request)


def _checked(model: type[M], **parts: object) -> M:
    """What an address asked for, held to the same limits as a body."""
    try:
        return model.model_validate(parts)
    except ValidationError as cause:
        raise QueryError(problems(cause.errors(include_input=False, include_url=False))) from cause
