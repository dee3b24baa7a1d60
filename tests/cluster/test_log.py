"""Logs: so much is kept, and whoever reads on misses nothing and reads nothing twice."""

import subprocess
import sys

import pytest

from streamline.cluster.log import cut_log, read_log
from tests.cluster.running import Cluster

MOST = 256 << 10
WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for number in range(20_000):
    os.write(file, b"%s says line %d of many that it has to say\\n" % (sys.argv[2].encode(), number))
"""


def test_pieces(tmp_path):
    """They end with whole lines and whole letters."""
    log = tmp_path / "log"
    log.write_bytes("erste\nzweite ü\nä".encode()[:-1])
    assert read_log(log, 0, 8) == {"text": "erste\n", "next": 6}
    assert read_log(log, 6) == {"text": "zweite ü\n", "next": 16}
    log.write_bytes("erste\nzweite ü\nä".encode())
    assert read_log(log, 16) == {"text": "ä", "next": 18}
    assert read_log(tmp_path / "none", 0) == {"text": "", "next": 0}


def test_reading_on_while_it_is_cut(tmp_path):
    """Several processes write as they like, and know nothing of it."""
    log = tmp_path / "log"
    names = ("one", "two")
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, log, name]) for name in names]
    text, at, least = "", 0, 0
    while True:
        over = all(writer.poll() is not None for writer in writers)
        piece = read_log(log, at)
        text += piece["text"]  # the last line of it may not be whole yet
        at = piece["next"]
        if log.exists():
            # What is read already may go; a reader that is slower than that misses it.
            cut_log(log, max(MOST, log.stat().st_size - at))
            least = max(least, log.stat().st_size - log.stat().st_blocks * 512)
        if over and not piece["text"]:
            break
    lines = text.splitlines()
    for name in names:
        said = [line for line in lines if line.startswith(name)]
        assert said == [f"{name} says line {n} of many that it has to say" for n in range(20_000)]
    assert len(lines) == 40_000
    assert least > MOST
    assert log.stat().st_blocks * 512 <= MOST * 5 // 4 + (128 << 10)
    first = read_log(log, 0)
    assert first["text"].splitlines()[0] in lines  # whole, though the cut goes through a line
    assert first["text"].splitlines() == lines[-len(first["text"].splitlines()) :]
    assert read_log(log, at) == {"text": "", "next": at}


def test_a_short_log_is_left_alone(tmp_path):
    log = tmp_path / "log"
    cut_log(log, MOST)
    log.write_text("short\n")
    cut_log(log, 1 << 20)
    assert read_log(log, 0)["text"] == "short\n"


CHATTY = """
import streamline as sl
from streamline.connectors.datagen import GeneratorSource
from streamline.connectors.stdout import StdoutSink

def make(number, _):
    return {"number": number, "text": "x" * 80}

job = sl.Job("chatty")
stream = job.source("numbers", GeneratorSource(make, count=10_000_000, rate=10_000))
stream.sink("out", StdoutSink(sl.Json()))
"""


def test_the_log_of_a_job_that_prints_for_ever(tmp_path):
    """It is followed across the cuts, by the API and by the command."""
    (tmp_path / "chatty.py").write_text(CHATTY)
    cluster = Cluster(tmp_path)
    try:
        cluster.start("--log-size", "2MiB")  # as much as it prints in two seconds
        job = cluster.submit(tmp_path / "chatty.py", {})
        log = cluster.data / "jobs" / job / "log"
        numbers, at = [], 0
        while not given_back(log):
            piece = cluster.http.get(f"/v1/jobs/{job}/logs", params={"offset": at}).json()
            numbers += printed(piece["text"])
            at = piece["next"]
        kept = cluster.http.get(f"/v1/jobs/{job}/logs").json()
        assert printed(kept["text"])[0] > 0  # what stood before is gone
        piece = cluster.http.get(f"/v1/jobs/{job}/logs", params={"offset": at}).json()
        numbers += printed(piece["text"])
        check(numbers, 0)
        cluster.ok("cancel", job)
        followed = printed(cluster.ok("logs", job, "--follow"))
        check(followed, followed[0])
        assert followed[0] > 0
        assert given_back(log)
        say = cluster.refused("cluster", "start", "--log-size", "much")
        assert "--log-size='much' is not a size" in say
    finally:
        cluster.__exit__()


def given_back(log):
    """Whether more is missing than what the disk has not been told of yet."""
    return log.exists() and log.stat().st_size - log.stat().st_blocks * 512 > 1 << 18


def printed(text):
    lines = [line for line in text.splitlines() if line.startswith('{"number":')]
    return [int(line.split(":")[1].split(",")[0]) for line in lines]


def check(numbers, first):
    """They come in eight parts, each in its own order; none is missing and none comes twice."""
    assert numbers[0] == first
    parts = {}
    for number in numbers:
        parts.setdefault(number % 8, []).append(number)
    for part in parts.values():
        assert part == list(range(part[0], part[-1] + 1, 8))


@pytest.mark.parametrize("offset", [-1_000, 0, 1 << 40])
def test_any_place_may_be_asked_for(tmp_path, offset):
    log = tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(200_000)))
    size = log.stat().st_size
    cut_log(log, 64 << 10)
    piece = read_log(log, offset)
    assert piece["next"] == size
    assert piece["text"].endswith("199999\n") or offset == 1 << 40
