"""KafkaSource against a real broker: every record once, wherever reading begins and goes on."""

import asyncio
import re
from collections import Counter
from datetime import UTC, datetime

import pytest
from aiokafka import TopicPartition

import streamline as sl
from streamline.clock import SystemClock
from streamline.codec import decode, encode
from streamline.connectors.kafka import KafkaRecord, KafkaSource, reader
from streamline.errors import ConnectorError, DecodeError, UsageError
from streamline.io import Counters, ReaderContext
from streamline.messages import MAX_TIMESTAMP, MIN_TIMESTAMP
from tests.kafka.topics import (
    admin_of,
    delete_before,
    more_partitions,
    producer_of,
    send,
    send_as_one,
    send_by,
)


class Order(sl.Record):
    user: str
    amount: int


class Reading:
    """A reader driven as a task would; everything in it is the test's own."""

    def __init__(self, source, positions=None, *, restored=False, watermarks=None, **context):
        self.source = source
        self.positions = positions
        self.letters = []
        self.values = []
        self.batches = []
        self.watermarks = {} if watermarks is None else watermarks
        self.context = ReaderContext(
            node="in",
            index=0,
            parallelism=1,
            batch_rows=context.get("batch_rows", 4096),
            layout=context.get("layout", "rows"),
            clock=SystemClock(),
            counters=Counters(),
            watermarks=self.watermarks,
            dead_letter=self.letters.append,
            restored=restored,
            others=context.get("others", lambda: MAX_TIMESTAMP),
        )
        self.reader = source.reader()

    async def __aenter__(self):
        await self.reader.open(self.context)
        positions = self.positions
        if positions is None:
            positions = dict.fromkeys(await self.source.discover())
        self.reader.assign(positions)
        return self

    async def __aexit__(self, *_):
        await self.reader.close()
        await self.reader.close()

    def take(self):
        batch = self.reader.poll()
        if batch is None:
            return False
        assert len(batch)
        self.batches.append(batch)
        self.values += batch.to_rows().values
        return True

    async def until(self, done):
        async with asyncio.timeout(30):
            while not done():
                if not self.take():
                    await self.reader.wait()
        return self.values

    async def count(self, count):
        return await self.until(lambda: len(self.values) >= count)

    async def end(self):
        return await self.until(lambda: not self.reader.active)

    async def fetched(self, partitions):
        """Until so many partitions have something to take; nothing is taken."""
        await self.placed()
        async with asyncio.timeout(20):
            while len(self.reader._fetched.partitions()) < partitions:
                await asyncio.sleep(0)

    def chosen(self):
        return [one.name for one in self.reader._choose(self.reader._fetched)]

    async def placed(self):
        """Until it is known where to begin."""
        await self.until(lambda: all(p and p[0] is not None for p in self.snapshot().values()))

    def snapshot(self):
        return decode(encode(self.reader.snapshot()))


def numbers(first, behind):
    return [b"%d" % number for number in range(first, behind)]


def raw(servers, topic, **options):
    options = {"until": "latest", **options}
    return KafkaSource(servers, topic=topic, format=sl.Raw(), **options)


async def read(source, **context):
    async with Reading(source, **context) as reading:
        return await reading.end()


# ---------------------------------------------------------------------- all of it


