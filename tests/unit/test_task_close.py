"""What a task holds is let go of, whatever the closing of the rest raises."""

from pathlib import Path
from typing import Any

import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.engines.inline import InlineEngine
from streamline.io import SinkWriter, SourceReader
from streamline.state.memory import MemoryStore
from streamline.state.store import DirectoryStore
from tests.simulation.ledger import Ledger, LedgerSink


class Closing:
    """Remembers who was closed, and raises for those who are to."""

    def __init__(self, raising: set[str]) -> None:
        self.raising = raising
        self.closed: list[str] = []

    def __call__(self, who: str) -> None:
        self.closed.append(who)
        if who in self.raising:
            raise RuntimeError(f"{who} does not close")


def job(closing: Closing, ledger: Ledger) -> sl.Job:
    class Numbers(CollectionSource[int]):
        def reader(self) -> SourceReader[int]:
            reader = super().reader()

            async def close() -> None:
                closing("reader")

            reader.close = close  # type: ignore[method-assign]
            return reader

    class Out(LedgerSink):
        def __init__(self, name: str) -> None:
            super().__init__(ledger)
            self.name = name

        def writer(self) -> SinkWriter[Any]:
            writer, name = super().writer(), self.name

            async def close() -> None:
                closing(name)

            writer.close = close  # type: ignore[method-assign]
            return writer

    class Same(sl.ProcessFunction[int, int, int]):
        def __init__(self, name: str) -> None:
            self.name = name

        def process(self, value: int, ctx: sl.ProcessContext[int]) -> list[int]:
            return [value]

        def close(self) -> None:
            closing(self.name)

    job = sl.Job("closing")
    keyed = job.source("numbers", Numbers(range(5))).key_by(lambda number: number)
    one, two = keyed.process(Same("one"), name="one"), keyed.process(Same("two"), name="two")
    one.sink("first", Out("first"))
    two.sink("second", Out("second"))
    return job


def run(folder: Path, raising: set[str]) -> tuple[list[str], list[str], list[str]]:
    """Who was closed, what was said, and the results."""
    closing, said = Closing(raising), []

    class Store(MemoryStore):
        def close(self) -> None:
            closing("state")

    store = DirectoryStore(folder / "checkpoints")
    ledger = Ledger(store)
    status = InlineEngine(
        job(closing, ledger).graph(),
        store=store,
        open_kv=Store.open,
        directory=folder / "live",
        say=lambda level, text: said.append(text),
    ).run()
    assert status.state == "finished", status.reason
    return closing.closed, said, ledger.results()


def test_all_the_rest_is_closed_and_every_error_told(tmp_path: Path) -> None:
    everything, said, results = run(tmp_path / "calm", set())
    assert sorted(everything) == sorted(["reader", "first", "second", "one", "two", "state"])
    for raising in ({"reader"}, {"first"}, {"two"}, {"reader", "first", "second"}):
        closed, told, got = run(tmp_path / "-".join(sorted(raising)), raising)
        assert closed == everything
        assert got == results
        text = "\n".join(line for line in told if line not in said)
        for who in raising:
            assert f"{who} does not close" in text
