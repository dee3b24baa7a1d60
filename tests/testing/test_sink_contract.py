"""Every sink keeps the contract."""

import gzip
import json
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard

import streamline as sl
from streamline.connectors.files import FileSink
from streamline.io import Committable, SinkWriter
from streamline.testing import CollectingSink, SinkContract


class TestCollectingSink(SinkContract[str]):
    @pytest.fixture(autouse=True)
    def sink(self) -> None:
        self.collected: CollectingSink[str] = CollectingSink()

    def make_sink(self) -> sl.Sink[str]:
        return self.collected

    def visible(self) -> list[str]:
        return self.collected.records

    def records(self, count: int) -> list[str]:
        return [f"record {number}" for number in range(count)]


class TestFileSink(SinkContract[Any]):
    format: sl.Format[Any] = sl.Json()
    compression: Any = None

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "out"

    def make_sink(self) -> sl.Sink[Any]:
        return FileSink(self.path, self.format, compression=self.compression)

    def visible(self) -> list[Any]:
        return [value for path in self.path.glob("part-*") for value in self.read(path)]

    def read(self, path: Path) -> list[Any]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    def records(self, count: int) -> list[Any]:
        return [{"number": number, "text": "ä\n"} for number in range(count)]


class TestGzipFileSink(TestFileSink):
    compression = "gzip"

    def read(self, path: Path) -> list[Any]:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


class TestZstdMsgPackFileSink(TestFileSink):
    compression = "zstd"
    format = sl.MsgPack()

    def read(self, path: Path) -> list[Any]:
        unpacker = msgpack.Unpacker()
        unpacker.feed(zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()))
        return list(unpacker)


class Hasty(TestCollectingSink):
    """A sink that makes visible what is only prepared."""

    def __init__(self) -> None:
        self.collected = CollectingSink()

    def make_sink(self) -> sl.Sink[str]:
        collected = self.collected

        class Sink(sl.Sink[str]):
            guarantee = sl.Guarantee.EXACTLY_ONCE

            def writer(self) -> SinkWriter[str]:
                writer = collected.writer()
                prepare = writer.prepare

                async def hasty(epoch: int) -> list[Committable]:
                    prepared = await prepare(epoch)
                    await writer.commit(prepared)
                    return prepared

                writer.prepare = hasty  # type: ignore[method-assign]
                return writer

        return Sink()


def test_the_kit_finds_a_sink_that_commits_too_early() -> None:
    with pytest.raises(AssertionError, match="visible although only prepared: 0 records"):
        Hasty().test_records_are_visible_after_commit_and_not_before()
    with pytest.raises(AssertionError, match="visible although only prepared"):
        Hasty().test_several_epochs_in_one_commit()


def test_the_kit_finds_a_sink_that_does_not_recover() -> None:
    class Lossy(Hasty):
        def make_sink(self) -> sl.Sink[str]:
            collected = self.collected

            class Sink(sl.Sink[str]):
                guarantee = sl.Guarantee.EXACTLY_ONCE

                def writer(self) -> SinkWriter[str]:
                    writer = collected.writer()

                    async def nothing(committables: list[Committable]) -> None: ...

                    writer.recover = nothing  # type: ignore[method-assign]
                    return writer

            return Sink()

    with pytest.raises(AssertionError, match="recovered: 3 records missing"):
        Lossy().test_a_crash_after_prepare_loses_nothing()
