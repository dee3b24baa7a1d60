"""KafkaSink: what becomes of a transaction, by whoever and whenever it is ended."""

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from aiokafka import errors
from aiokafka.client import AIOKafkaClient

import streamline as sl
from streamline.batch import RowBatch
from streamline.clock import ManualClock, SystemClock
from streamline.codec import decode, encode
from streamline.connectors.kafka import KafkaSink, producer, transactions
from streamline.connectors.kafka.client import NO_SECURITY
from streamline.connectors.kafka.partitioner import Partitions
from streamline.connectors.kafka.requests import ListTransactions
from streamline.connectors.kafka.transactions import OPEN_STATES, Transactions, parse_id, run_id
from streamline.errors import (
    ConnectorError,
    EncodeError,
    FencedError,
    UsageError,
    UserFunctionError,
)
from streamline.io import WriterContext
from tests.kafka.topics import more_partitions, read_all, transactions_of
from tests.names import new_name


class Place:
    """A sink into a topic, and the writers of it."""

    def __init__(self, servers, topic):
        self.servers, self.topic = servers, topic
        self.job = new_name("job")
        self.writers = []

    async def writer(self, run="a", committables=(), *, index=0, of=1, restored=1, **options):
        context = {"job": self.job, "node": "out", "index": index, "parallelism": of, "run": run}
        context |= {"whole_run": run.rpartition("g")[0], "took_over": options.pop("again", False)}
        interval, clock = options.pop("interval", None), options.pop("clock", SystemClock())
        options = {"format": sl.Raw(), "transaction_timeout": "60s", **options}
        writer = KafkaSink(self.servers, topic=self.topic, **options).writer()
        self.writers.append(writer)
        context = WriterContext(
            **context,
            restored=bool(restored),
            clock=clock,
            checkpoint_interval_ms=interval,
        )
        await writer.open(context)
        await writer.recover(list(committables))
        return writer

    async def put(self, writer, epoch, *values):
        writer.write(RowBatch(list(values)))
        await writer.ready()
        return decode(encode(await writer.prepare(epoch)))

    async def seen(self):
        return [record.value for record in await read_all(self.servers, self.topic)]

    async def open_ones(self):
        left = await transactions_of(self.servers, self.job)
        return [one.id for one in left if one.state in OPEN_STATES]

    async def close(self):
        for writer in self.writers:
            await writer.close()


@pytest.fixture
def place(servers, topic):
    return Place(servers, topic)


# ---------------------------------------------------------------------- commit and abort


async def test_what_was_prepared_is_committed_by_another_writer(place):
    first = await place.writer()
    prepared = await place.put(first, 1, b"1", b"2")
    await first.close()
    assert await place.seen() == []
    second = await place.writer("b", prepared)
    assert await place.seen() == [b"1", b"2"]
    await second.close()
    third = await place.writer("c", prepared)  # it crashed before its first checkpoint
    await place.put(third, 2, b"3")
    await third.close()
    await (await place.writer("d", prepared)).close()
    assert await place.seen() == [b"1", b"2"]
    assert await place.open_ones() == []


async def test_a_slot_that_was_used_again_is_known_to_be_committed(place):
    """The log of the topic tells, when the broker only knows of a later transaction."""
    writer = await place.writer()
    epochs = []
    for epoch in range(1, 8):
        epochs.append(await place.put(writer, epoch, b"%d" % epoch))
        await writer.commit(epochs[-1])
    await writer.close()
    everything = [b"%d" % epoch for epoch in range(1, 8)]
    for prepared in (epochs[0], epochs[3], epochs[6]):
        other = await place.writer("b", prepared)
        await other.close()
        assert await place.seen() == everything
    assert len({prepared[0][0] for prepared in epochs}) == 3  # a bounded pool


async def test_what_no_checkpoint_names_is_aborted_at_once(place):
    first = await place.writer()
    one = await place.put(first, 1, b"1")
    await place.put(first, 2, b"2")
    first.write(RowBatch([b"3"]))
    await first.ready()
    await first._current.send(0)  # it is at the broker, but not prepared
    second = await place.writer("b", one)
    assert await place.seen() == [b"1"]
    assert await place.open_ones() == []
    await second.commit(await place.put(second, 2, b"2"))
    assert await place.seen() == [b"1", b"2"]
    await place.close()


