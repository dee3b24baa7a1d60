"""The seam to connectors: what a sink and a reader do if they say nothing of it."""

import asyncio
from typing import Any

import pytest

from streamline.clock import ManualClock
from streamline.io import Counters, DeadLetter, Guarantee, Sink, SinkWriter, Source, WriterContext
from tests.unit.small import AnySink, AnySource, ListWriter


def test_recover_commits_what_the_checkpoint_holds() -> None:
    writer = ListWriter()
    asyncio.run(writer.recover(["a", "b"]))
    assert writer.committed == ["a", "b"]


def test_a_sink_promises_no_more_than_it_says() -> None:
    assert AnySink().guarantee == Guarantee.AT_LEAST_ONCE == "at-least-once"
    assert Guarantee.EXACTLY_ONCE == "exactly-once"


def test_a_source_has_no_dead_letters_nor_event_times_unless_it_says_so() -> None:
    assert not Source.assigns_timestamps
    assert not AnySource(timed=False).dead_letters


@pytest.mark.parametrize("kind", [Source, Sink, SinkWriter])
def test_half_a_connector_cannot_be_made(kind: Any) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind()


def test_counters_begin_at_zero_and_are_not_shared() -> None:
    contexts = [WriterContext("j", "n", i, 2, "r", False, ManualClock()) for i in range(2)]
    contexts[0].counters.bytes_out += 1
    assert contexts[1].counters == Counters()


def test_a_dead_letter_is_a_record() -> None:
    letter = DeadLetter("no JSON", "orders", "a.jsonl", 12, b"{")
    assert letter == DeadLetter(
        reason="no JSON", node="orders", partition="a.jsonl", offset=12, data=b"{"
    )
