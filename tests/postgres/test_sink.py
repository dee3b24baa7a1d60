"""PostgresSink: rows, what is told before the first, and what a lost connection does."""

import asyncio
import datetime
import decimal
import uuid

import numpy as np
import psycopg
import pytest

import streamline as sl
from streamline.batch import RowBatch
from streamline.clock import SystemClock
from streamline.codec import decode, encode
from streamline.connectors.postgres import PostgresSink, commits
from streamline.connectors.postgres.refusal import Refusal
from streamline.connectors.postgres.rows import encode_rows
from streamline.errors import ConnectorError, EncodeError, FencedError, OutageError, UsageError
from streamline.io import WriterContext
from streamline.testing.services import PostgresServer
from tests.names import new_name
from tests.services.started import started


class Order(sl.Record):
    n: int
    text: str


class Place:
    """A sink into a table, and the writers of it."""

    def __init__(self, database, table, dsn=None, **options):
        self.database, self.table = database, table
        self.dsn = dsn or database.dsn
        self.options = options
        self.job = f"job-{table}"
        self.writers = []

    async def writer(self, run="a", committables=(), *, index=0, of=1, **options):
        again = options.pop("again", False)
        sink = PostgresSink(self.dsn, table=self.table, **self.options, **options)
        writer = sink.writer()
        self.writers.append(writer)
        await writer.open(
            WriterContext(
                job=self.job,
                node="out",
                index=index,
                parallelism=of,
                run=run,
                whole_run=run.rpartition("g")[0],
                took_over=again,
                restored=True,
                clock=SystemClock(),
            )
        )
        await writer.recover(list(committables))
        return writer

    async def put(self, writer, epoch, *values):
        writer.write(RowBatch(list(values)))
        await writer.ready()
        return decode(encode(await writer.prepare(epoch)))

    def seen(self, what="n, text"):
        return self.database(f"select {what} from {self.table} order by 1")

    async def close(self):
        for writer in self.writers:
            await writer.close()


@pytest.fixture
def place(database):
    return Place(database, database.table("n int primary key, text text"))


# ---------------------------------------------------------------------- values


async def test_every_type_comes_back(database):
    table = database.table(
        "i int8, f float8, t text, b bool, y bytea, at timestamptz, d date, j jsonb, a jsonb, "
        "m numeric, u uuid, z text"
    )
    at = datetime.datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC)
    number = uuid.UUID(int=7)
    row = {
        "i": 1 << 62,
        "f": 0.1,
        "t": "a\tb\\c\nd\re\u00e9\U0001f600 \\N '\"",
        "b": True,
        "y": b"\x00\xff\\",
        "at": at,
        "d": at.date(),
        "j": {"k": [1, "\\n\n", None]},
        "a": [1, 2],
        "m": decimal.Decimal("1.10"),
        "u": number,
        "z": None,
    }
    empty = {**dict.fromkeys(row), "t": "", "f": float("inf")}
    place = Place(database, table)
    writer = await place.writer()
    await writer.commit(await place.put(writer, 1, row, empty))
    await place.close()
    full, bare = database(f"select * from {table} order by i")
    assert full == tuple(row.values())
    assert bare == tuple(empty.values())


def test_numbers_of_numpy_are_numbers():
    array = np.array([0.5, np.inf])
    assert encode_rows([array, list(array), [np.float32(0.5), np.int64(7)]]) == (
        b"0.5\t0.5\t0.5\nInfinity\tInfinity\t7\n"
    )
    assert encode_rows([np.array([1, 2]), np.array([True, False])]) == b"1\tt\n2\tf\n"


async def test_columns_that_the_database_fills_in(database):
    table = database.table("n int, twice int not null generated always as (n * 2) stored")
    place = Place(database, table)
    writer = await place.writer()
    await writer.commit(await place.put(writer, 1, {"n": 1}, {"n": 2}))
    await place.close()
    assert place.seen("n, twice") == [(1, 2), (2, 4)]


def test_values_that_cannot_be_stored():
    for value, message in (
        ("a\x00b", "NUL character"),
        ("\ud800", "lone surrogate"),
        (object(), "type object has no column type"),
        ({"a": object()}, "cannot be written as JSON"),
    ):
        with pytest.raises(EncodeError, match=message):
            encode_rows([[value]])


async def test_records_columns_and_defaults(database):
    table = database.table("id serial primary key, text text, n int, made int default 5")
    place = Place(database, table, columns=["n", "text"])
    writer = await place.writer()
    await writer.commit(await place.put(writer, 1, Order(1, "a"), Order(2, "b")))
    await place.close()
    assert database(f"select n, text, made from {table} order by n") == [(1, "a", 5), (2, "b", 5)]