@pytest.mark.parametrize(("before", "behind"), [(2, 1), (2, 3), (3, 2)])
async def test_pending_transactions_at_another_parallelism(place, before, behind):
    old = [await place.writer(index=index, of=before) for index in range(before)]
    prepared = [await place.put(one, 1, b"%d" % index) for index, one in enumerate(old)]
    for index, one in enumerate(old):
        await place.put(one, 2, b"lost %d" % index)
    for index in range(behind):
        share = [item for part in prepared[index::behind] for item in part]
        await place.writer("b", share, index=index, of=behind)
    assert sorted(await place.seen()) == [b"%d" % index for index in range(before)]
    assert await place.open_ones() == []
    await place.close()


SHUT_OUT = "a newer run of job 'job.*' writes to topic 'topic.*' now, so this one ends"


async def test_a_writer_that_comes_back_is_shut_out(place):
    zombie = await place.writer("ag1")
    await place.put(zombie, 1, b"1")
    zombie.write(RowBatch([b"zombie"]))
    successor = await place.writer("bg1")
    with pytest.raises(FencedError, match=SHUT_OUT):
        await zombie.ready()
        await zombie.prepare(2)
    with pytest.raises(FencedError, match=SHUT_OUT):
        await place.writer("ag2", again=True)  # nor does its next attempt come in
    await successor.commit(await place.put(successor, 1, b"1"))
    assert await place.seen() == [b"1"]
    assert await place.open_ones() == []
    await place.close()


async def test_what_a_newer_run_has_aborted_is_not_called_lost(place):
    zombie = await place.writer("ag1")
    prepared = await place.put(zombie, 1, b"zombie")
    await place.writer("bg1")
    with pytest.raises(FencedError, match=SHUT_OUT):
        await zombie.commit(prepared)
    assert await place.seen() == []
    await place.close()


async def test_the_next_attempt_of_the_same_run_comes_in(place):
    """What is left over of the attempt before is shut out, though not by a newer run."""
    before = await place.writer("ag1")
    before.write(RowBatch([b"left over"]))
    again = await place.writer("ag2", again=True)
    with pytest.raises(ConnectorError, match="ended a transaction under way") as caught:
        await before.ready()
        await before.prepare(1)
    assert not isinstance(caught.value, FencedError)
    await again.commit(await place.put(again, 1, b"1"))
    assert await place.seen() == [b"1"]
    await place.close()


async def test_an_attempt_that_was_never_at_work_takes_over(place):
    """Its run has failed while it started: who holds the place is of an earlier run."""
    await place.writer("ag1")
    late = await place.writer("bg2")
    await late.commit(await place.put(late, 1, b"1"))
    assert await place.seen() == [b"1"]
    await place.close()


async def test_who_holds_the_sink_is_renewed_before_the_broker_forgets(place):
    transactions = Transactions(place.servers, NO_SECURITY)
    await transactions.open()

    async def renewals():
        return (await transactions.describe(run_id(place.job, "out"))).producer_epoch

    try:
        clock = ManualClock()
        writer = await place.writer("ag1", clock=clock)
        before = await renewals()
        await writer.commit(await place.put(writer, 1, b"1"))
        clock.advance(23 * 3_600_000)
        await writer.commit(await place.put(writer, 2, b"2"))
        assert await renewals() == before
        clock.advance(3_600_000)
        await writer.prepare(3)
        assert await renewals() == before + 1
        await writer.prepare(4)
        assert await renewals() == before + 1, "once a day"
        await place.writer("bg1")
        clock.advance(25 * 3_600_000)
        with pytest.raises(FencedError, match=SHUT_OUT):
            await writer.prepare(5)
        assert await renewals() == before + 2, "the newer run keeps its place"
    finally:
        await transactions.close()
        await place.close()


async def test_a_prepared_transaction_is_not_carried_to_its_end(place):
    """Checkpoints fail; to go back one is no loss, to let the broker give up what it covers is."""
    writer = await place.writer(transaction_timeout="2s")
    writer._context = replace(writer._context, clock=(clock := ManualClock()))
    await place.put(writer, 1, b"1")
    clock.advance(1_400)
    await place.put(writer, 2, b"2")
    clock.advance(200)
    with pytest.raises(ConnectorError, match="transaction_timeout lets it, 2 s; see why checkp"):
        await place.put(writer, 3, b"3")
    await place.close()


