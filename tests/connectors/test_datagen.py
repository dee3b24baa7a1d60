"""GeneratorSource: the same records again, as many and as fast as asked for."""

import asyncio
import random

import pytest

import streamline as sl
from streamline.clock import ManualClock
from streamline.codec import decode, encode
from streamline.connectors.datagen import GeneratorSource
from streamline.errors import JobFailedError, UsageError
from streamline.testing import CollectingSink, run_job
from tests.connectors.reading import Readers, now, read_all, reader_context


def make(number, rng):
    """A record that draws more or fewer random numbers than the next."""
    return number, [rng.random() for _ in range(number % 3)], rng.randrange(1000)


def generator(count=5000, **settings):
    return GeneratorSource(make, count=count, **settings)


def by_number(records):
    return sorted(records, key=lambda record: record[0])


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8, 9, 1023, 1024, 1025, 3000])
@pytest.mark.parametrize("partitions", [1, 2, 3, 8])
def test_the_count_is_exact_over_partitions(count, partitions):
    source = generator(count, partitions=partitions)
    assert source.bounded
    for readers in (1, 2, 5):
        found = read_all(source, readers, batch_rows=100)
        assert [number for number, *_ in by_number(found)] == list(range(count))


def test_there_are_as_many_partitions_as_was_said():
    names = now(generator(partitions=11).discover())
    assert names == sorted(set(names)) and len(names) == 11


@pytest.mark.parametrize("batch_rows", [1, 7, 1023, 1024, 1025, 100_000])
def test_records_do_not_depend_on_batches_or_readers(batch_rows):
    source = generator(2500, partitions=2)
    expected = by_number(read_all(source, batch_rows=100))
    for readers in (1, 3):
        assert by_number(read_all(source, readers, batch_rows=batch_rows)) == expected


def test_partitions_have_random_numbers_of_their_own():
    found = read_all(GeneratorSource(lambda _, rng: rng.random(), count=10_000, partitions=4))
    assert len(set(found)) == 10_000


