"""What can go wrong, as a tree. The command line prints one line and exits 1, or 2 for UsageError.

TwinspanError
├── UsageError                the caller's input is wrong; nothing was done
│   ├── SettingsError         a setting is missing, unknown or out of range
│   ├── SpecError             the catalog's description is wrong: file, field, remedy
│   ├── FilterError           a `where` that the catalog's fields cannot answer
│   ├── QueryError            a recommend or similar call that makes no sense
│   └── ImportFailed          a data file that is not what it was said to be: file, line, remedy
├── DatabaseError
│   ├── DatabaseUnavailable   PostgreSQL does not answer, or refuses us: an outage
│   ├── SchemaMissing         our schema is not there: run `twinspan migrate`
│   ├── SchemaOutdated        our schema is older than the code: run `twinspan migrate`
│   ├── SchemaTooNew          our schema has left this release behind: upgrade the code
│   └── SchemaInUse           workers of an older release need what a migration takes away
├── CatalogError
│   ├── CatalogUnknown        no catalog of that name is attached
│   └── CatalogUnwatchable    a table that triggers cannot watch in full
├── StoreError
│   ├── StoreUnavailable      the vector store does not answer: an outage, charged to nobody
│   ├── StoreLocked           another process holds the Edge directory
│   ├── StoreRejected         the store refused these points or this query
│   ├── CollectionMissing     no collection or alias of that name
│   ├── CollectionMismatch    the collection exists with other vectors, metadata or fields
│   └── StoreAhead            the store holds writes that the database has not made yet
├── IndexStateError           an index that is not in the state asked for
│   ├── IndexUnknown          no index of that id, or none that is live under that alias
│   └── GateRefused           the gate found the index unfit: which check, by how much, what to do
├── EncoderMismatch           a tower that did not build this index
└── EmbeddedError             the embedded servers could not start, stop or be reached
"""

from __future__ import annotations


class TwinspanError(Exception):
    """Twinspan could not do what was asked."""


class UsageError(TwinspanError):
    """The input is wrong; nothing was done."""


class SettingsError(UsageError):
    """A setting is missing, unknown or out of range."""


class SpecError(UsageError):
    """The catalog's description is wrong."""


class FilterError(UsageError):
    """The filter cannot be answered from this catalog's fields."""


class QueryError(UsageError):
    """The query makes no sense."""


class ImportFailed(UsageError):
    """The data file is not what it was said to be."""


class DatabaseError(TwinspanError):
    """PostgreSQL could not do what was asked."""


class DatabaseUnavailable(DatabaseError):
    """PostgreSQL does not answer, or refuses us."""


class SchemaMissing(DatabaseError):
    """The schema `indexer` is not there. Run `twinspan migrate`."""


class SchemaOutdated(DatabaseError):
    """The schema `indexer` is older than this release. Run `twinspan migrate`."""


class SchemaTooNew(DatabaseError):
    """The schema `indexer` is newer than this release. Upgrade twinspan."""


class SchemaInUse(DatabaseError):
    """Workers of an older release are still running. Stop them, then run `twinspan migrate`."""


class CatalogError(TwinspanError):
    """The catalog could not be attached, read or detached."""


class CatalogUnknown(CatalogError):
    """No catalog of that name is attached."""


class CatalogUnwatchable(CatalogError):
    """The table cannot be watched in full."""


class StoreError(TwinspanError):
    """The vector store could not do what was asked."""


class StoreUnavailable(StoreError):
    """The vector store does not answer."""


class StoreLocked(StoreError):
    """Another process holds the vector store's directory."""


class StoreRejected(StoreError):
    """The vector store refused the request."""


class CollectionMissing(StoreError):
    """There is no collection or alias of that name."""


class CollectionMismatch(StoreError):
    """The collection exists, made for something else."""


class StoreAhead(StoreError):
    """The store is ahead of the database, which was restored. Run `twinspan reconcile`."""


class IndexStateError(TwinspanError):
    """The index is not in the state that this needs."""


class IndexUnknown(IndexStateError):
    """There is no index of that id, or none is live under that alias."""


class GateRefused(IndexStateError):
    """The gate found the index unfit to go live."""


class EncoderMismatch(TwinspanError):
    """The tower at hand did not build this index."""


class EmbeddedError(TwinspanError):
    """The embedded servers could not start, stop or be reached."""
