"""Commits: the table that tells what has been committed, and the statements around staging.

One row for each slot of each task: the token of what was staged there last, and whether it went
into the target. It changes in the same transaction as the rows do, and that is all there is to
exactly once here. One more row for each sink names the run that writes there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql

from streamline.connectors.postgres.table import identifier
from streamline.errors import ConnectorError, FencedError

_ORDER = "streamline_order"
_CREATE = """
create table if not exists {} (
    sink text not null, task int not null, slot int not null,
    run text not null, token text not null, committed boolean not null,
    given_up text[] not null default '{{}}', primary key (sink, task, slot))
"""
_HOLDER = -1
"""In place of a task, in the row that names the run."""
_HOLD = """
insert into {} as old (sink, task, slot, run, token, committed) values (%s, %s, 0, %s, '', true)
on conflict (sink, task, slot) do update set run = excluded.run
    where old.run = excluded.run or not %s
"""
_GIVE_UP = """
update {} set token = '', committed = true, given_up = (array_prepend(token, given_up))[:32]
where sink = %s and task = %s and slot = %s and not committed
"""
_BEGIN = """
insert into {} as old (sink, task, slot, run, token, committed) values (%s, %s, %s, %s, %s, false)
on conflict (sink, task, slot) do update
    set token = excluded.token, committed = false where old.run = excluded.run
"""
_CUT_OFF = """
select pg_terminate_backend(pid) from pg_stat_activity
where usename = current_user and pid <> pg_backend_pid() and application_name like %s
    and split_part(application_name, '/', 4) <> %s
    and split_part(application_name, '/', 3)::int %% %s = %s