async def test_upsert_keeps_the_last_of_each_key(place):
    place.options = {"mode": "upsert", "key": "n"}
    writer = await place.writer()
    rows = [Order(1, "a"), Order(2, "b"), Order(1, "c")]
    await writer.commit(await place.put(writer, 1, *rows))
    await writer.commit(await place.put(writer, 2, Order(2, "d"), Order(3, "e"), Order(2, "f")))
    await place.close()
    assert place.seen() == [(1, "c"), (2, "f"), (3, "e")]


async def test_many_rows_in_many_epochs(place, database):
    writer = await place.writer()
    expected = []
    for epoch in range(12):
        rows = [Order(epoch * 5_000 + n, "x" * (n % 90)) for n in range(5_000)]
        expected += [(row.n, row.text) for row in rows]
        for first in range(0, 5_000, 1_000):
            writer.write(RowBatch(rows[first : first + 1_000]))
            await writer.ready()
        await writer.commit(await writer.prepare(epoch + 1))
    await place.close()
    assert place.seen() == expected
    assert database.leftovers()[1] == []


# ---------------------------------------------------------------------- crashes


async def test_a_commit_is_made_once_whoever_repeats_it(place):
    first = await place.writer()
    one = await place.put(first, 1, Order(1, "a"))
    await first.close()
    for run in ("b", "c"):
        other = await place.writer(run, one)
        await other.commit(one)
        await other.close()
    assert place.seen() == [(1, "a")]


async def test_what_no_checkpoint_names_is_removed(place, database):
    first = await place.writer()
    one = await place.put(first, 1, Order(1, "a"))
    await place.put(first, 2, Order(2, "lost"))
    first.write(RowBatch([Order(3, "lost")]))
    second = await place.writer("b", one)
    assert place.seen() == [(1, "a")]
    await second.commit(await place.put(second, 2, Order(4, "b")))
    await place.close()
    assert place.seen() == [(1, "a"), (4, "b")]


@pytest.mark.parametrize(("before", "behind"), [(2, 1), (2, 3), (3, 2)])
async def test_pending_rows_at_another_parallelism(place, before, behind):
    old = [await place.writer(index=index, of=before) for index in range(before)]
    prepared = [await place.put(one, 1, Order(index, "a")) for index, one in enumerate(old)]
    for index, one in enumerate(old):
        await place.put(one, 2, Order(10 + index, "lost"))
    for index in range(behind):
        share = [item for part in prepared[index::behind] for item in part]
        await place.writer("b", share, index=index, of=behind)
    assert place.seen() == [(index, "a") for index in range(before)]
    await place.close()


SHUT_OUT = "sink 'out'.*: a newer run of job 'job-table.*' writes here now, so this one ends"


async def test_a_writer_that_comes_back_is_shut_out(place):
    zombie = await place.writer("ag1")
    zombie.write(RowBatch([Order(1, "zombie")]))
    await zombie._flush()  # it stands in the middle of a transaction
    successor = await place.writer("bg1")
    await successor.commit(await place.put(successor, 1, Order(1, "b")))
    with pytest.raises(OutageError):  # its connection was cut
        await zombie.prepare(1)
    with pytest.raises(FencedError, match=SHUT_OUT):  # and its next attempt does not come in
        await place.writer("ag2", again=True)
    await successor.commit(await place.put(successor, 2, Order(2, "b")))
    assert place.seen() == [(1, "b"), (2, "b")]
    await place.close()


async def test_a_writer_that_keeps_its_connection_is_shut_out(place, monkeypatch):
    monkeypatch.setattr(commits, "_CUT_OFF", "select %s, %s, %s, %s")
    zombie = await place.writer("ag1")
    staged = await place.put(zombie, 1, Order(1, "zombie"))
    successor = await place.writer("bg1")
    with pytest.raises(FencedError, match=SHUT_OUT):
        await place.put(zombie, 2, Order(2, "zombie"))
    with pytest.raises(FencedError, match=SHUT_OUT):  # what was given up is not called lost
        await zombie.commit(staged)
    await zombie.close()
    await successor.commit(await place.put(successor, 1, Order(1, "b")))
    assert place.seen() == [(1, "b")]
    await place.close()


