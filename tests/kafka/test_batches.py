"""The two ways to read: whole batches as long as aiokafka's inside is what it was, or getmany."""

from contextlib import asynccontextmanager
from copy import copy
from types import SimpleNamespace

import aiokafka
import pytest
from aiokafka.consumer import fetcher

from streamline.connectors.kafka import fit, reader
from streamline.connectors.kafka.batches import GapsError
from tests.kafka import test_source as by_batches
from tests.kafka.topics import send_many


@asynccontextmanager
async def inside(servers):
    """Of a consumer what is looked at, the fetcher being a copy that may be damaged."""
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=servers)
    await consumer.start()
    await consumer.topics()  # else it would cancel, at the end, what has not begun
    try:
        yield SimpleNamespace(_client=consumer._client, _fetcher=copy(consumer._fetcher))
    finally:
        await consumer.stop()


async def test_aiokafka_has_inside_what_whole_batches_need(servers):
    async with inside(servers) as consumer:
        lacks = fit.lacking(consumer)
    assert lacks == "", (
        f"aiokafka {aiokafka.__version__} has changed inside ({lacks}): adapt "
        "connectors/kafka/batches.py and fit.py; until then sources read by getmany, several "
        "times as slow"
    )


IN_OBJECTS = ["_records", "_wait_consume_future", "_prefetch_backoff"]
IN_CLASSES = [
    (fetcher.Fetcher, "_notify"),
    (fetcher.Fetcher, "_create_fetch_waiter"),
    (fetcher.Fetcher, "error_future"),
    (fetcher.FetchResult, "_update_position"),
    (fetcher.FetchError, "check_raise"),
    (fetcher.PartitionRecords, "_consume_aborted_up_to"),
]
IN_PIECES = [
    "_records", "_isolation_level", "_check_crcs", "_aborted_producers", "next_fetch_offset",
]  # fmt: skip


@pytest.mark.parametrize("name", IN_OBJECTS)
async def test_what_a_fetcher_no_longer_holds_is_noticed(servers, name):
    async with inside(servers) as consumer:
        delattr(consumer._fetcher, name)
        assert fit.lacking(consumer) == f"Fetcher has no {name}"


@pytest.mark.parametrize(("kind", "name"), IN_CLASSES)
async def test_what_a_class_no_longer_has_is_noticed(servers, monkeypatch, kind, name):
    async with inside(servers) as consumer:
        with monkeypatch.context() as patch:
            patch.delattr(kind, name)
            assert name in fit.lacking(consumer)


@pytest.mark.parametrize("name", IN_PIECES)
async def test_what_a_piece_no_longer_holds_is_noticed(servers, monkeypatch, name):
    before = fetcher.PartitionRecords.__init__

    def without(self, *args):
        before(self, *args)
        delattr(self, name)

    async with inside(servers) as consumer:
        monkeypatch.setattr(fetcher.PartitionRecords, "__init__", without)
        assert name in fit.lacking(consumer)


async def test_batches_of_another_kind_are_noticed(servers, monkeypatch):
    async with inside(servers) as consumer:
        monkeypatch.setattr(fit, "DefaultRecordBatch", int)
        assert fit.lacking(consumer) == "a record batch is no DefaultRecordBatch"


async def test_a_batch_that_does_not_say_where_it_ends_is_noticed(servers, monkeypatch):
    def gaps(fetched, *, whole):
        raise GapsError

    async with inside(servers) as consumer:
        monkeypatch.setattr(fit, "pieces_of", gaps)
        assert "does not say how many records it has" in fit.lacking(consumer)


async def test_what_is_read_otherwise_is_noticed(servers, monkeypatch):
    async with inside(servers) as consumer:
        monkeypatch.setattr(fetcher.PartitionRecords, "_consume_aborted_up_to", lambda *_: None)
        assert fit.lacking(consumer) == (
            "two record batches were read as [([0, 1], [b'value', b'value'], 2), "
            "([2, 3], [b'value', b'value'], 4)]"
        )


async def test_it_is_said_that_reading_is_slow(changed, servers, topic, caplog):
    await by_batches.read(by_batches.raw(servers, topic))
    (said,) = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert said == (
        f"streamline: source 'in': aiokafka {aiokafka.__version__} is not the one that whole "
        "record batches are read by (Fetcher has no _records), so records are read one by one, "
        "several times as slowly; install a version that streamline names"
    )


@pytest.fixture
def changed(monkeypatch):
    """An aiokafka that does not fit any more."""
    monkeypatch.setattr(reader, "lacking", lambda consumer: "Fetcher has no _records")


@pytest.mark.parametrize("codec", ["gzip", "lz4"])
async def test_compression(changed, servers, topic, codec):
    await by_batches.test_every_compression(servers, topic, codec)


async def test_all_partitions(changed, servers, new_topic):
    await by_batches.test_all_partitions_in_order(servers, new_topic)


@pytest.mark.parametrize("at", [0, 7, 100])
async def test_inside_a_record_batch(changed, servers, topic, at):
    await by_batches.test_reading_goes_on_inside_a_record_batch(servers, topic, at)


async def test_transactions(changed, servers, topic):
    await by_batches.test_only_what_was_committed(servers, topic)


async def test_new_partitions(changed, servers, topic):
    await by_batches.test_new_partitions_are_read_from_their_beginning(servers, topic)


async def test_records_that_are_gone(changed, servers, topic):
    await by_batches.test_records_that_are_gone(servers, topic)


async def test_metadata(changed, servers, topic):
    await by_batches.test_metadata(servers, topic)


async def test_one_that_is_held_back_does_not_hold_back_others(changed, servers, new_topic):
    """Also when more of it is there than is kept."""
    topic = await new_topic(2)
    await send_many(servers, topic, by_batches.numbers(0, 30_000), 0)
    await send_many(servers, topic, by_batches.numbers(50_000, 80_000), 1)
    reached = {f"{topic}/0": 100_000}
    source = by_batches.raw(servers, topic, max_skew="10s")
    async with by_batches.Reading(source, watermarks=reached) as reading:
        values = await reading.end()
    assert sorted(map(int, values)) == [*range(30_000), *range(50_000, 80_000)]
    assert [int(value) for value in values[:30_000]] == list(range(50_000, 80_000))
