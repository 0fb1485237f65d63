"""The tables of the hub's store, in SQLAlchemy Core, and the version of this schema.

Times are seconds since the epoch. Ids are canonical UUID texts. Secrets and tokens are stored as
SHA-256 digests only: all of them are random 256-bit values made here, so that a slow password
hash would add nothing.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    text,
)

SCHEMA_VERSION = 2  # `migrations` brings older ones here

metadata = MetaData()

# Counts submits; SQLite counts in 64 bits anyway, and by itself for this one type name only.
_Number = BigInteger().with_variant(Integer, "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)

clients = Table(
    "clients",
    metadata,
    Column("client_id", String(36), primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("secret_digest", String(64), nullable=False),
    # Part of what broker passwords are derived from: a rotation makes the old ones worthless.
    Column("generation", Integer, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("client_id", String(36), nullable=False, index=True),
    Column("resource_server", Text, nullable=False),
    Column("expires_at", Float, nullable=False, index=True),
)

endpoints = Table(
    "endpoints",
    metadata,
    Column("endpoint_id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("display_name", Text),
    Column("public", Boolean, nullable=False),
    Column("allowed_functions", Text),  # JSON list of UUIDs; null: every function
    Column("registration", Text, nullable=False),  # JSON of the body as it came
    Column("amqp_digest", String(64), nullable=False),
    Column("registered_at", Float, nullable=False),
    Column("locked_until", Float, nullable=False),
    Column("deleted", Boolean, nullable=False),
    # The last status report: when it came, until when it counts, what it said (JSON).
    Column("report_at", Float),
    Column("online_until", Float, nullable=False),
    Column("report", Text),
)

functions = Table(
    "functions",
    metadata,
    Column("function_id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("packed", Text, nullable=False),  # the code as one packed buffer
    Column("code", Text, nullable=False),  # as it came
    Column("description", Text),
    Column("metadata", Text),  # JSON
    Column("public", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("used_at", Float),  # the last submit that housekeeping has seen
)

task_groups = Table(
    "task_groups",
    metadata,
    Column("task_group_id", String(36), primary_key=True),
    Column("owner", String(36), nullable=False, index=True),
    Column("has_queue", Boolean, nullable=False),
    Column("created_at", Float, nullable=False),
)

submits = Table(
    "submits",
    metadata,
    Column("submit_id", _Number, primary_key=True, autoincrement=True),
    Column("client_id", String(36), nullable=False),
    Column("endpoint_id", String(36), nullable=False),
    Column("task_group_id", String(36), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("sent", Boolean, nullable=False),  # every task is with the broker
    Column("answered", Boolean, nullable=False),  # the client has its answer
    Column("created_at", Float, nullable=False),
    Index(
        "submits_unanswered",
        "created_at",
        sqlite_where=text("NOT answered"),
        postgresql_where=text("NOT answered"),
    ),
)

tasks = Table(
    "tasks",
    metadata,
    Column("task_id", String(36), primary_key=True),
    Column("submit_id", _Number, nullable=False, index=True),
    Column("position", Integer, nullable=False),  # order within the submit
    Column("function_id", String(36), nullable=False),
    Column("endpoint_id", String(36), nullable=False),
    Column("task_group_id", String(36), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("completed_at", Float, index=True),
    Index(
        "tasks_waiting",
        "endpoint_id",
        sqlite_where=text("state = 'waiting'"),
        postgresql_where=text("state = 'waiting'"),
    ),
)

results = Table(
    "results",
    metadata,
    Column("task_id", String(36), primary_key=True),
    Column("body", LargeBinary, nullable=False),  # the result message as it travels
    Column("relayed", Boolean, nullable=False),  # the task group's queue has it, or needs it not
    Column("fetched_at", Float),  # when a client first had it from a REST route
)

# What several hubs on one database must know of each other; one hub alone has it in memory.
shared_metadata = MetaData()

# Submits whose client has no answer yet: which hub works on them, and whether that client is gone.
open_submits = Table(
    "open_submits",
    shared_metadata,
    Column("submit_id", BigInteger, primary_key=True, autoincrement=False),
    Column("client_id", String(36), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("hub", Integer, nullable=False),  # the number of the hub process
    Column("orphaned", Boolean, nullable=False),
    Index("open_submits_equal", "client_id", "digest"),
)

WAITING = "waiting"
SUCCESS = "success"
FAILED = "failed"
