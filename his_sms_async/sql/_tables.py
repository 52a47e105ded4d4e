"""The tables: one row for each poller, attempt, settlement and malformed row. No phone number, no text."""

from typing import Self

import attrs
from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, MetaData, SmallInteger, String, Table, Text
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import CreateTable

FORMAT = 1
"""Of the tables; a later version that changes them counts on."""

MAX_NAME = 200
"""Characters of a poller's name."""


@attrs.frozen
class Tables:
    """The tables under a prefix, in a schema of the user's choice."""

    metadata: MetaData
    store: Table
    """One row: the format, and an identity by which a transaction on another database is told."""
    poller: Table
    """The marks of each poller, and who leads."""
    settlement: Table
    """What never comes again; its primary key is the fence."""
    attempt: Table
    """What was handed out and is not settled, or was requeued."""
    quarantine: Table
    """Malformed rows, without their content."""

    @classmethod
    def named(cls, prefix: str, schema: str | None) -> Self:
        """Describe the tables; nothing is created."""
        metadata = MetaData(schema=schema)

        def table(name: str, *columns: Column[object]) -> Table:
            return Table(f"{prefix}{name}", metadata, *columns)

        def version() -> list[Column[object]]:
            return [
                Column("poller", String(MAX_NAME), primary_key=True),
                Column("message_id", BigInteger, primary_key=True, autoincrement=False),
                # CreatedAt modulo 15 minutes, in ticks of 100 ns
                Column("created_modulo", BigInteger, primary_key=True, autoincrement=False),
                # "" is the message itself, else the revision of a change
                Column("version", String(64), primary_key=True),
                # ticks of 100 ns on the server's wall clock since 0001-01-01, here and below
                Column("created", BigInteger, nullable=False),
                Column("updated", BigInteger, nullable=False),
            ]

        return cls(
            metadata=metadata,
            store=table(
                "store",
                Column("only", SmallInteger, primary_key=True, autoincrement=False),
                Column("id", String(32), nullable=False),
                Column("format", Integer, nullable=False),
            ),
            poller=table(
                "poller",
                Column("name", String(MAX_NAME), primary_key=True),
                Column("server", Text, nullable=False),
                Column("start", BigInteger),
                Column("low", BigInteger),
                Column("caught_up", BigInteger),
                Column("swept_at", Double),
                Column("epoch", BigInteger, nullable=False),
                Column("holder", String(200)),
                Column("lease_until", Double),  # seconds since 1970, by the database's clock
            ),
            settlement=table(
                "settlement",
                *version(),
                Column("states", Text, nullable=False),  # a JSON list
                Column("outcome", String(10), nullable=False),
                Column("reason", String(200)),
                Column("settled_by", String(64), nullable=False),
            ),
            attempt=table(
                "attempt",
                *version(),
                Column("number", Integer, nullable=False),
                Column("requeued", Boolean, nullable=False),
            ),
            quarantine=table(
                "quarantine",
                Column("poller", String(MAX_NAME), primary_key=True),
                Column("row_key", String(100), primary_key=True),
                Column("created", BigInteger),
                Column("updated", BigInteger),
                Column("reason", Text, nullable=False),
                Column("asked_from", BigInteger, nullable=False),
                Column("is_new", Boolean, nullable=False),
            ),
        )

    def ddl(self, dialect: Dialect) -> str:
        """The statements that create them."""
        created = (str(CreateTable(table).compile(dialect=dialect)) for table in self.metadata.sorted_tables)
        return "\n\n".join(f"{statement.strip()};" for statement in created) + "\n"
