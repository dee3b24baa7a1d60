"""What a run says of its input, of the user's code, and to whom: terminal, pipe or program."""

import errno
import json
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from tests.cli.command import FAILED, Cli, Running, until

ORDERS = """\
import streamline as sl
from streamline.connectors.files import FileSink, FileSource

class Order(sl.Record):
    user: str
    amount: float

def double(order):
    if order.user == "mallory":
        return order.amout * 2
    return order.amount * 2

def job(input: str, output: str, on_error: str = "fail") -> sl.Job:
    job = sl.Job("orders")
    orders = job.source("orders", FileSource(input, format=sl.Json(Order, on_error=on_error)))
    orders.map(double, name="doubled").sink("out", FileSink(output, format=sl.Json()))
    if on_error == "dead_letter":
        orders.dead_letters.sink("broken", FileSink(output + "-broken", format=sl.Json()))
    return job
"""
GOOD = '{"user":"ann","amount":2}\n'
BAD = '{"user":"bob","amount":"lots"}\n'
LINES = """\
import streamline as sl
from streamline.connectors.collection import CollectionSource
from streamline.connectors.stdout import StdoutSink

job = sl.Job("lines")
lines = [f"line {number} " + "x" * 80 for number in range(20_000)]
job.source("lines", CollectionSource(lines)).sink("out", StdoutSink(sl.Text()))
"""


@pytest.fixture
def orders(cli: Cli) -> Cli:
    cli.write("orders.py", ORDERS)
    cli.write("in.jsonl", GOOD + BAD + GOOD)
    return cli


def command(*more: str, input: str = "in.jsonl", engine: str = "inline") -> list[str]:
    given = ["-p", f"input={input}", "-p", "output=out", "--engine", engine]
    return ["run", "orders.py", *given, *more]


def results(folder: Path) -> list[str]:
    return [line for part in folder.glob("part-*") for line in part.read_text().splitlines()]


# ---------------------------------------------------------------------- input


MISSING = [
    ("nowhere.jsonl", ["the file 'nowhere.jsonl' does not exist", "check the path"]),
    ("empty", ["the folder 'empty' has no files", "put some there"]),
    ("*.csv", ["no file matches '*.csv'", "check the pattern"]),
    ("nowhere/*.jsonl", ["no file matches 'nowhere/*.jsonl'", "check the pattern"]),
]


def test_missing_input(orders: Cli) -> None:
    """The results of an earlier run stay, whatever the next one lacks."""
    (orders.folder / "empty").mkdir()
    orders.write("in.jsonl", GOOD)
    assert orders(*command()).status == 0
    for input, words in MISSING:
        engine = "local" if input == "empty" else "inline"
        done = orders(*command(engine=engine, input=input))
        done.refuses(FAILED, "job 'orders' failed", *words)
        assert results(orders.folder / "out") == ["4.0"]


def test_the_same_command_once_the_input_is_there(orders: Cli) -> None:
    late = command(input="late.jsonl")
    orders(*late).refuses(FAILED, "'late.jsonl' does not exist")
    orders.write("late.jsonl", GOOD * 3)
    assert orders(*late).status == 0
    assert results(orders.folder / "out") == ["4.0"] * 3


def test_an_unreadable_record_fails(orders: Cli) -> None:
    given = command(engine="local")
    done = orders(*given)
    place = f"source 'orders', file in.jsonl, byte {len(GOOD)}"
    done.refuses(FAILED, "job 'orders' failed", place, "expected `float`", "$.amount")
    done.refuses(FAILED, repr(BAD.strip().encode()), 'on_error="skip"', "dead_letter")
    assert "Traceback" not in done.stderr
    assert results(orders.folder / "out") == []
    orders.write("in.jsonl", GOOD + GOOD)
    assert orders(*given).status == 0
    assert results(orders.folder / "out") == ["4.0", "4.0"]


def test_an_unreadable_record_is_skipped_and_counted(orders: Cli) -> None:
    done = orders(*command("-p", "on_error=skip", "--json"))
    assert done.status == 0
    done.says("job 'orders' finished: 2 records in, 2 out, 1 skipped")
    assert done.summary()["counters"]["orders"]["skipped"] == 1
    assert results(orders.folder / "out") == ["4.0", "4.0"]


def test_an_unreadable_record_becomes_a_dead_letter(orders: Cli) -> None:
    done = orders(*command("-p", "on_error=dead_letter"))
    assert done.status == 0
    done.says("job 'orders' finished: 2 records in", "1 dead letter")
    assert results(orders.folder / "out") == ["4.0", "4.0"]
    (letter,) = (json.loads(line) for line in results(orders.folder / "out-broken"))
    assert letter["node"] == "orders"
    assert letter["partition"] == "in.jsonl"
    assert letter["offset"] == len(GOOD)
    assert "expected `float`" in letter["reason"]


# ---------------------------------------------------------------------- the user's code


def test_a_function_of_the_user_raises(orders: Cli) -> None:
    orders.write("in.jsonl", GOOD + GOOD.replace("ann", "mallory"))
    given = command(engine="local")
    done = orders(*given)
    line = ORDERS.splitlines().index("        return order.amout * 2") + 1
    done.refuses(
        FAILED,
        "operator 'doubled' failed",
        f"orders.py:{line} (return order.amout * 2)",
        "AttributeError: 'Order' object has no attribute 'amout'",
        "the record is Order(user='mallory', amount=2.0)",
    )
    assert "Traceback" not in done.stderr
    assert results(orders.folder / "out") == []
    orders.write("orders.py", ORDERS.replace("amout", "amount"))
    assert orders(*given).status == 0
    assert sorted(results(orders.folder / "out")) == ["4.0", "4.0"]


