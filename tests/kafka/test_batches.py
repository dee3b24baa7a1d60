"""The two ways to read: whole batches as long as aiokafka's inside is what it was, or getmany."""

import aiokafka
import pytest

from streamline.connectors.kafka import batches, reader
from tests.kafka import test_source as by_batches


def test_aiokafka_has_inside_what_whole_batches_need():
    assert batches.fits(), (
        f"aiokafka {aiokafka.__version__} has changed inside: adapt connectors/kafka/batches.py; "
        "until then sources read by getmany, several times as slow"
    )


@pytest.fixture
def changed(monkeypatch):
    """An aiokafka that does not fit any more."""
    monkeypatch.setattr(reader, "fits", lambda: False)


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


async def test_it_is_not_lost_when_the_inside_changes(monkeypatch):
    monkeypatch.delattr(batches.inside.FetchResult, "_update_position")
    assert not batches.fits()