"""


@dataclass(frozen=True)
class Staged:
    """Rows that wait in a staging table.

    Attributes:
        table: Where they are to go.
        task, slot: Whose they are.
        token: Names this filling of the slot; no other ever has the same.
        checkpoint: Epoch of the checkpoint that covers them.
        columns: What they hold.
    """

    table: str
    task: int
    slot: int
    token: str
    checkpoint: int
    columns: tuple[str, ...]

    def as_list(self) -> list[Any]:
        """For the checkpoint."""
        return [
            self.table, self.task, self.slot, self.token, self.checkpoint, list(self.columns),
        ]  # fmt: skip

    @classmethod
    def of(cls, stored: Sequence[Any]) -> Staged:
        """Undo :meth:`as_list`."""
        table, task, slot, token, checkpoint, columns = stored
        return cls(table, task, slot, token, checkpoint, tuple(columns))


class Commits:
    """The statements of one sink; each is called within a transaction of the caller's.

    Args:
        job, node: Whose sink it is.
        table: Name of the table with the notes.
        whole_run: Names our run, the same over all its attempts; empty if nobody is to know.
    """

    def __init__(self, job: str, node: str, table: str, *, whole_run: str = "") -> None:
        self.sink = f"{job}/{node}"
        self._job = job
        self._run = whole_run
        self.tag = hashlib.blake2b(self.sink.encode(), digest_size=4).hexdigest()
        self._table = identifier(table)

    def application(self, task: int, run: str) -> str:
        """What our connections are called, so that those of earlier attempts can be found."""
        return f"streamline/{self.tag}/{task}/{run}"

    async def create(self, connection: AsyncConnection[Any]) -> None:
        """Make the table if it is not there."""
        # Two tasks that both find it missing would both make it.
        await connection.execute("select pg_advisory_xact_lock(7366481)")
        await connection.execute(sql.SQL(_CREATE).format(self._table))

    async def overthrown(self, connection: AsyncConnection[Any]) -> bool:
        """Whether the last run to take over was not ours."""
        if not self._run:
            return False
        cursor = await connection.execute(
            sql.SQL("select run from {} where sink = %s and task = %s").format(self._table),
            [self.sink, _HOLDER],
        )
        row = await cursor.fetchone()
        return row is not None and row[0] != self._run

    async def hold(self, connection: AsyncConnection[Any], *, took_over: bool) -> None:
        """Note that our run writes here now.

        Args:
            connection: Where.
            took_over: It did so before, so that another run that does is a newer one.

        Raises:
            FencedError: If there is a newer one.
        """
        if not self._run:
            return
        cursor = await connection.execute(
            sql.SQL(_HOLD).format(self._table), [self.sink, _HOLDER, self._run, took_over]
        )
        if cursor.rowcount == 0:
            raise self.fenced()

    def fenced(self) -> FencedError:
        """What to tell when a newer run has taken over."""
        return FencedError(
            f"a newer run of job {self._job!r} writes here now, so this one ends; see to it that "
            "only one is started, or give one of the jobs another name"
        )

    async def take_over(
        self, connection: AsyncConnection[Any], run: str, share: tuple[int, int]
    ) -> list[tuple[int, int, bool]]:
        """Shut out the earlier writers of a share, and make their slots ours.

        Args:
            connection: Where.
            run: Our attempt.
            share: Index and parallelism.

        Returns:
            Task and slot of each, and whether what is staged there was committed.
        """
        index, parallelism = share
        # One that stands still in a transaction would hold its row for ever.
        await connection.execute(_CUT_OFF, [f"streamline/{self.tag}/%", run, parallelism, index])
        cursor = await connection.execute(
            sql.SQL(
                "update {} set run = %s where sink = %s and task >= 0 and task %% %s = %s "
                "returning task, slot, committed"
            ).format(self._table),
            [run, self.sink, parallelism, index],
        )
        return await cursor.fetchall()

    async def begin(
        self, connection: AsyncConnection[Any], task: int, slot: int, *, run: str, token: str
    ) -> None:
        """Note that a slot is being filled.

        Raises:
            FencedError: If a newer run has taken it over.
            ConnectorError: If a newer attempt of ours has.
        """
        cursor = await connection.execute(
            sql.SQL(_BEGIN).format(self._table), [self.sink, task, slot, run, token]
        )
        if await self.overthrown(connection):  # a slot that nobody has used yet is not theirs
            raise self.fenced()
        if cursor.rowcount == 0:
            raise ConnectorError(
                "this writer has been shut out by a later attempt of the job, which writes in its "
                "place"
            )

    async def settle(
        self, connection: AsyncConnection[Any], staged: Staged, key: Sequence[str]
    ) -> None:
        """Move staged rows to where they are to go, unless that was done before.

        Raises:
            FencedError: If a newer run has given them up.
            ConnectorError: If nothing is known of them, or they were given up.
        """
        cursor = await connection.execute(
            sql.SQL(
                "select token, committed, given_up from {} "
                "where sink = %s and task = %s and slot = %s for update"
            ).format(self._table),
            [self.sink, staged.task, staged.slot],
        )
        row = await cursor.fetchone()
        token, committed, given_up = row or ("", False, [])
        lost = row is None or staged.token in given_up
        if not lost and (committed or token != staged.token):
            return  # a slot is filled again only after what it held was committed
        if await self.overthrown(connection):
            raise self.fenced()
        if row is None:
            raise ConnectorError(
                f"nothing is known of the rows of checkpoint {staged.checkpoint}, task "
                f"{staged.task}: somebody removed their note, or it is another database; they are "
                "lost"
            )
        if lost:
            raise ConnectorError(
                f"the rows of checkpoint {staged.checkpoint}, task {staged.task}, were given up by "
                "a run that went on from another checkpoint, or began anew; they are lost"
            )
        await self.merge(connection, staged, key)
        await connection.execute(
            sql.SQL(
                "update {} set committed = true where sink = %s and task = %s and slot = %s"
            ).format(self._table),
            [self.sink, staged.task, staged.slot],
        )

    async def merge(
        self, connection: AsyncConnection[Any], staged: Staged, key: Sequence[str]
    ) -> None:
        """Insert the staged rows; of several with the same key the last counts."""
        names = sql.SQL(", ").join(map(sql.Identifier, staged.columns))
        stage = self.stage(staged.table, staged.task, staged.slot)
        parts = {"target": identifier(staged.table), "names": names, "stage": stage}
        if not key:
            text = "insert into {target} ({names}) select {names} from {stage}"
            await connection.execute(sql.SQL(text).format(**parts))
            return
        keys = sql.SQL(", ").join(map(sql.Identifier, key))
        changes = sql.SQL(", ").join(
            sql.SQL("{0} = excluded.{0}").format(sql.Identifier(name))
            for name in staged.columns
            if name not in key
        )
        text = (
            "insert into {target} ({names}) select distinct on ({keys}) {names} from {stage} "
            "order by {keys}, {order} desc on conflict ({keys}) do "
        )
        then = (
            sql.SQL("update set {}").format(changes)
            if len(staged.columns) > len(key)
            else (sql.SQL("nothing"))
        )
        order = sql.Identifier(_ORDER)
        await connection.execute(sql.SQL(text).format(keys=keys, order=order, **parts) + then)

    def stage(self, table: str, task: int, slot: int) -> sql.Composed:
        """Name of a staging table, in the schema of the target."""
        schema, _, _ = table.rpartition(".")
        return identifier(f"{schema}{'.' if schema else ''}streamline_{self.tag}_{task}_{slot}")

    async def make_stage(
        self, connection: AsyncConnection[Any], staged: Staged, others: Sequence[str]
    ) -> None:
        """A new, empty staging table with the target's columns and checks.

        Args:
            connection: Where.
            staged: Which.
            others: Columns of the target that are not written.
        """
        stage = self.stage(staged.table, staged.task, staged.slot)
        await connection.execute(sql.SQL("drop table if exists {}").format(stage))
        await connection.execute(
            sql.SQL("create table {} (like {} including constraints)").format(
                stage, identifier(staged.table)
            )
        )
        for name in others:
            drop = sql.SQL("alter table {} drop column {} cascade")
            await connection.execute(drop.format(stage, sql.Identifier(name)))
        add = sql.SQL("alter table {} add column {} bigint generated always as identity")
        await connection.execute(add.format(stage, sql.Identifier(_ORDER)))

    async def give_up(
        self, connection: AsyncConnection[Any], table: str, *, task: int, slot: int
    ) -> None:
        """Remove a staging table; what was in it, unless it was committed, is noted as given up."""
        await connection.execute(
            sql.SQL("drop table if exists {}").format(self.stage(table, task, slot))
        )
        await connection.execute(sql.SQL(_GIVE_UP).format(self._table), [self.sink, task, slot])