@pytest.mark.parametrize(("engine", "first"), [("local", True), ("inline", False)])
def test_debug_shows_the_traceback_of_the_user(orders: Cli, engine: str, first: bool) -> None:
    orders.write("in.jsonl", GOOD.replace("ann", "mallory"))
    given = command(engine=engine)
    done = orders("--debug", *given) if first else orders(*given, "--debug")
    assert done.status == FAILED
    shown = done.stderr[done.stderr.index("Traceback (most recent call last):") :]
    assert re.search(r'File ".*orders\.py", line \d+, in double\n +return order\.amout \* 2', shown)
    assert "AttributeError: 'Order' object has no attribute 'amout'" in shown
    assert "streamline/runtime" not in shown


# ---------------------------------------------------------------------- terminal, pipe, program


def test_in_a_pipe_there_are_plain_lines(running: Running) -> None:
    done = running.finish("--json")
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"job 'running' finished: 200 records in, 200 out in \d+\.\d s \([\d,]+/s\)", line
    )
    summary = done.summary()  # which is all that stands on standard output
    assert summary["name"] == "running"
    assert summary["state"] == "finished"
    assert summary["parallelism"] == 1
    assert summary["restarts"] == 0
    assert summary["records_in"] == summary["records_out"] == running.count
    assert summary["counters"]["numbers"]["records_out"] == running.count
    assert summary["last_checkpoint"]["epoch"] == running.epochs()[-1]
    assert summary["reason"] == ""


def test_on_a_terminal_there_is_a_line_kept_up_to_date(running: Running) -> None:
    main, other = pty.openpty()
    try:
        started = running.start(stderr=other)
        os.close(other)
        seen = b""

        def shows(*words: bytes) -> bool:
            nonlocal seen
            seen += os.read(main, 65_536)
            return all(word in seen for word in words)

        wanted = (b"running running | 100 records in (", b"| 100 out |", b"| checkpoint ")
        until(lambda: shows(*wanted), "progress line", started=started)
        running.go.touch()
        try:
            while piece := os.read(main, 65_536):
                seen += piece
        except OSError:
            pass  # Linux: nobody has the other end any more
        assert started.end().status == 0
    finally:
        os.close(main)
    assert b"\x1b[2K" in seen  # the line is erased, not repeated
    last = seen.decode().rstrip().splitlines()[-1]
    assert "job 'running' finished: 200 records in, 200 out in" in last
    assert running.results() == running.wanted()


def test_the_summary_of_a_job_that_failed(orders: Cli) -> None:
    done = orders(*command("--json"))
    summary = done.summary()
    assert done.status == FAILED
    assert summary["state"] == "failed"
    assert f"byte {len(GOOD)}" in summary["reason"]
    assert done.stderr.endswith(f"streamline: job 'orders' failed: {summary['reason']}\n")


def test_a_command_that_is_wrong_has_no_summary(orders: Cli) -> None:
    done = orders("run", "orders.py", "--json")
    assert done.status == 2
    assert done.stdout == ""


# ---------------------------------------------------------------------- standard output goes away


def head(cli: Cli, *arguments: str) -> tuple[str, int, str]:
    """``streamline ... | head -1``: what head shows, and status and errors of the command."""
    reader, writer = os.pipe()
    first = subprocess.Popen(["head", "-1"], stdin=reader, stdout=subprocess.PIPE, text=True)
    os.close(reader)
    try:
        started = cli.start(*arguments, stdout=writer)
    finally:
        os.close(writer)
    shown, _ = first.communicate(timeout=30)
    done = started.end()
    return shown, done.status, done.stderr


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_the_reader_of_a_stdout_sink_goes_away(cli: Cli, engine: str) -> None:
    cli.write("lines.py", LINES)
    shown, status, stderr = head(cli, "run", "lines.py", "--engine", engine)
    assert shown == "line 0 " + "x" * 80 + "\n"
    assert status == FAILED
    last = stderr.splitlines()[-1]
    assert last.startswith("streamline: job 'lines' failed: sink 'out': standard output was closed")
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


def test_standard_output_has_nothing_but_results(cli: Cli) -> None:
    cli.write("lines.py", LINES)
    done = cli("run", "lines.py")
    assert done.status == 0
    assert done.stdout.splitlines() == [f"line {number} " + "x" * 80 for number in range(20_000)]


CLOSING = [
    ["plan", "lines.py", "--json"],
    ["run", "lines.py", "--json", "--engine", "inline"],
    ["--help"],
]


@pytest.fixture
def filed(cli: Cli) -> Cli:
    """Its results go to files, so that standard output is for us alone."""
    text = LINES.replace("StdoutSink(sl.Text())", "FileSink('out', sl.Text())")
    cli.write("lines.py", "from streamline.connectors.files import FileSink\n" + text)
    return cli


@pytest.mark.parametrize("arguments", CLOSING, ids=lambda arguments: arguments[0])
def test_nobody_reads_standard_output(filed: Cli, arguments: list[str]) -> None:
    """As before ``| true``: no word of Python's about it."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        started = filed.start(*arguments, stdout=writer)
    finally:
        os.close(writer)
    done = started.end()
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr
    assert done.status == FAILED, done


@pytest.mark.parametrize("arguments", CLOSING, ids=lambda arguments: arguments[0])
def test_standard_output_is_a_full_disk(filed: Cli, arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        started = filed.start(*arguments, stdout=full)
    done = started.end()
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr
    done.refuses(FAILED, "standard output", os.strerror(errno.ENOSPC))


def test_standard_error_is_a_full_disk(running: Running) -> None:
    """What cannot be told is lost; the job is not."""
    with Path("/dev/full").open("w") as full:
        summary = running.finish("--json", stderr=full).summary()
    assert summary["state"] == "finished"
    assert (running.state / "finished").exists()