async def test_what_was_prepared_is_committed_when_the_job_promises_less(place):
    first = await place.writer()
    one = await place.put(first, 1, b"1")
    await place.put(first, 2, b"2")
    await first.close()
    second = await place.writer("b", one, guarantee="at-least-once")
    assert await place.open_ones() == []
    await place.put(second, 2, b"2")
    assert await place.seen() == [b"1", b"2"]
    await place.close()


async def test_a_job_from_scratch_aborts_what_its_earlier_life_left(place):
    first = await place.writer()
    await place.put(first, 1, b"1")
    await first.close()
    second = await place.writer("b", restored=0)
    assert await place.open_ones() == []
    await second.commit(await place.put(second, 1, b"2"))
    assert await place.seen() == [b"2"]
    await place.close()


@pytest.mark.parametrize("mode", ["fail", "log"])
async def test_a_transaction_that_the_broker_gave_up_is_a_loss(place, caplog, mode):
    first = await place.writer(transaction_timeout="1s")
    prepared = await place.put(first, 7, b"1")
    await first.close()
    async with asyncio.timeout(30):
        while await place.open_ones():
            await asyncio.sleep(0.05)
    message = f"transaction of checkpoint 7, topic '{place.topic}', partitions 0 .* are lost"
    if mode == "fail":
        with pytest.raises(ConnectorError, match=message):
            await place.writer("b", prepared)
    else:
        await place.writer("b", prepared, on_lost_transaction="log")
        assert "are lost" in caplog.text
    assert await place.seen() == []
    await place.close()


# ---------------------------------------------------------------------- what is written


async def test_key_headers_and_timestamp(place):
    writer = await place.writer(
        format=sl.Json(),
        key=lambda value: value["k"],
        headers=lambda value: [("n", b"%d" % value["n"])],
        value=lambda value: {"n": value["n"]},
    )
    keys = ["text", b"bytes", 7, None]
    values = [{"k": key, "n": n} for n, key in enumerate(keys)]
    writer.write(RowBatch(values, np.array([1_000, 2_000, 3_000, 4_000])))
    await writer.commit(await writer.prepare(1))
    found = await read_all(place.servers, place.topic)
    assert [record.key for record in found] == [b"text", b"bytes", b"7", None]
    assert [record.timestamp for record in found] == [1_000, 2_000, 3_000, 4_000]
    assert [record.headers for record in found] == [(("n", b"%d" % n),) for n in range(4)]
    assert [json.loads(record.value) for record in found] == [{"n": n} for n in range(4)]
    await place.close()


async def test_a_time_in_the_future_becomes_now(place):
    """As that of a day's window has before the day is over; brokers refuse more than an hour."""
    now_ms = SystemClock().now_ms()
    writer = await place.writer()
    writer.write(RowBatch([b"ended", b"open"], np.array([now_ms - 5, now_ms + 86_400_000])))
    await writer.commit(await writer.prepare(1))
    first, second = [one.timestamp for one in await read_all(place.servers, place.topic)]
    assert first == now_ms - 5
    assert now_ms <= second <= SystemClock().now_ms()
    await place.close()


async def test_a_time_that_the_topic_does_not_take(servers, new_topic):
    topic = await new_topic(**{"message.timestamp.before.max.ms": "1000"})
    place = Place(servers, topic)
    writer = await place.writer()
    writer.write(RowBatch([b"1"], np.array([1_000])))
    with pytest.raises(ConnectorError, match=f"topic '{topic}' does not take.*before.max.ms"):
        await writer.prepare(1)
    await place.close()


async def test_more_records_than_one_batch_takes(place):
    writer = await place.writer(batch_bytes=2_000, compression="zstd")
    values = [b"%06d" % n * 20 for n in range(3_000)]
    await writer.commit(await place.put(writer, 1, *values))
    assert await place.seen() == values
    await place.close()


async def test_partitions_that_were_added_are_used(place):
    writer = await place.writer(format=sl.Json(), key=str)
    await writer.commit(await place.put(writer, 1, *range(50)))
    await more_partitions(place.servers, place.topic, 3)
    for epoch in range(2, 5):
        await writer.commit(await place.put(writer, epoch, *range(50)))
    await place.close()
    assert {record.partition for record in await read_all(place.servers, place.topic)} == {0, 1, 2}