def test_the_seed_matters():
    first, again, other = (read_all(generator(100, seed=seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_records_are_the_same_for_ever():
    """Whoever made data with a seed gets them again from every later version."""
    rng = random.Random("5/00001/1024")
    source = GeneratorSource(lambda number, rng: (number, rng.random()), seed=5, partitions=2)
    with Readers(source, positions={"00001": 1024}, batch_rows=3) as readers:
        readers.poll()
        assert readers.values == [(1 + 2 * place, rng.random()) for place in (1024, 1025, 1026)]


@pytest.mark.parametrize("seed", range(30))
def test_restored_anywhere_they_go_on_the_same(seed):
    rng = random.Random(seed)
    count, partitions = rng.randrange(6000), rng.randrange(1, 5)
    source = generator(count, seed=seed, partitions=partitions)
    expected = by_number(read_all(source, batch_rows=500))
    found, positions = [], None
    while True:
        batch_rows = rng.choice([1, 10, 333, 1024, 5000])
        with Readers(source, rng.randrange(1, 4), positions, batch_rows=batch_rows) as readers:
            found += readers.poll_some(rng.randrange(1, 8)).values
            positions = decode(encode(readers.snapshot()))
            if not readers.active:
                break
    assert by_number(found) == expected
    assert read_all(source, 2, positions) == []


def test_it_stands_anywhere_within_a_block():
    source = generator(2500, partitions=1)
    expected = read_all(source)
    for position in (0, 1, 2, 511, 1022, 1023, 1024, 1025, 2047, 2048, 2499, 2500):
        assert read_all(source, positions={"00000": position}) == expected[position:]


@pytest.mark.parametrize("batch_rows", [1, 100, 1023, 5000])
def test_no_record_is_made_twice(batch_rows):
    """At a low rate it is polled for one record at a time, of blocks of many."""
    numbers = []
    source = GeneratorSource(lambda number, _: numbers.append(number), count=3000, partitions=3)
    read_all(source, batch_rows=batch_rows)
    assert sorted(numbers) == list(range(3000))


def test_a_snapshot_has_all_partitions():
    source = generator(10, partitions=16)  # more than there are records
    with Readers(source, 2) as readers:
        assert readers.snapshot().keys() == set(now(source.discover()))
        readers.read_all()
        assert readers.snapshot().keys() == set(now(source.discover()))


def test_active_loses_a_name_with_its_last_record():
    with Readers(generator(20, partitions=2), batch_rows=10) as readers:
        readers.poll()
        assert readers.active == {"00001"}
        readers.poll()
        assert readers.active == set()
        assert len(readers.values) == 20


def test_without_a_count_it_goes_on():
    source = GeneratorSource(make, partitions=2)
    assert not source.bounded
    with Readers(source, batch_rows=1000) as readers:
        readers.poll_some(10)
        assert len(readers.values) > 5000
        assert len(readers.active) == 2


def test_partitions_move_side_by_side():
    with Readers(generator(4000, partitions=4), batch_rows=10) as readers:
        highest = 0
        readers.read_all()
        for number, *_ in readers.values:
            assert number >= highest - 80
            highest = max(highest, number)


# ---------------------------------------------------------------------- rate


def test_the_rate_follows_the_clock():
    clock = ManualClock()
    source = generator(None, rate=100, partitions=4)
    with Readers(source, clock=clock, batch_rows=1000) as readers:
        assert not readers.poll()
        clock.advance(9)
        assert not readers.poll()
        for ms, total in ((1, 1), (10, 2), (980, 100), (0, 100), (5, 100), (5, 101), (9990, 1100)):
            clock.advance(ms)
            readers.read_what_is_there()
            assert len(readers.values) == total


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_rate_is_that_of_all_readers_together(count):
    clock = ManualClock()
    source = generator(None, rate=900, partitions=8)
    with Readers(source, count, clock=clock, batch_rows=50) as readers:
        for second in range(1, 11):
            clock.advance(1000)
            readers.read_what_is_there()
            assert 900 * second - count <= len(readers.values) <= 900 * second


def test_a_rate_below_one_a_second():
    clock = ManualClock()
    with Readers(generator(None, rate=0.1), clock=clock) as readers:
        for _ in range(100):
            clock.advance(1000)
            readers.poll()
        assert len(readers.values) == 10


def test_the_rate_begins_anew_after_a_restore():
    """There is no burst for the time in which the job did not run."""
    clock = ManualClock()
    source = generator(None, rate=100, partitions=2)
    with Readers(source, clock=clock) as readers:
        clock.advance(10_000)
        readers.read_what_is_there()
        positions = readers.snapshot()
    clock.advance(3_600_000)
    with Readers(source, positions=positions, clock=clock, batch_rows=100_000) as readers:
        assert not readers.poll()
        clock.advance(1000)
        readers.read_what_is_there()
        assert len(readers.values) == 100


def test_a_rate_does_not_change_the_records_nor_their_number():
    clock = ManualClock()
    with Readers(generator(500, rate=333), 2, clock=clock, batch_rows=7) as readers:
        for _ in range(100):
            clock.advance(100)
            readers.read_what_is_there()
        assert readers.active == set()
        assert by_number(readers.values) == by_number(read_all(generator(500)))


def test_a_reader_without_partitions_has_nothing():
    reader = generator(None, rate=100).reader()
    now(reader.open(reader_context()))
    reader.assign({})
    assert reader.poll() is None
    assert reader.active == set() and reader.snapshot() == {}


def test_waiting_ends():
    asyncio.run(asyncio.wait_for(generator().reader().wait(), 5))


@pytest.mark.parametrize("settings", [{"count": -1}, {"rate": 0}, {"rate": -5}, {"partitions": 0}])
def test_numbers_that_cannot_be_are_refused(settings):
    with pytest.raises(UsageError, match=next(iter(settings))):
        GeneratorSource(make, **settings)


def test_a_function_that_raises_is_told_with_its_line_and_the_number() -> None:
    job, sink = sl.Job("made"), CollectingSink()
    source = GeneratorSource(lambda number, rng: 1 // (number - 37), count=100, partitions=4)
    job.source("numbers", source).sink("out", sink)
    said = r"'numbers' failed at test_datagen.py:\d+ .* it was making record 37"
    with pytest.raises(JobFailedError, match=said):
        run_job(job)
