"""Who may do what in schema `indexer`: roles with no more rights than their purpose needs.

Owner of table `roles`. What a purpose needs stands in the SQL function `indexer.permit`, which the
migrations make. The owner of the schema migrates, attaches and builds; a `worker` routes, claims,
acks and compares; `query` reads, for `twinspan up` and retrievers with user keys.
"""

from __future__ import annotations

from typing import Literal, cast, get_args

import sqlalchemy as sa

from indexer.errors import DatabaseError, UsageError

Purpose = Literal["worker", "query"]
PURPOSES = get_args(Purpose)

_PERMIT = sa.text("SELECT indexer.permit(:role, :purpose)")
_FORBID = sa.text("SELECT indexer.forbid(:role)")
_EXISTS = sa.text("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = :role)")
_MAY_CREATE = sa.text("SELECT rolcreaterole OR rolsuper FROM pg_roles WHERE rolname = current_user")
_KNOWN = sa.text("""
    SELECT role, purpose FROM indexer.roles JOIN pg_roles ON rolname = role
    WHERE CAST(:purpose AS text) IS NULL OR purpose = :purpose ORDER BY role
""")
_LOCK = sa.text("LOCK TABLE indexer.roles IN SHARE ROW EXCLUSIVE MODE")


def permit(connection: sa.Connection, role: str, purpose: Purpose) -> bool:
    """The role has exactly the rights that its purpose needs here. It is made, without a login,
    where there is none; returns whether. Raises DatabaseError with the SQL that somebody else has
    to run where this user may not make roles, UsageError for a role with the owner's rights."""
    connection.execute(_LOCK)
    created = not connection.scalar(_EXISTS, {"role": role})
    if created:
        _create(connection, role)
    elif _is_owner(connection, role):
        raise UsageError(
            f"role {role!r} has the rights of the schema's owner, so it can do everything anyway. "
            "Name a role of its own for it."
        )
    connection.execute(_PERMIT, {"role": role, "purpose": purpose})
    return created


def forbid(connection: sa.Connection, role: str) -> None:
    """The role has no rights in schema `indexer` any more. Raises UsageError for an unknown one."""
    connection.execute(_LOCK)
    if role not in all_of(connection):
        raise UsageError(
            f"role {role!r} was given nothing here. Known: {', '.join(all_of(connection)) or '-'}."
        )
    connection.execute(_FORBID, {"role": role})


def permit_again(connection: sa.Connection) -> None:
    """Every role that was given rights has those that its purpose needs now."""
    for role, purpose in all_of(connection).items():
        connection.execute(_PERMIT, {"role": role, "purpose": purpose})


def all_of(connection: sa.Connection, purpose: Purpose | None = None) -> dict[str, Purpose]:
    """role -> its purpose, of those that still exist: all, or those of one purpose."""
    rows = connection.execute(_KNOWN, {"purpose": purpose})
    return {row.role: cast("Purpose", row.purpose) for row in rows}


def _is_owner(connection: sa.Connection, role: str) -> bool:
    has_role = sa.text(
        "SELECT pg_has_role(:role, nspowner, 'USAGE') FROM pg_namespace WHERE nspname = 'indexer'"
    )
    return bool(connection.scalar(has_role, {"role": role}))


def _create(connection: sa.Connection, role: str) -> None:
    name = connection.dialect.identifier_preparer.quote_identifier(role)
    if not connection.scalar(_MAY_CREATE):
        raise DatabaseError(
            f"there is no role {role!r}, and this user may not create one. Have somebody run "
            f"CREATE ROLE {name} NOLOGIN; and try again."
        )
    connection.exec_driver_sql(f"CREATE ROLE {name} NOLOGIN".replace("%", "%%"))