async def test_partitions_that_were_added_are_used_at_least_once(place):
    writer = await place.writer(format=sl.Json(), key=str, guarantee="at-least-once")
    await place.put(writer, 1, *range(50))
    await more_partitions(place.servers, place.topic, 3)
    while len(await writer._current._producer.partitions_for(place.topic)) < 3:
        await writer._current._producer.client.force_metadata_update()  # as it does now and then
    for epoch in range(2, 4):
        await place.put(writer, epoch, *range(50))
    await place.close()
    assert {record.partition for record in await read_all(place.servers, place.topic)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_keys_go_where_the_java_client_sends_them(key, hashed):
    for partitions in (1, 3, 7, 50):
        assert Partitions(partitions)[key] == (hashed & 0x7FFFFFFF) % partitions


def test_records_without_a_key_take_turns():
    partitions = Partitions(3)
    assert [partitions.of([None, None]) for _ in range(4)] == [[1, 1], [2, 2], [0, 0], [1, 1]]


# ---------------------------------------------------------------------- what goes wrong


async def test_an_unknown_topic(servers):
    with pytest.raises(ConnectorError, match="there is no topic 'nowhere' at .*create it"):
        await Place(servers, "nowhere").writer()


async def test_timeouts_that_cannot_work(place):
    with pytest.raises(UsageError, match="is longer than the broker allows, 900000 ms"):
        await place.writer(transaction_timeout="1h")
    with pytest.raises(UsageError, match="at least twice the time between checkpoints, 40000 ms"):
        await place.writer(transaction_timeout="60s", interval=40_000)
    await place.close()


async def test_a_record_too_large(place):
    writer = await place.writer()
    with pytest.raises(ConnectorError, match="larger than topic .* takes.*max.message.bytes"):
        await place.put(writer, 1, b"x" * 2_000_000)
    await place.close()


@pytest.mark.parametrize("name", ["key", "value", "headers"])
async def test_a_function_that_raises(place, name):
    def wrong(value):
        return 1 // (value - 7)

    writer = await place.writer(format=sl.Json(), **{name: wrong})
    message = rf"sink 'out': {name}= failed at test_sink.py:\d+ with ZeroDivisionError: .*; the record is 7"
    with pytest.raises(UserFunctionError, match=message) as caught:
        writer.write(RowBatch([5, 6, 7, 8]))
    assert "return 1 // (value - 7)" in caught.value.trace
    await place.close()


async def test_a_coordinator_that_is_still_loading_is_asked_again(place, monkeypatch):
    """Its list is empty then: who believed it would leave open what has to be aborted."""
    first = await place.writer()
    await place.put(first, 1, b"1")
    await first.close()
    busy, send = [True] * 3, Transactions._send

    async def loading(self, node, request, **options):
        answer = await send(self, node, request, **options)
        if isinstance(request, ListTransactions) and busy:
            busy.pop()
            answer.error_code, answer.transactions = 14, []
        return answer

    monkeypatch.setattr(Transactions, "_send", loading)
    await place.writer("b")
    monkeypatch.undo()
    assert busy == []
    assert await place.open_ones() == []
    await place.close()


async def test_a_coordinator_that_stays_away_is_said(place, monkeypatch, caplog):
    monkeypatch.setattr(transactions, "_PATIENCE_S", 0.1)
    writer = await place.writer()
    prepared = await place.put(writer, 1, b"1")
    looks = iter(range(8))

    async def away(self, name):
        if next(looks, None) is not None:
            raise errors.CoordinatorNotAvailableError
        return await coordinator(self, name)

    coordinator = Transactions._coordinator
    monkeypatch.setattr(Transactions, "_coordinator", away)
    monkeypatch.setattr(writer._transactions, "_patience_s", 0.1)
    await writer.commit(prepared)
    said = [one.getMessage() for one in caplog.records if "streamline:" in one.getMessage()]
    assert ["trying again" in said[0], "is back" in said[1], len(said)] == [True, True, 2]
    assert await place.seen() == [b"1"]
    await place.close()


async def test_a_producer_that_no_coordinator_answers_is_given_up_and_said(
    place, monkeypatch, caplog
):
    monkeypatch.setattr(producer, "_OPEN_WITHIN_S", 0.2)

    async def nobody(self, kind, name):
        raise errors.CoordinatorNotAvailableError

    monkeypatch.setattr(AIOKafkaClient, "coordinator_lookup", nobody)
    monkeypatch.setattr(transactions, "_PATIENCE_S", 0.1)
    one = producer.Producer(
        place.servers,
        place.topic,
        what="sink 'out'",
        slot=0,
        transactional_id="t",
        timeout_ms=1_000,
        compression=None,
        batch_bytes=1_000,
        security=NO_SECURITY,
    )
    with pytest.raises(errors.KafkaTimeoutError, match="no transaction coordinator"):
        await one.open()


async def test_a_key_that_is_none(place):
    writer = await place.writer(format=sl.Json(), key="user")
    with pytest.raises(EncodeError, match="key='user' is no field of every record"):
        writer.write(RowBatch([{"user": "a"}, {}]))
    other = await place.writer(format=sl.Json(), key=lambda value: 1.5)
    with pytest.raises(EncodeError, match="a key must be bytes, str, int or None, not 1.5"):
        other.write(RowBatch([1]))
    await place.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guarantee": "maybe"}, "guarantee='maybe' must be"),
        ({"on_lost_transaction": "cry"}, "on_lost_transaction='cry' must be"),
        ({"compression": "rar"}, "compression='rar' must be"),
        ({"format": None}, "needs a format"),
        ({"topic": ""}, "must be the name of a topic"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UsageError, match=message):
        KafkaSink("localhost:1", **{"topic": "t", "format": sl.Raw(), **options})


# ---------------------------------------------------------------------- by hand


def command(*words):
    return subprocess.run(
        [sys.executable, "-m", "streamline.cli.main", "txn", *words],
        capture_output=True,
        text=True,
        timeout=60,
    )


async def test_what_a_dead_job_left_is_settled_by_hand(place):
    writers = [await place.writer(index=index, of=2) for index in range(2)]
    for index, writer in enumerate(writers):
        await place.put(writer, 1, b"%d" % index)
    await place.close()
    at = ("--servers", place.servers)
    listed = json.loads(command("list", *at, "--job", place.job, "--json").stdout)
    assert [parse_id(one["id"])[2] for one in listed] == [0, 1]
    assert listed[0]["partitions"] == [[place.topic, [0]]]
    begun = datetime.fromtimestamp(listed[0]["started_ms"] / 1000, UTC)
    shown = command("list", *at, "--job", place.job)
    assert listed[0]["id"] in shown.stdout
    assert begun.isoformat(" ", "seconds") in shown.stdout
    done = command("commit", *at, listed[0]["id"])
    assert (done.returncode, done.stdout) == (0, f"{listed[0]['id']}: committed\n")
    done = command("abort", *at, listed[1]["id"], "--json")
    assert json.loads(done.stdout) == [{"id": listed[1]["id"], "result": "aborted"}]
    assert await place.seen() == [b"0"]
    again = command("abort", *at, listed[1]["id"])
    assert (again.returncode, "nothing is open" in again.stdout) == (1, True)
    assert command("list", *at, "--job", place.job).stderr == "streamline: nothing is open\n"
    wrong = command("abort", *at, "mine")
    assert (wrong.returncode, "'mine' is no transactional id" in wrong.stderr) == (2, True)


def test_no_broker_to_settle_at():
    done = command("list", "--servers", "127.0.0.1:1")
    assert done.returncode == 1
    assert "Kafka at 127.0.0.1:1 cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


async def test_a_client_that_has_died_is_told_and_not_waited_for(place):
    """As aiokafka's does when a connection breaks at a bad moment."""
    writer = await place.writer()
    writer.write(RowBatch([b"1"]))
    client = writer._current._producer.client
    client._sync_task.cancel()
    await asyncio.wait([client._sync_task])
    held = asyncio.get_running_loop().create_future()
    writer._current._flying[held] = (0, 1, 1)
    async with asyncio.timeout(10):
        with pytest.raises(ConnectorError, match="has lost its way to the brokers"):
            await writer.prepare(1)
    held.cancel()
    await place.close()
