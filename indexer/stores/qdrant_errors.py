"""The client's errors turned into ours, in one place: outage, refusal, or nothing there."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager

import httpx
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import (
    ApiException,
    ResponseHandlingException,
    UnexpectedResponse,
)

from indexer.errors import CollectionMissing, StoreError, StoreRejected, StoreUnavailable

REFUSED_KEY = (401, 403)
NOT_NOW = (408, 425, 429)


@contextmanager
def translated(store: str) -> Generator[None]:
    """Turn what the client raises into StoreErrors; `store` names the server, without secrets."""
    try:
        yield
    except UnexpectedResponse as cause:
        raise _of_response(cause, store) from cause
    except ResponseHandlingException as cause:
        raise _of_transport(cause, store) from cause
    except (ApiException, QdrantException) as cause:  # 429 with Retry-After
        raise StoreUnavailable(f"{store} asks to wait: {cause}") from cause
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as cause:
        raise StoreUnavailable(f"{store} cannot be reached: {cause}.") from cause
    except json.JSONDecodeError as cause:  # a proxy's page instead of the server's answer
        raise StoreUnavailable(
            f"{store} does not answer as Qdrant does. Check qdrant_url."
        ) from cause
    except RuntimeError as cause:  # a closed client
        raise StoreUnavailable(f"{store}: {_first_line(cause)}") from cause
    except (ValueError, TypeError, KeyError, AssertionError) as cause:  # local mode, and models
        raise _of_value(cause, store) from cause


def _of_response(cause: UnexpectedResponse, store: str) -> StoreError:
    status, said = cause.status_code or 0, _said(cause)
    if status in REFUSED_KEY:
        return StoreUnavailable(
            f"{store} refuses us ({status}): {said}. Set qdrant_api_key to a key that may write."
        )
    if status in NOT_NOW or status >= 500:
        return StoreUnavailable(f"{store} is not available ({status}): {said}")
    if status == 404:
        return CollectionMissing(f"{store} has no such collection: {said}")
    return StoreRejected(f"{store} refused the request ({status}): {said}")


def _of_transport(cause: ResponseHandlingException, store: str) -> StoreError:
    source = cause.source
    if isinstance(source, httpx.TimeoutException):
        return StoreUnavailable(f"{store} did not answer in time ({type(source).__name__}).")
    if isinstance(source, httpx.HTTPError | OSError):
        return StoreUnavailable(
            f"{store} cannot be reached: {source}. Check qdrant_url and that the server runs."
        )
    return StoreUnavailable(
        f"{store} gave an answer that this client does not understand: {_first_line(source)}. "
        "Check that its version is within one minor release of qdrant-client's."
    )


def _of_value(cause: Exception, store: str) -> StoreError:
    said = _first_line(cause)
    if "not found" in said and "ollection" in said:
        return CollectionMissing(f"{store}: {said}")
    return StoreRejected(f"{store} refused the request: {said}")


def _said(cause: UnexpectedResponse) -> str:
    """The server's own words out of its JSON answer, or the beginning of whatever it sent."""
    try:
        return str(json.loads(cause.content)["status"]["error"])[:500]
    except (ValueError, KeyError, TypeError):
        return cause.content[:200].decode(errors="replace") or cause.reason_phrase


def _first_line(cause: BaseException) -> str:
    return (str(cause).splitlines() or [type(cause).__name__])[0][:500]
