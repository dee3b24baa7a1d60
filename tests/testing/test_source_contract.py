"""Every source keeps the contract."""

import gzip
import random
from pathlib import Path
from typing import Any

import pytest
import zstandard

import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.files import FileSource
from streamline.testing import Crash, End, Event, Pause, ScriptedSource, SourceContract, Watermark


class Reading(sl.Record):
    sensor: str
    value: int


READINGS = [Reading(f"sensor-{number % 3}", number) for number in range(40)]


class TestCollection(SourceContract[int]):
    def make_source(self) -> sl.Source[int]:
        return CollectionSource(list(range(20)))

    def expected(self) -> list[int]:
        return list(range(20))


class TestTimedCollectionInPartitions(SourceContract[str]):
    def make_source(self) -> sl.Source[str]:
        return CollectionSource([f"r{n}" for n in range(17)], list(range(17)), partitions=4)

    def expected(self) -> list[str]:
        return [f"r{n}" for n in range(17)]


class TestMorePartitionsThanRecords(SourceContract[int]):
    def make_source(self) -> sl.Source[int]:
        return CollectionSource([1, 2], partitions=5)

    def expected(self) -> list[int]:
        return [1, 2]


class TestEmptyCollection(SourceContract[int]):
    def make_source(self) -> sl.Source[int]:
        return CollectionSource([])

    def expected(self) -> list[int]:
        return []


class TestGenerator(SourceContract[tuple[int, int]]):
    batch_rows = 500

    def make_source(self) -> sl.Source[tuple[int, int]]:
        return GeneratorSource(_make, count=3_000, seed=4, partitions=2)

    def expected(self) -> list[tuple[int, int]]:
        return [
            _make(number, rng)
            for partition in range(2)
            for block, rng in _blocks(partition, 4)
            for number in range(partition + 2 * block, 3_000, 2)[:1024]
        ]


def _make(number: int, rng: random.Random) -> tuple[int, int]:
    return number, rng.randrange(1000)


def _blocks(partition: int, seed: int) -> Any:
    for block in (0, 1024):
        yield block, random.Random(f"{seed}/{partition:05d}/{block}")


class TestScript(SourceContract[str]):
    def make_source(self) -> sl.Source[str]:
        first = [Event(f"a{n}", n) for n in range(7)]
        second = [Event(f"b{n}", n) for n in range(5)]
        return ScriptedSource(
            [Watermark(-1), *first[:3], Pause(), Watermark(2), Watermark(2), *first[3:]],
            [*second, Watermark(4), Pause("2ms"), End(), Event("never", 9)],
            [],
            [Pause()],
        )

    def expected(self) -> list[str]:
        return [f"a{n}" for n in range(7)] + [f"b{n}" for n in range(5)]


class TestUnboundedScript(SourceContract[int]):
    def make_source(self) -> sl.Source[int]:
        return ScriptedSource([1, 2, 3, 4, Pause(), 5], [6], bounded=False)

    def expected(self) -> list[int]:
        return [1, 2, 3, 4, 5, 6]


class FileContract(SourceContract[Any]):
    """A folder with one file; most formats read a line at a time."""

    keeps_batch_rows = False  # a reader of files estimates it from the length of lines
    format: sl.Format[Any] = sl.Json(Reading)
    ending = "jsonl"
    split_bytes = 1 << 19

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path
        data = self.pack(self.data())
        (tmp_path / f"readings.{self.ending}").write_bytes(data)

    def data(self) -> bytes:
        return (self.format.header or b"") + self.format.encode_lines(list(READINGS))

    def pack(self, data: bytes) -> bytes:
        return data

    def make_source(self) -> sl.Source[Any]:
        return FileSource(self.path, self.format, split_bytes=self.split_bytes, partitions=3)

    def expected(self) -> list[Any]:
        return list(READINGS)


class TestJsonFile(FileContract):
    pass


class TestJsonFileInStripes(FileContract):
    split_bytes = 100


class TestJsonFileInTinyStripes(FileContract):
    split_bytes = 7


class TestGzipFile(FileContract):
    ending = "jsonl.gz"

    def pack(self, data: bytes) -> bytes:
        return gzip.compress(data)


