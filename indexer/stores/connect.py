"""The vector store that the settings name."""

from __future__ import annotations

from indexer.settings import Settings
from indexer.stores import VectorStore
from indexer.stores.observed import observed

EDGE_FOLDER = "edge"  # inside data_dir


def connect(settings: Settings) -> VectorStore:
    """A Qdrant server where `qdrant_url` is set, else Qdrant Edge in `data_dir`/edge; its calls are
    measured.

    Raises StoreUnavailable where the server does not answer or refuses the key, StoreLocked where
    another process holds the directory."""
    if settings.qdrant_url is None:
        from indexer.stores.edge import EdgeStore

        return observed(EdgeStore(settings.data_dir / EDGE_FOLDER))
    from indexer.stores.qdrant import QdrantStore

    key = settings.qdrant_api_key
    return observed(
        QdrantStore(
            url=settings.qdrant_url,
            api_key=key.get_secret_value() if key else None,
            timeout_s=settings.store_timeout_s,
            batch_bytes=settings.batch_bytes,
            ca_file=settings.ca_file,
        )
    )