async def test_the_next_attempt_of_the_same_run_comes_in(place, monkeypatch):
    monkeypatch.setattr(commits, "_CUT_OFF", "select %s, %s, %s, %s")
    before = await place.writer("ag1")
    await before.commit(await place.put(before, 1, Order(0, "a")))
    await before.commit(await place.put(before, 2, Order(3, "a")))
    again = await place.writer("ag2", again=True)
    with pytest.raises(ConnectorError, match="shut out by a later attempt") as caught:
        await place.put(before, 1, Order(1, "left over"))
    assert not isinstance(caught.value, FencedError)
    await before.close()
    await again.commit(await place.put(again, 1, Order(1, "a")))
    late = await place.writer("bg2")  # of a run that failed while it started
    await late.commit(await place.put(late, 1, Order(2, "b")))
    assert place.seen() == [(0, "a"), (1, "a"), (2, "b"), (3, "a")]
    await place.close()


async def test_rows_that_were_given_up_are_not_taken_for_committed(place):
    """A run begins anew and fills the slot; then somebody goes on from the old checkpoint."""
    first = await place.writer("ag1")
    one = await place.put(first, 1, Order(1, "a"))
    two = await place.put(first, 2, Order(2, "a"))
    await first.commit(one)
    fresh = await place.writer("bg1")
    for epoch in (1, 2, 3):
        await fresh.commit(await place.put(fresh, epoch, Order(10 + epoch, "b")))
    with pytest.raises(ConnectorError, match="checkpoint 2, task 0, were given up.*are lost"):
        await place.writer("cg1", two)
    await place.writer("dg1", one)  # that was committed, and its slot has been used since
    assert place.seen() == [(1, "a"), (11, "b"), (12, "b"), (13, "b")]
    await place.close()


async def test_what_was_staged_is_committed_when_the_job_promises_less(place):
    first = await place.writer()
    one = await place.put(first, 1, Order(1, "a"))
    await first.close()
    second = await place.writer("b", one, guarantee="at-least-once")
    assert place.seen() == [(1, "a")]
    await place.put(second, 2, Order(2, "b"))
    await place.close()
    assert place.seen() == [(1, "a"), (2, "b")]


@pytest.mark.parametrize("moment", ["write", "prepare", "commit"])
async def test_a_lost_connection(place, database, moment):
    writer = await place.writer()
    await writer.commit(await place.put(writer, 1, Order(1, "a")))
    prepared = await place.put(writer, 2, Order(2, "b"))
    if moment == "prepare":
        writer.write(RowBatch([Order(3, "c")]))
        await writer._flush()
    cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like %s"
    database(cut, writer._commits.application(0, "a"))
    if moment == "commit":
        await writer.commit(prepared)  # it connects again by itself
        assert place.seen() == [(1, "a"), (2, "b")]
    else:
        with pytest.raises(OutageError, match=f"sink 'out', table '{place.table}'"):
            if moment == "write":
                writer.write(RowBatch([Order(3, "c" * 400_000)]))
                await writer.ready()
            await writer.prepare(3)
        await writer.close()
        other = await place.writer("b", prepared)
        assert place.seen() == [(1, "a"), (2, "b")]
        await other.commit(await place.put(other, 3, Order(3, "c")))
    await place.close()


# ---------------------------------------------------------------------- what is told


async def test_what_is_told_when_it_is_opened(database, place):
    with pytest.raises(ConnectorError, match="no table 'nowhere' in database 'postgres'.*create"):
        nowhere = Place(database, "nowhere")
        await nowhere.writer()
    await nowhere.close()
    with pytest.raises(UsageError, match=r"no unique constraint on \(text\).*it has \(n\)"):
        await place.writer(mode="upsert", key="text")
    away = Place(database, place.table, dsn="host=127.0.0.1 port=1 user=x")
    with pytest.raises(OutageError, match="PostgreSQL cannot be reached.*given up after 0.2 s"):
        await away.writer(give_up_after="200ms")
    await place.close()
    await away.close()


@pytest.fixture(scope="module")
def locked():
    server = started(PostgresServer(password="secret"))
    yield server
    server.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("password=wrong", "password authentication failed"),
        ("dbname=nowhere", "database .nowhere. does not exist"),
        ("user=nobody", "authentication failed for user .nobody"),
    ],
)
async def test_who_is_not_let_in_is_told_at_once(locked, wrong, message):
    place = Place(None, "t", dsn=f"{locked.dsn} {wrong}")
    message = f"sink 'out': PostgreSQL does not let us in: .*{message}.*; correct dsn="
    with pytest.raises(ConnectorError, match=message) as caught:
        async with asyncio.timeout(5):
            await place.writer()
    assert not isinstance(caught.value, OutageError)
    await place.close()