async def test_all_partitions_in_order(servers, new_topic):
    topic = await new_topic(3)
    for partition in range(3):
        await send(servers, topic, numbers(partition * 100, partition * 100 + 50), partition)
    source = raw(servers, topic)
    assert await source.discover() == [f"{topic}/{number}" for number in range(3)]
    async with Reading(source) as reading:
        values = await reading.end()
        for partition in range(3):
            mine = [v for v in values if int(v) // 100 == partition]
            assert mine == numbers(partition * 100, partition * 100 + 50)
        assert reading.snapshot() == {f"{topic}/{n}": [50, 50, False] for n in range(3)}
        assert reading.context.counters.bytes_in == sum(map(len, values))
        assert {batch.partition for batch in reading.batches} == set(await source.discover())


async def test_an_empty_topic_ends_at_once(servers, topic):
    assert await read(raw(servers, topic)) == []


async def test_the_end_is_fixed_at_the_start(servers, topic):
    await send(servers, topic, numbers(0, 10))
    async with Reading(raw(servers, topic)) as reading:
        await reading.placed()
        await send(servers, topic, numbers(10, 20))
        assert await reading.end() == numbers(0, 10)
        position = reading.snapshot()
    async with Reading(raw(servers, topic), position, restored=True) as again:
        assert await again.end() == []


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
async def test_every_compression(servers, topic, codec):
    await send(servers, topic, numbers(0, 500), compression_type=codec)
    assert await read(raw(servers, topic)) == numbers(0, 500)


@pytest.mark.parametrize("at", [0, 1, 7, 49, 50, 99, 100])
async def test_reading_goes_on_inside_a_record_batch(servers, topic, at):
    await send(servers, topic, numbers(0, 50), linger_ms=50)
    await send(servers, topic, numbers(50, 100), compression_type="gzip", linger_ms=50)
    position = {f"{topic}/0": [at, 100, False]}
    async with Reading(raw(servers, topic), position, restored=True, batch_rows=10) as reading:
        assert await reading.end() == numbers(at, 100)


async def test_every_snapshot_is_a_place_to_go_on(servers, topic):
    for first in range(0, 60, 6):
        await send(servers, topic, numbers(first, first + 6), linger_ms=50)
    async with Reading(raw(servers, topic), batch_rows=1) as reading:
        await reading.placed()
        places = [(reading.snapshot(), 0)]
        while reading.reader.active:
            await reading.count(len(reading.values) + 1)
            places.append((reading.snapshot(), len(reading.values)))
    assert len(places) == 11
    for position, count in places:
        async with Reading(raw(servers, topic), position, restored=True) as again:
            assert await again.end() == numbers(count, 60)


async def test_a_snapshot_before_it_is_known_where_to_begin(servers, topic):
    await send(servers, topic, numbers(0, 5))
    source = raw(servers, topic, start="latest", until=None)
    async with Reading(source) as reading:
        position = reading.snapshot()
    assert position == {f"{topic}/0": [None, None, True]}
    async with Reading(source, position, restored=True) as again:
        await again.placed()
        await send(servers, topic, numbers(5, 8))
        assert await again.count(3) == numbers(5, 8)


# ---------------------------------------------------------------------- where to begin


async def test_latest(servers, topic):
    await send(servers, topic, numbers(0, 5))
    async with Reading(raw(servers, topic, start="latest", until=None)) as reading:
        await reading.placed()
        await send(servers, topic, numbers(5, 9))
        assert await reading.count(4) == numbers(5, 9)


async def test_a_point_in_time(servers, topic):
    stamped = [{"value": b"%d" % n, "timestamp_ms": 1_700_000_000_000 + n} for n in range(10)]
    await send(servers, topic, stamped)
    for start, first in ((1_700_000_000_004, 4), (1, 0), (1_800_000_000_000, 10)):
        start = datetime.fromtimestamp(start / 1000, tz=UTC)
        assert await read(raw(servers, topic, start=start)) == numbers(first, 10)


async def test_what_the_group_has_committed(servers, new_topic):
    topic = await new_topic(2)
    for partition in (0, 1):
        await send(servers, topic, numbers(0, 10), partition)
    source = raw(servers, topic, group="g-" + topic, start="committed")
    async with Reading(source) as reading:
        assert len(await reading.end()) == 20
        await reading.reader.checkpoint_committed({f"{topic}/0": [4, 10, False]})
    # To close waits for it.
    async with admin_of(servers) as admin:
        offsets = await admin.list_consumer_group_offsets("g-" + topic)
    assert offsets[TopicPartition(topic, 0)].offset == 4
    assert Counter(await read(source)) == Counter(numbers(4, 10) + numbers(0, 10))


async def test_what_was_committed_and_is_gone_is_a_loss(servers, topic):
    await send(servers, topic, numbers(0, 10))
    source = raw(servers, topic, group="g-" + topic, start="committed")
    async with Reading(source) as reading:
        await reading.end()
        await reading.reader.checkpoint_committed({f"{topic}/0": [4, 10, False]})
    await delete_before(servers, topic, 6)
    with pytest.raises(ConnectorError, match=f"offset 4 of {topic}/0 is not there.*lost"):
        await read(source)
    go_on = raw(servers, topic, group="g-" + topic, start="committed", on_offset_reset="earliest")
    assert await read(go_on) == numbers(6, 10)


async def test_offsets_for_monitoring_never_fail_or_stall_a_job(
    servers, new_topic, caplog, monkeypatch
):
    topic = await new_topic(2)
    await send(servers, topic, numbers(0, 10))
    async with Reading(raw(servers, topic, group="g-" + topic)) as reading:
        await reading.reader.checkpoint_committed({})
        await reading.reader.checkpoint_committed(reading.snapshot())  # not placed yet
        await reading.end()  # the other partition has ended, so the consumer does not have it
        await reading.reader.checkpoint_committed(reading.snapshot())
        await reading.reader._telling
        assert "not told" not in caplog.text
        monkeypatch.setattr(reader, "_TELL_WITHIN_S", 0.05)

        async def silent(offsets):
            await asyncio.Event().wait()

        monkeypatch.setattr(reading.reader._consumer, "commit", silent)
        for _ in range(3):
            await reading.reader.checkpoint_committed(reading.snapshot())
            await reading.reader._telling
    (said,) = [one.getMessage() for one in caplog.records if "streamline:" in one.getMessage()]
    assert f"offsets are not told to group 'g-{topic}'" in said
    assert "does not answer" in said
    async with admin_of(servers) as admin:
        offsets = await admin.list_consumer_group_offsets("g-" + topic)
    assert offsets[TopicPartition(topic, 0)].offset == 10


async def test_a_topic_that_is_deleted_under_the_source(servers, topic, monkeypatch):
    monkeypatch.setattr(reader, "_LOOK_AFTER_S", 0.05)
    await send(servers, topic, numbers(0, 5))
    async with Reading(raw(servers, topic, until=None)) as reading:
        await reading.count(5)
        async with admin_of(servers) as admin:
            await admin.delete_topics([topic])
        with pytest.raises(ConnectorError, match=f"no topic '{topic}' at {servers} any more"):
            await reading.count(6)


async def test_lag_is_what_has_not_been_read(servers, new_topic):
    """Whether the consumer has fetched it already or not, and in all partitions."""
    topic = await new_topic(2)
    for partition, count in enumerate((70, 30)):
        for first in range(0, count, 10):
            await send_as_one(servers, topic, numbers(first, first + 10), partition)
    async with Reading(raw(servers, topic, until=None), batch_rows=10) as reading:
        assert reading.reader.lag is None  # nobody has asked yet
        await reading.fetched(2)

        def lag():
            reading.reader._measure(reading.reader._fetched)
            return reading.reader.lag

        assert lag() == 100 - len(reading.values)
        while len(reading.values) < 100:
            before = len(reading.values)
            await reading.count(before + 1)
            assert lag() == 100 - len(reading.values)
        await send_as_one(servers, topic, numbers(0, 25), 1)
        async with asyncio.timeout(20):
            while lag() == 0:
                await asyncio.sleep(0)
        assert lag() == 25


async def test_a_partition_that_is_not_placed_yet_has_no_lag(servers, new_topic, monkeypatch):
    """To ask aiokafka for it would end the task that looks after the brokers."""
    monkeypatch.setattr(reader, "_LOOK_AFTER_S", 0.0)
    topic = await new_topic(2)
    await send(servers, topic, numbers(0, 5))
    async with Reading(raw(servers, topic, until=None), {f"{topic}/0": None}) as reading:
        await reading.count(5)
        reading.reader.assign({f"{topic}/1": [0, None, False]})
        reading.reader._measure(reading.reader._fetched)
        assert reading.reader.lag == 0


async def test_new_partitions_are_read_from_their_beginning(servers, topic):
    source = raw(servers, topic, start="latest", until=None)
    await send(servers, topic, numbers(0, 5))
    async with Reading(source) as reading:
        await reading.placed()
        await more_partitions(servers, topic, 2)
        await send(servers, topic, numbers(100, 105), 1)
        found = await source.discover()
        while len(found) < 2:
            found = await source.discover()
        reading.reader.assign({f"{topic}/1": None})
        assert await reading.count(5) == numbers(100, 105)
        position = reading.snapshot()
    del position[f"{topic}/1"]
    position[f"{topic}/1"] = None  # found by a job that was restored
    async with Reading(source, position, restored=True) as again:
        assert await again.count(5) == numbers(100, 105)


async def test_a_pattern_of_topics(servers, new_topic):
    one, other = await new_topic(2), await new_topic()
    names = await raw(servers, re.compile(re.escape(one))).discover()
    assert names == [f"{one}/0", f"{one}/1"]
    names = await raw(servers, re.compile(f"{re.escape(one)}|{re.escape(other)}")).discover()
    assert len(names) == 3
    assert await raw(servers, [one, other]).discover() == names
    unbounded = raw(servers, re.compile("nothing-like-it"), until=None)
    assert await unbounded.discover() == []
    with pytest.raises(ConnectorError, match="no topic at .* matches"):
        await raw(servers, re.compile("nothing-like-it")).discover()


# ---------------------------------------------------------------------- transactions


async def test_only_what_was_committed(servers, topic):
    async with producer_of(servers, transactional_id=f"t-{topic}") as producer:
        for first, commit in ((0, True), (10, False), (20, True), (30, False)):
            await producer.begin_transaction()
            await send_by(producer, topic, numbers(first, first + 10))
            await (producer.commit_transaction() if commit else producer.abort_transaction())
    expected = numbers(0, 10) + numbers(20, 30)
    assert await read(raw(servers, topic)) == expected
    assert await read(raw(servers, topic), batch_rows=3) == expected
    everything = await read(raw(servers, topic, isolation="read_uncommitted"))
    assert everything == numbers(0, 40)


async def test_an_open_transaction_is_not_waited_for(servers, topic):
    await send(servers, topic, numbers(0, 5))
    async with producer_of(servers, transactional_id=f"t-{topic}") as producer:
        await producer.begin_transaction()
        await send_by(producer, topic, numbers(5, 10))
        assert await read(raw(servers, topic)) == numbers(0, 5)
        await producer.abort_transaction()


# ---------------------------------------------------------------------- what a record holds


@pytest.mark.parametrize("layout", ["rows", "columns"])
async def test_records_are_decoded(servers, topic, layout):
    await send(servers, topic, [b'{"user":"u%d","amount":%d}' % (n, n) for n in range(20)])
    source = KafkaSource(servers, topic=topic, format=sl.Json(Order), until="latest")
    assert await read(source, layout=layout) == [Order(f"u{n}", n) for n in range(20)]


async def test_metadata(servers, topic):
    record = {"value": b'{"a":1}', "key": b"k", "timestamp_ms": 1_700_000_000_000}
    await send(
        servers,
        topic,
        [{**record, "headers": [("h", b"1"), ("h", b"2")]}, {"value": None, "key": b"x"}],
    )
    source = KafkaSource(servers, topic=topic, format=sl.Json(), until="latest").with_metadata()
    first, second = await read(source)
    expected = KafkaRecord(
        {"a": 1}, b"k", [("h", b"1"), ("h", b"2")], 1_700_000_000_000, topic, 0, 0
    )
    assert first == expected
    assert (second.value, second.key, second.offset) == (None, b"x", 1)
    assert decode(encode(first)) == first


async def test_a_record_without_a_value_is_left_out_and_counted(servers, topic):
    await send(servers, topic, [b"1", {"value": None, "key": b"k"}, b"2"])
    async with Reading(raw(servers, topic)) as reading:
        assert await reading.end() == [b"1", b"2"]
        assert reading.context.counters.skipped == 1


@pytest.mark.parametrize("metadata", [False, True])
async def test_bad_records(servers, topic, metadata):
    await send(servers, topic, [b"1", b"not json", b"3", b"{"])

    def source(on_error):
        source = KafkaSource(
            servers, topic=topic, format=sl.Json(int, on_error=on_error), until="latest"
        )
        return source.with_metadata() if metadata else source

    def plain(values):
        return [value.value if metadata else value for value in values]

    with pytest.raises(DecodeError, match=f"'in', {topic}/0, offset 1: .*b'not json'"):
        await read(source("fail"))
    async with Reading(source("skip")) as reading:
        assert plain(await reading.end()) == [1, 3]
        assert reading.context.counters.skipped == 2
    async with Reading(source("dead_letter")) as reading:
        assert plain(await reading.end()) == [1, 3]
        letters = [(one.partition, one.offset, one.data) for one in reading.letters]
        assert letters == [(f"{topic}/0", 1, b"not json"), (f"{topic}/0", 3, b"{")]


# ---------------------------------------------------------------------- in step


async def test_a_partition_far_ahead_waits_for_the_others(servers, new_topic):
    topic = await new_topic(2)
    ahead, behind = f"{topic}/0", f"{topic}/1"
    reached = {ahead: 100_000, behind: 0}
    source = raw(servers, topic, until=None, max_skew="10s")
    async with Reading(source, watermarks=reached, batch_rows=1) as reading:

        async def send_to_both(first):
            await send_as_one(servers, topic, numbers(first, first + 5), 0)
            await send_as_one(servers, topic, numbers(first + 100, first + 105), 1)
            await reading.fetched(2)

        await send_to_both(0)
        assert await reading.count(5) == numbers(100, 105)
        # The one behind has nothing more, so it holds nobody back.
        assert (await reading.count(10))[5:] == numbers(0, 5)
        await send_to_both(5)
        assert (await reading.count(15))[10:] == numbers(105, 110)
        assert (await reading.count(20))[15:] == numbers(5, 10)
        await send_to_both(10)
        assert reading.chosen() == [behind]
        reached[behind] = 95_000
        assert reading.chosen() == [behind, ahead]
        assert set(await reading.count(30)) == set(numbers(0, 15) + numbers(100, 115))


async def test_a_partition_far_ahead_of_other_tasks_waits_for_them(servers, new_topic):
    topic = await new_topic(2)
    mine, empty = f"{topic}/0", f"{topic}/1"
    reached, others = {mine: 100_000}, [MIN_TIMESTAMP]
    source = raw(servers, topic, until=None, max_skew="10s")
    async with Reading(source, watermarks=reached, others=lambda: others[0]) as reading:
        assert reading.reader.reached == MIN_TIMESTAMP, "nobody knows yet"
        await send_as_one(servers, topic, numbers(0, 5), 0)
        await reading.fetched(1)
        assert reading.chosen() == [], "the others may be anywhere"
        others[0] = 89_999
        assert reading.chosen() == []
        fetched = reading.reader._fetched
        empty_at = TopicPartition(topic, 1)
        async with asyncio.timeout(20):
            while not fetched.caught_up(empty_at, 0):
                await reading.reader.wait()
        assert reading.chosen() == []
        assert reading.reader.reached == 100_000, "the empty one does not count"
        others[0] = 90_000
        assert reading.chosen() == [mine]
        await reading.count(5)
        reading.take()
        assert reading.reader.reached == MAX_TIMESTAMP, "it has nothing more to read"
    assert empty not in reached


async def test_tasks_do_not_wait_for_each_other_unless_told_to(servers, topic):
    async with Reading(raw(servers, topic)) as reading:
        assert reading.reader.reached is None


async def test_the_partition_furthest_behind_is_read_first(servers, new_topic):
    topic = await new_topic(2)
    reached = {f"{topic}/0": 2_000, f"{topic}/1": 1_000}
    async with Reading(raw(servers, topic, until=None), watermarks=reached) as reading:
        for partition in (0, 1):
            await send_as_one(
                servers, topic, numbers(partition * 10, partition * 10 + 5), partition
            )
        await reading.fetched(2)
        assert await reading.count(10) == numbers(10, 15) + numbers(0, 5)


# ---------------------------------------------------------------------- what goes wrong


async def test_records_that_are_gone(servers, topic):
    await send(servers, topic, numbers(0, 10))
    await delete_before(servers, topic, 6)
    position = {f"{topic}/0": [2, 10, False]}
    with pytest.raises(ConnectorError, match=f"offset 2 of {topic}/0 is not there.*6 to 10.*lost"):
        async with Reading(raw(servers, topic), position, restored=True) as reading:
            await reading.end()
    for reset, expected in (("earliest", numbers(6, 10)), ("latest", [])):
        source = raw(servers, topic, on_offset_reset=reset)
        async with Reading(source, position, restored=True) as reading:
            assert await reading.end() == expected


async def test_an_unknown_topic(servers):
    with pytest.raises(ConnectorError, match="there is no topic 'no-such-topic' at .*create it"):
        await raw(servers, "no-such-topic").discover()


async def test_no_broker(caplog):
    source = raw("127.0.0.1:1", "orders", give_up_after="300ms")
    with pytest.raises(ConnectorError, match="127.0.0.1:1 cannot be reached.*given up after 0.3 s"):
        await source.discover()
    assert [r.getMessage() for r in caplog.records if "trying again" in r.getMessage()]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": "now"}, "start='now' must be one of 'earliest', 'latest', 'committed'"),
        ({"start": "committed"}, "needs group="),
        ({"start": datetime(2026, 1, 1)}, "has no time zone"),
        ({"until": "now"}, "until='now' must be one of"),
        ({"isolation": "none"}, "isolation='none' must be"),
        ({"on_offset_reset": "ignore"}, "on_offset_reset='ignore' must be"),
        ({"format": "json"}, "needs a format such as sl.Json"),
        ({"topic": []}, "names no topic"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UsageError, match=message):
        KafkaSource("localhost:1", **{"topic": "t", "format": sl.Raw(), **options})