class TestZstdFile(FileContract):
    ending = "jsonl.zst"

    def pack(self, data: bytes) -> bytes:
        return zstandard.compress(data[:700]) + zstandard.compress(data[700:])


class TestCsvFile(FileContract):
    format = sl.Csv(Reading)
    ending = "csv"
    split_bytes = 64


class TestMsgPackFile(FileContract):
    format = sl.MsgPack(Reading)
    ending = "msgpack"


class TestTextFiles(FileContract):
    """Several files, some of them empty or without a last line break."""

    format = sl.Text()
    split_bytes = 20

    def data(self) -> bytes:
        (self.path / "a.txt").write_bytes(b"")
        (self.path / "b.txt").write_bytes(b"one\ntwo\nthree, without an end")
        (self.path / "c.txt").write_bytes("ä\nö\n".encode() * 20)
        return b"x\n"

    def expected(self) -> list[Any]:
        return ["one", "two", "three, without an end", "x"] + ["ä", "ö"] * 20


class TestFollowedFile(FileContract):
    format = sl.Text()

    def data(self) -> bytes:
        return b"".join(b"line %d\n" % number for number in range(12)) + b"not yet a li"

    def make_source(self) -> sl.Source[Any]:
        return FileSource(self.path, self.format, follow=True, poll_every="1ms")

    def expected(self) -> list[Any]:
        return [f"line {number}" for number in range(12)]


class TestFileWithBadLines(FileContract):
    format = sl.Json(Reading, on_error="skip")
    split_bytes = 50

    def data(self) -> bytes:
        return super().data().replace(b'"sensor":"sensor-1"', b"nonsense")

    def expected(self) -> list[Any]:
        return [reading for reading in READINGS if reading.sensor != "sensor-1"]


class Forgetful(SourceContract[int]):
    """A source whose snapshot leaves out partitions that have ended."""

    def make_source(self) -> sl.Source[int]:
        class Source(CollectionSource[int]):
            def reader(self) -> sl.SourceReader[int]:
                reader = super().reader()
                whole = reader.snapshot
                reader.snapshot = lambda: {  # type: ignore[method-assign]
                    name: at for name, at in whole().items() if name in reader.active
                }
                return reader

        return Source([1, 2, 3, 4, 5, 6, 7, 8], partitions=2)

    def expected(self) -> list[int]:
        return [1, 2, 3, 4, 5, 6, 7, 8]


def test_the_kit_finds_a_source_that_forgets_what_has_ended() -> None:
    with pytest.raises(AssertionError, match="at the end"):
        Forgetful().test_a_snapshot_names_every_partition()
    with pytest.raises((AssertionError, KeyError)):
        Forgetful().test_partitions_move_between_readers()


def test_the_kit_finds_a_source_that_reads_again() -> None:
    class Again(Forgetful):
        def make_source(self) -> sl.Source[int]:
            class Source(CollectionSource[int]):
                def reader(self) -> sl.SourceReader[int]:
                    reader = super().reader()
                    assign = reader.assign
                    reader.assign = lambda positions: assign(  # type: ignore[method-assign]
                        {name: max(0, (at or 0) - 1) for name, at in positions.items()}
                    )
                    return reader

            return Source([1, 2, 3, 4])

        def expected(self) -> list[int]:
            return [1, 2, 3, 4]

    with pytest.raises(AssertionError, match="1 wrong or twice"):
        Again().test_goes_on_from_every_position()
    with pytest.raises(AssertionError, match="come again"):
        Again().test_what_has_ended_stays_ended()


def test_a_crash_is_raised_once_by_all_copies() -> None:
    from streamline.testing import ScriptedCrashError

    class Crashing(TestScript):
        source = ScriptedSource([1, 2, Crash("now"), 3])

        def make_source(self) -> Any:
            return self.source

        def expected(self) -> list[Any]:
            return [1, 2, 3]

    with pytest.raises(ScriptedCrashError, match=r"'source' crashes at 00000\[2\]: now"):
        Crashing().test_brings_every_record_once()
    Crashing().test_brings_every_record_once()
