"""Celery workers: doorbells around `indexer.sync.drain`.

A message carries no data, only "look at this index". Losing one costs a poll interval, never a
change; a duplicate costs a look. The ledger in PostgreSQL alone says what is to be done.
"""
