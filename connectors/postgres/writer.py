"""PostgresWriter: the rows of one task, staged and then moved.

It owns the two connections of a task, its staging tables and the order of what happens: staged at
the barrier, moved behind the manifest. The statements stand in ``commits``, the text of rows in
``rows``. When a checkpoint is taken, and whether it was completed, it is told by its task.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection, sql

from streamline.batch import Batch
from streamline.connectors.outage import Patience
from streamline.connectors.postgres.commits import Commits, Staged
from streamline.connectors.postgres.refusal import Refusal
from streamline.connectors.postgres.rows import encode_rows
from streamline.connectors.postgres.table import Table, check_key, identifier, read_table
from streamline.errors import (
    ConnectorError,
    EncodeError,
    FencedError,
    OutageError,
    StreamlineError,
    UsageError,
)
from streamline.io import Committable, SinkWriter, WriterContext

T = TypeVar("T")
_COPY_BYTES = 1 << 18
_MOST_SLOTS = 64


@dataclass(frozen=True)
class WriteSettings:
    """What a writer is told of its sink; ``PostgresSink`` says what each means."""

    dsn: str
    table: str
    columns: tuple[str, ...] | None
    key: tuple[str, ...]
    exactly_once: bool
    commits_table: str
    give_up_after_ms: int


class PostgresWriter(SinkWriter[T]):
    """Fills staging tables over one connection and settles them over another.

    The rows of an epoch are one transaction of the first, which ends with ``prepare``. When the
    connection is lost they are lost with it, and the job goes back to its checkpoint. To settle
    can be repeated, so that is done until the server is back.
    """

    def __init__(self, settings: WriteSettings) -> None:
        self._settings = settings
        self._refusal = Refusal(settings.dsn)
        self._filling: AsyncConnection[Any] | None = None
        self._settling: AsyncConnection[Any] | None = None
        self._table: Table | None = None
        self._columns: tuple[str, ...] = settings.columns or ()
        self._checked = False
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._staged: Staged | None = None
        self._free: deque[int] = deque()
        self._made: set[int] = set()
        self._slots = 0

    # ------------------------------------------------------------------ begin

    async def open(self, context: WriterContext) -> None:
        self._context = context
        settings = self._settings
        self._commits = Commits(
            context.job, context.node, settings.commits_table, whole_run=context.whole_run
        )
        self._patience = Patience(
            what=self._what,
            system="PostgreSQL",
            away=(psycopg.OperationalError,),
            wrong=(psycopg.Error,),
            explain=explain,
            give_up_after_s=settings.give_up_after_ms / 1000,
        )
        await self._patience.retry(self._look_around)

    async def _look_around(self) -> None:
        settings = self._settings
        if self._filling is not None:
            await self._filling.close()
        self._filling = await self._connect()
        self._table = await read_table(self._filling, self._what, settings.table)
        if settings.key:
            await check_key(self._filling, self._what, self._table, key=settings.key)
        if settings.exactly_once:
            await self._commits.create(self._filling)
        await self._filling.commit()

    async def _connect(self) -> AsyncConnection[Any]:
        context = self._context
        name = self._commits.application(context.index, context.run)
        try:
            return await AsyncConnection.connect(self._settings.dsn, application_name=name)
        except psycopg.OperationalError as error:
            if await self._refusal.met(error):
                text = " ".join(str(error).split())
                raise ConnectorError(
                    f"{self._what}: PostgreSQL does not let us in: {text}; correct dsn=, or what "
                    "the server allows"
                ) from error
            raise

    async def recover(self, committables: list[Committable]) -> None:
        if not self._settings.exactly_once and not committables:
            return  # with some, the job promised more before it was changed
        staged = [Staged.of(stored) for stored in committables]
        await self._patience.retry(lambda: self._take_over(staged))
        self._context.probe("shut_out")
        for one in staged:
            await self._settle(one)
        self._context.probe("settled")

    async def _take_over(self, staged: list[Staged]) -> None:
        """Make the slots of our share ours, and give up what no checkpoint names."""
        context, commits = self._context, self._commits
        connection = await self._settler()
        named = {(one.task, one.slot) for one in staged}
        share = (context.index, context.parallelism)
        if context.took_over and await commits.overthrown(connection):
            raise FencedError(f"{self._what}: {commits.fenced()}")
        for task, slot, _ in await commits.take_over(connection, context.run, share):
            if (task, slot) not in named:
                await commits.give_up(connection, self._settings.table, task=task, slot=slot)
        # Last, since whoever stands still with that row locked has been cut off by now.
        await commits.hold(connection, took_over=context.took_over)
        context.probe("held")
        await connection.commit()
        mine = sorted(slot for task, slot in named if task == context.index)
        self._slots = max([2, *(slot + 1 for slot in mine)])
        self._free = deque(slot for slot in range(self._slots) if slot not in mine)

    # ------------------------------------------------------------------ writing

    def write(self, batch: Batch) -> None:
        if not self._checked:
            self._check(batch)
        try:
            data = encode_rows([batch.column(name) for name in self._columns])
        except (EncodeError, UsageError) as error:
            raise type(error)(f"{self._what}: {error}") from error
        self._buffer.append(data)
        self._buffered += len(data)
        self._context.counters.bytes_out += len(data)

    def _check(self, batch: Batch) -> None:
        """Before the first row: do the records fit into the table?"""
        assert self._table is not None
        first = batch.to_rows().values[0]
        if not self._columns:
            if isinstance(first, dict):
                self._columns = tuple(first)
            elif hasattr(first, "__struct_fields__"):
                self._columns = first.__struct_fields__
            else:
                raise UsageError(
                    f"{self._what}: a row must be a Record or a dict, not {first!r:.80}"
                )
        self._table.check(self._what, self._columns, first)
        missing = [name for name in self._settings.key if name not in self._columns]
        if missing:
            raise UsageError(f"{self._what}: the records have no key field {missing[0]!r}")
        self._checked = True

    async def ready(self) -> None:
        if self._buffered >= _COPY_BYTES:
            await self._in_words(self._flush)

    async def _flush(self) -> None:
        """Send what is buffered; the first time in an epoch, begin its transaction."""
        if not self._buffer:
            return
        assert self._filling is not None and self._table is not None
        connection, settings = self._filling, self._settings
        if self._staged is None:
            await self._begin(connection)
        assert self._staged is not None
        if self._direct:
            target = identifier(settings.table)
        else:
            staged = self._staged
            target = self._commits.stage(staged.table, staged.task, staged.slot)
        names = sql.SQL(", ").join(map(sql.Identifier, self._columns))
        statement = sql.SQL("copy {} ({}) from stdin").format(target, names)
        data, self._buffer, self._buffered = self._buffer, [], 0
        async with connection.cursor() as cursor, cursor.copy(statement) as copy:
            for piece in data:
                await copy.write(piece)

    @property
    def _direct(self) -> bool:
        """Whether rows go straight into the table."""
        return not self._settings.exactly_once and not self._settings.key

    async def _begin(self, connection: AsyncConnection[Any]) -> None:
        context, settings, commits = self._context, self._settings, self._commits
        assert self._table is not None
        slot = 0
        if settings.exactly_once:
            if not self._free:
                if self._slots >= _MOST_SLOTS:
                    raise ConnectorError(
                        f"{self._slots} epochs wait for a checkpoint to complete; see why "
                        "checkpoints fail"
                    )
                self._free.append(self._slots)
                self._slots += 1
            slot = self._free.popleft()
        token = secrets.token_hex(8)
        staged = Staged(settings.table, context.index, slot, token, 0, self._columns)
        if settings.exactly_once:
            await commits.begin(connection, context.index, slot, run=context.run, token=token)
        if not self._direct:
            if slot in self._made:
                stage = commits.stage(settings.table, context.index, slot)
                await connection.execute(sql.SQL("truncate {}").format(stage))
            else:
                every = (*self._table.columns, *self._table.generated)
                others = [name for name in every if name not in self._columns]
                await commits.make_stage(connection, staged, others)
        self._staged = staged

    async def prepare(self, epoch: int) -> list[Committable]:
        prepared: list[Committable] = await self._in_words(lambda: self._prepare(epoch))
        return prepared

    async def _prepare(self, epoch: int) -> list[Committable]:
        await self._flush()
        staged, self._staged = self._staged, None
        if staged is None:
            return []
        assert self._filling is not None
        if not self._settings.exactly_once and not self._direct:
            await self._commits.merge(self._filling, staged, self._settings.key)
        await self._filling.commit()
        self._made.add(staged.slot)
        if not self._settings.exactly_once:
            return []
        return [
            Staged(
                staged.table, staged.task, staged.slot, staged.token, epoch, staged.columns
            ).as_list()
        ]

    # ------------------------------------------------------------------ commit

    async def commit(self, committables: list[Committable]) -> None:
        for stored in committables:
            await self._settle(Staged.of(stored))

    async def _settle(self, staged: Staged) -> None:
        async def work() -> None:
            connection = await self._settler()
            await self._commits.settle(connection, staged, self._settings.key)
            await connection.commit()

        try:
            await self._patience.retry(work)
        except ConnectorError as error:
            what = f"{self._what}: "
            text = str(error).removeprefix(what)
            raise type(error)(
                f"{what}the rows of checkpoint {staged.checkpoint} cannot go into table "
                f"{staged.table!r}: {text}"
            ) from error
        if staged.task == self._context.index and staged.slot not in self._free:
            self._free.append(staged.slot)

    async def _settler(self) -> AsyncConnection[Any]:
        """The second connection, without a transaction; a new one if the last was lost."""
        connection = self._settling
        if connection is not None and not connection.closed and not connection.broken:
            await connection.rollback()
            return connection
        self._settling = connection = await self._connect()
        return connection

    # ------------------------------------------------------------------ end

    async def close(self) -> None:
        for connection in (self._filling, self._settling):
            if connection is not None:
                await connection.close()
        self._filling = self._settling = None

    @property
    def _what(self) -> str:
        return f"sink {self._context.node!r}"

    async def _in_words(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do something that cannot be repeated; an error ends the task."""
        try:
            return await work()
        except psycopg.Error as error:
            table = self._settings.table
            away = isinstance(error, psycopg.OperationalError)
            kind = OutageError if away else ConnectorError
            raise kind(f"{self._what}, table {table!r}: {explain(error)}") from error
        except StreamlineError as error:
            raise type(error)(f"{self._what}: {error}") from error


def explain(error: BaseException) -> str:
    """An error of PostgreSQL in one sentence."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        diagnosis = error.diag
        parts: Sequence[str | None] = (diagnosis.message_primary, diagnosis.message_detail)
        text = "; ".join(part.rstrip(".") for part in parts if part)
        where = (diagnosis.context or "").split("\n")[0]
        return f"{text} ({where})" if where else text
    text = " ".join(str(error).split())
    return f"PostgreSQL cannot be reached: {text}" if text else type(error).__name__
