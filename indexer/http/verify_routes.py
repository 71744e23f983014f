"""Verifying an index over HTTP: by the process that holds the vector store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException

from indexer import indexes
from indexer.http.models import IndexId, VerificationOut, VerifyIn
from indexer.verify import asking, records

if TYPE_CHECKING:
    from indexer.http import Api


def add_to(router: APIRouter, api: Api, *, prefix: str) -> None:
    """Adds the routes under `prefix`, which names an index; the router asks for the token."""
    services = api.services

    @router.post(f"{prefix}/verification", summary="Compare catalog, ledger and index; repair")
    def verify(index_id: IndexId, asked: VerifyIn) -> VerificationOut:
        index, found = indexes.get(services.engine, index_id), None
        for record in asking.verified(
            services.engine, services.store, services.towers, index, asking.Wish(**dict(asked))
        ):
            found = record
        assert found is not None
        return VerificationOut.model_validate(found.as_dict())

    @router.get(f"{prefix}/verification", summary="The newest comparison, finished or not")
    def newest(index_id: IndexId) -> VerificationOut:
        indexes.get(services.engine, index_id)  # raises where there is none
        found = records.latest(services.engine, index_id, mode="once")
        if found is None:
            raise HTTPException(404, f"index {index_id} was never verified")
        return VerificationOut.model_validate(found.as_dict())
