"""Logs as one JSON object for each line, with the job, attempt, task and node it comes from.

Without it, what a job prints goes to its log as it is.
"""

from __future__ import annotations

import codecs
import io
import json
import logging
import sys
import threading
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, TextIO

from streamline.clock import Clock
from streamline.ids import TaskId

current_task: ContextVar[TaskId | None] = ContextVar("current_task", default=None)
"""The task for which code is being run, where there is one."""


class JsonLog:
    """Writes lines.

    Args:
        stream: Where they go.
        clock: The time.
        job: What is said to be the job; empty if it is of none.

    Attributes:
        generation: Number of the attempt.
    """

    def __init__(self, stream: TextIO, clock: Clock, job: str = "") -> None:
        self.generation = 0
        self._stream = stream
        self._clock = clock
        self._job = job
        self._writing = threading.Lock()

    def say(self, level: str, text: str, **more: Any) -> None:
        """Write a line; one that nobody takes is lost, and that is no reason to fail."""
        at = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        line: dict[str, Any] = {"time": at.isoformat(timespec="milliseconds"), "level": level}
        if self._job:
            task = current_task.get()
            line |= {"job": self._job, "generation": self.generation}
            line |= {"node": task.node if task else None, "task": str(task) if task else None}
        data = json.dumps(line | {"text": text} | more, default=repr)
        try:
            with self._writing:
                self._stream.write(data + "\n")
                self._stream.flush()
        except (OSError, ValueError):
            pass

    def install(self) -> None:
        """Take what is printed, and what is logged by Python's ``logging``, from now on."""
        logging.getLogger().addHandler(_Handler(self))
        sys.stdout = _Printed(self, "stdout", sys.stdout)
        sys.stderr = _Printed(self, "stderr", sys.stderr)


class _Handler(logging.Handler):
    """What is logged; aiokafka's words for what we say ourselves are left out."""

    def __init__(self, log: JsonLog) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("aiokafka"):
            return
        more: dict[str, Any] = {"logger": record.name}
        if record.exc_info:
            more["trace"] = logging.Formatter().formatException(record.exc_info)
        self._log.say(record.levelname.lower(), record.getMessage(), **more)


class _Bytes(io.RawIOBase):
    """What is printed as bytes, such as by ``sys.stdout.buffer``."""

    def __init__(self, printed: _Printed) -> None:
        self._printed = printed
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        whole = bytes(data)
        self._printed.write(self._decoder.decode(whole))
        return len(whole)


class _Printed(io.TextIOBase):
    """What is printed, line by line."""

    buffer: _Bytes

    def __init__(self, log: JsonLog, name: str, real: TextIO) -> None:
        self.buffer = _Bytes(self)
        self._log = log
        self._name = name
        self._real = real
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def fileno(self) -> int:
        return self._real.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        for line in whole:
            self._log.say("info", line, stream=self._name)
        return len(text)
