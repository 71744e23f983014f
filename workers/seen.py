"""Which workers answer over the broker."""

# Celery comes without types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging

from celery import Celery

from indexer.settings import Settings

ANSWER_S = 1.0

log = logging.getLogger(__name__)


def seen(settings: Settings) -> list[str]:
    """Their names, after a second; none when the broker is away, which is logged."""
    assert settings.broker_url is not None, "the broker inside `twinspan up` reaches no others"
    app = Celery("twinspan", broker=settings.broker_url.get_secret_value(), set_as_current=False)
    app.conf.broker_connection_timeout = ANSWER_S
    try:
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=ANSWER_S)
            found = app.control.inspect(timeout=ANSWER_S, connection=connection).ping()
    except Exception as cause:  # noqa: BLE001 - each transport has its own
        log.warning("the broker does not answer: %s", type(cause).__name__)
        return []
    return sorted(found or {})
