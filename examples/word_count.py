"""Count words in text files: the first job to read.

It shows a bounded job, ``flat_map``, keys, and a running aggregate: each word that is read gives
a record with its count so far, so the last record of a word is its count. State is kept for each
word; there is no event time and no window.

    streamline run examples/word_count.py
    streamline run examples/word_count.py -p input='texts/*.txt' -p output=demo-output/words

Without ``output`` the counts go to the terminal. Printing is at least once: what was printed
before a crash cannot be taken back. Files are exactly once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import streamline as sl
from streamline.connectors.files import FileSink, FileSource
from streamline.connectors.stdout import StdoutSink

SAMPLE = str(Path(__file__).parent / "data" / "words.txt")
WORD = re.compile(r"[a-z']+")


def words(line: str) -> Iterator[str]:
    """The words of a line, in lower case."""
    for match in WORD.finditer(line.lower()):
        yield match[0]


def as_text(result: sl.KeyedResult) -> str:
    """A word and its count so far, as a line."""
    return f"{result.key} {result.count}"


def job(input: str = SAMPLE, output: str | None = None) -> sl.Job:
    """Count the words of ``input``, a file, a folder or a pattern."""
    job = sl.Job("word-count")
    counts = (
        job.source("lines", FileSource(input, format=sl.Text()))
        .flat_map(words, name="words")
        .key_by(lambda word: word, name="by-word")
        .aggregate(count=sl.Count(), name="count")
    )
    if output is None:
        counts.map(as_text).sink("terminal", StdoutSink(sl.Text()))
    else:
        counts.sink("counts", FileSink(output, format=sl.Json()))
    return job
