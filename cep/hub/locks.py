"""What hubs on one PostgreSQL lock against each other; nothing on SQLite, which one hub uses alone.

Advisory locks have two numbers: the first is ours in this database, the second says what is meant.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Connection, Integer, String, exists, func, literal, select
from sqlalchemy import column as _column
from sqlalchemy import table as _table

SPACE = 0x636570  # "cep"
HUBS = 0  # shared by hubs that can be several, exclusive for one that cannot; above: hub processes
SCHEMA = -1
HOUSEKEEPING = -2
GROUPS = -3

_locks = _table(
    "pg_locks",
    _column("locktype", String),
    _column("classid", Integer),
    _column("objid", Integer),
    _column("objsubid", Integer),
    _column("database", Integer),
)
_databases = _table("pg_database", _column("oid", Integer), _column("datname", String))


def is_shared(connection: Connection) -> bool:
    """Whether other processes may work on this database at the same time."""
    return connection.dialect.name == "postgresql"


def my_turn(connection: Connection, what: int) -> bool:
    """Try to be the one who does something until this transaction ends; False: another one is.

    Whose turn it is may take as long as it needs.
    """
    if not is_shared(connection):
        return True
    mine = connection.execute(select(func.pg_try_advisory_xact_lock(SPACE, what))).scalar()
    if mine:
        connection.execute(select(func.set_config("statement_timeout", "0", True)))
    return bool(mine)


def hold(connection: Connection, what: int, *, exclusively: bool) -> None:
    """Wait for a lock and keep it until this transaction ends."""
    if is_shared(connection):
        lock = func.pg_advisory_xact_lock if exclusively else func.pg_advisory_xact_lock_shared
        connection.execute(select(lock(SPACE, what)))


def hub_is_alive(number: ColumnElement[int]) -> ColumnElement[bool]:
    """Whether the hub process of that number has its session; PostgreSQL only."""
    here = select(_databases.c.oid).where(_databases.c.datname == func.current_database())
    return exists(
        select(literal(1)).where(
            _locks.c.locktype == "advisory",
            _locks.c.classid == SPACE,
            _locks.c.objid == number,
            _locks.c.objsubid == 2,  # two numbers of 32 bits
            _locks.c.database == here.scalar_subquery(),
        )
    )
