"""PostgresSink: records as rows of a table, visible with the checkpoint that covers them.

The description alone: it checks what the user has set and makes writers. Nothing here talks to a
server; see ``writer``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeVar

from streamline.config import Duration, positive_duration_ms
from streamline.connectors.postgres.writer import PostgresWriter, WriteSettings
from streamline.errors import UsageError
from streamline.io import Guarantee, Sink, SinkWriter

T = TypeVar("T")


class PostgresSink(Sink[T]):
    """Writes Records, dicts or window results to a table of PostgreSQL.

    Exactly once: rows of one epoch are copied into a staging table. Once the checkpoint is
    complete they go into the table, together with the note that they have, in one transaction;
    so a repeated commit does nothing.

    Args:
        dsn: How to connect: ``"postgresql://user:password@host/database"`` or ``"host=... "``.
        table: Where to write, perhaps with a schema in front; it must be there.
        columns: Fields to write, each to the column of its name; all fields if not given.
        mode: ``"insert"`` adds rows; ``"upsert"`` replaces the row with the same key.
        key: Columns of the unique constraint that an upsert goes by.
        guarantee: ``"exactly-once"``, or ``"at-least-once"`` without staging.
        commits_table: Where is noted what was committed; made if it is not there.
        give_up_after: How long to try while the server cannot be reached.

    Raises:
        UsageError: For a setting that cannot be.

    >>> PostgresSink("postgresql://localhost/shop", table="spend", mode="upsert", key="user").table
    'spend'
    """

    def __init__(
        self,
        dsn: str,
        *,
        table: str,
        columns: Sequence[str] | None = None,
        mode: Literal["insert", "upsert"] = "insert",
        key: str | Sequence[str] | None = None,
        guarantee: Literal["exactly-once", "at-least-once"] = "exactly-once",
        commits_table: str = "streamline_commits",
        give_up_after: Duration = "5m",
    ) -> None:
        if mode not in ("insert", "upsert"):
            raise UsageError(f'mode={mode!r} must be "insert" or "upsert"')
        if guarantee not in tuple(Guarantee):
            raise UsageError(f'guarantee={guarantee!r} must be "exactly-once" or "at-least-once"')
        keys = (key,) if isinstance(key, str) else tuple(key or ())
        if (mode == "upsert") != bool(keys):
            raise UsageError('mode="upsert" needs key=, and no other mode takes one')
        if not table:
            raise UsageError("PostgresSink(table=...) must be the name of a table")
        if isinstance(columns, str) or (columns is not None and not columns):
            raise UsageError(f"columns={columns!r} must be a list of names")
        missing = [name for name in keys if columns is not None and name not in columns]
        if missing:
            raise UsageError(f"the key column {missing[0]!r} is not among columns={columns!r}")
        self.table = table
        self.guarantee = Guarantee(guarantee)
        self.settings = WriteSettings(
            dsn=dsn,
            table=table,
            columns=None if columns is None else tuple(columns),
            key=keys,
            exactly_once=self.guarantee == Guarantee.EXACTLY_ONCE,
            commits_table=commits_table,
            give_up_after_ms=positive_duration_ms(give_up_after, "give_up_after"),
        )

    def writer(self) -> SinkWriter[Any]:
        return PostgresWriter(self.settings)
