"""The HTTP API of a running `twinspan up`, as the commands use it: same verbs, same errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

import httpx

import encoders.errors
import indexer.errors
from indexer import embedded
from indexer.errors import EmbeddedError, TwinspanError, UsageError
from indexer.settings import Settings

if TYPE_CHECKING:
    from indexer.embedded import UpServer

CONNECT_S = 5.0
HEALTH_S = 30.0

Body = Mapping[str, object]


def find(settings: Settings) -> Server | None:
    """The `twinspan up` of this data directory, when it answers."""
    running = embedded.find_server(settings.data_dir)
    return Server(running) if running else None


class Server:
    """Errors are those that the same verb raises in this process."""

    def __init__(self, running: UpServer) -> None:
        self.address = running.base_url
        self._pid = running.pid
        self._client = httpx.Client(
            base_url=running.base_url,
            headers={"Authorization": f"Bearer {running.token}"},
            timeout=httpx.Timeout(None, connect=CONNECT_S),  # a promotion may optimise for minutes
            trust_env=False,  # loopback goes through no proxy
        )

    def recommend(self, alias: str, query: Body) -> Body:
        return self._ask("POST", "/recommend", {**query, "alias": alias})

    def similar(self, alias: str, query: Body) -> Body:
        return self._ask("POST", "/similar", {**query, "alias": alias})

    def reindex(self, asked: Body) -> int:
        """Start an index and have it filled in the background; returns its id."""
        return cast("int", self._ask("POST", "/indexes", asked)["id"])

    def promote(self, index_id: int, *, force: bool, by: str | None) -> None:
        self._ask("POST", f"/indexes/{index_id}/promote", {"force": force, "by": by})

    def judge(self, index_id: int, *, by: str | None) -> dict[str, object]:
        return dict(self._ask("POST", f"/indexes/{index_id}/gate", {"by": by}))

    def rollback(self, alias: str, *, force: bool, by: str | None) -> int:
        """Returns the id of the index that answers now."""
        path = f"/aliases/{quote(alias, safe='')}/rollback"
        return cast("int", self._ask("POST", path, {"force": force, "by": by})["id"])

    def cancel(self, index_id: int, *, by: str | None) -> None:
        self._ask("POST", f"/indexes/{index_id}/cancel", {"by": by})

    def retire(self, index_id: int, *, by: str | None) -> None:
        self._ask("POST", f"/indexes/{index_id}/retire", {"by": by})

    def verify(self, index_id: int, wish: Body) -> dict[str, object]:
        """Returns when the verification has finished."""
        return dict(self._ask("POST", f"/indexes/{index_id}/verification", wish))

    def problems(self, *, max_age_s: float | None = None) -> list[str]:
        """Why it is not ready; empty when it is."""
        asked = {} if max_age_s is None else {"max_age_s": max_age_s}
        try:
            answer = self._client.get("/health", params=asked, timeout=HEALTH_S).json()
            return [str(problem) for problem in answer["problems"]]
        except (httpx.HTTPError, ValueError, KeyError) as cause:
            return [f"`twinspan up` at {self.address} does not answer: {cause}"]

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, body: Body | None = None) -> Body:
        try:
            response = self._client.request(method, path, json=body)
        except UnicodeEncodeError as cause:
            raise UsageError("the request holds text that UTF-8 cannot say.") from cause
        except httpx.HTTPError as cause:
            raise EmbeddedError(
                f"`twinspan up` (process {self._pid}) at {self.address} went away: {cause}. "
                "Start it again, or ask without it."
            ) from cause
        return _read(response)


def _read(response: httpx.Response) -> Body:
    """The answer. Raises the error that it names."""
    try:
        answer: object = response.json()
    except ValueError as cause:
        raise EmbeddedError(
            f"{response.url} answered {response.status_code} with something that is not JSON."
        ) from cause
    found: Body = cast("Body", answer) if isinstance(answer, dict) else {}
    if response.is_success:
        return found
    raise _error(str(found.get("error")), str(found.get("message")), response.status_code)


def _error(kind: str, message: str, status: int) -> Exception:
    for module in (indexer.errors, encoders.errors):
        known = getattr(module, kind, None)
        if isinstance(known, type) and issubclass(known, Exception):
            return known(message)
    return UsageError(message) if 400 <= status < 500 else TwinspanError(message)
