"""The revisions of schema `indexer`, run by `twinspan migrate` or by `alembic upgrade head`."""
