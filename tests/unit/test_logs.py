"""Logs as JSON lines: also of what is printed as bytes."""

import io
import json

import pytest

from streamline.clock import SystemClock
from streamline.logs import JsonLog, _Printed


@pytest.mark.parametrize("size", [1, 3, 100])
def test_bytes_become_lines(size: int) -> None:
    stream = io.StringIO()
    printed = _Printed(JsonLog(stream, SystemClock(), "job-1"), "stdout", stream)
    data = "eins ü\nzwei\n".encode()
    for start in range(0, len(data), size):
        printed.buffer.write(data[start : start + size])
        printed.buffer.flush()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["text"] for line in lines] == ["eins ü", "zwei"]
