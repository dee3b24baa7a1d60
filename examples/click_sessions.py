"""Visits of a web site: clicks of a user that are at most a gap apart are one session.

It shows session windows, which have no fixed length; allowed lateness, which keeps a finished
session open for clicks that come late and gives its result again; and what is done with clicks
that come even later: they are not lost but go to a sink of their own.

    streamline run examples/click_sessions.py
    streamline run examples/click_sessions.py -p input=clicks.jsonl -p output=FOLDER -p gap=30m

Read the results in this way: of the sessions of one user that overlap, the last one holds all
clicks. Lateness is measured against the watermark, which goes forward once for each batch of up
to 4,096 records. The sample is smaller than one batch, so on the command line nothing in it is
late; tests/examples runs it in batches of one record.
"""

from __future__ import annotations

from pathlib import Path

import streamline as sl
from streamline.connectors.files import FileSink, FileSource

SAMPLE = str(Path(__file__).parent / "data" / "clicks.jsonl")


class Click(sl.Record):
    """One line of the input."""

    user: str
    page: str
    at: int  # ms since the epoch


def job(
    input: str = SAMPLE,
    output: str = "demo-output/clicks",
    gap: str = "30s",
    lateness: str = "1m",
) -> sl.Job:
    """Find the sessions in the clicks of ``input``; two folders appear in ``output``."""
    job = sl.Job("click-sessions")
    sessions = (
        job.source("clicks", FileSource(input, format=sl.Json(Click)))
        .with_timestamps("at", max_out_of_orderness="5s")
        .key_by("user", name="by-user")
        .window(sl.Session(gap), allowed_lateness=lateness)
        .aggregate(clicks=sl.Count(), pages=sl.Collect("page"), name="sessions")
    )
    sessions.sink("sessions-out", FileSink(f"{output}/sessions", format=sl.Json()))
    sessions.late.sink("late-out", FileSink(f"{output}/late", format=sl.Json()))
    return job