@pytest.fixture(scope="module")
def german():
    """A server that speaks German; in C.UTF-8 the language is that of the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LANGUAGE", "de")
        server = started(PostgresServer(password="secret"))
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute("alter system set lc_messages = 'C.UTF-8'")
        connection.execute("create database closed allow_connections false")
        connection.execute("select pg_reload_conf()")
    yield server
    server.close()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("dbname=nowhere", "Datenbank »nowhere« existiert nicht|does not exist"),
        ("dbname=closed", "akzeptiert gegenwärtig keine Verbindungen|not currently accepting"),
    ],
    ids=["no database", "closed"],
)
async def test_who_is_not_let_in_is_told_in_any_language(german, wrong, message):
    place = Place(None, "t", dsn=f"{german.dsn} {wrong}")
    with pytest.raises(ConnectorError, match=f"PostgreSQL does not let us in: .*({message})"):
        async with asyncio.timeout(20):
            await place.writer()
    await place.close()


async def test_a_server_that_is_away_does_not_refuse():
    refusal = Refusal("host=127.0.0.1 port=1 dbname=postgres")
    for _ in range(10):
        with pytest.raises(psycopg.OperationalError) as caught:
            await psycopg.AsyncConnection.connect("host=127.0.0.1 port=1")
        assert not await refusal.met(caught.value)


async def test_a_server_without_room_does_not_refuse(database):
    role = new_name("crowd")
    database(f"create role {role} login connection limit 0")
    dsn = f"{database.dsn} user={role}"
    refusal = Refusal(dsn)
    for _ in range(10):
        with pytest.raises(psycopg.OperationalError, match="too many connections") as caught:
            await psycopg.AsyncConnection.connect(dsn)
        assert not await refusal.met(caught.value)


@pytest.mark.parametrize(
    ("columns", "row", "message"),
    [
        ("n int", {"n": 1, "x": 2}, "has no column 'x'; it has n"),
        ("n int, m int not null", {"n": 1}, "column 'm' .* must not be null.*they have n"),
        ("n int", {"n": "one"}, "column 'n' .* is of type int4, which does not take 'one'"),
        ("n text", {"n": b"b"}, None),
        ("n bool", {"n": 1.5}, "is of type bool, which does not take 1.5"),
        ("n timestamptz", {"n": 5}, "is of type timestamptz, which does not take 5"),
        ("n int", [1], r"must be a Record or a dict, not \[1\]"),
    ],
)
async def test_what_is_told_before_the_first_row(database, columns, row, message):
    place = Place(database, database.table(columns))
    writer = await place.writer()
    if message is None:
        writer.write(RowBatch([row]))
    else:
        with pytest.raises(UsageError, match=f"sink 'out': .*{message}"):
            writer.write(RowBatch([row]))
    await place.close()


async def test_a_value_that_the_database_refuses(database):
    place = Place(database, database.table("n int check (n > 0)"))
    writer = await place.writer()
    with pytest.raises(ConnectorError, match="violates check constraint"):
        await place.put(writer, 1, {"n": 1}, {"n": -1})
    await place.close()
    assert place.seen("n") == []


async def test_rows_that_cannot_go_into_the_table(place, database):
    """The checkpoint is complete, so they are kept until somebody makes room for them."""
    database(f"insert into {place.table} values (1, 'in the way')")
    writer = await place.writer()
    prepared = await place.put(writer, 4, Order(1, "a"))
    message = "rows of checkpoint 4 cannot go into table .*duplicate key.*n.=.1. already exists"
    with pytest.raises(ConnectorError, match=message):
        await writer.commit(prepared)
    database(f"delete from {place.table}")
    await place.writer("b", prepared)
    assert place.seen() == [(1, "a")]
    await place.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "replace"}, "mode='replace' must be"),
        ({"mode": "upsert"}, "needs key="),
        ({"key": "n"}, "no other mode takes one"),
        ({"guarantee": "maybe"}, "guarantee='maybe' must be"),
        ({"columns": "n"}, "columns='n' must be a list"),
        ({"columns": ["a"], "mode": "upsert", "key": "n"}, "'n' is not among columns"),
        ({"table": ""}, "must be the name of a table"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UsageError, match=message):
        PostgresSink("host=x", **{"table": "t", **options})


async def test_two_tasks_at_once_make_what_they_need(database):
    place = Place(database, database.table("n int"), commits_table="made_by_many")
    await asyncio.gather(*(place.writer(index=index, of=4) for index in range(4)))
    await place.close()
    assert database("select count(*) from made_by_many") == [(0,)]
