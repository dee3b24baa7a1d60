"""``streamline txn``: transactions that a job which will not come back has left open in Kafka.

Options and tables alone; the work is done by ``connectors.kafka.settle``, which is imported when
it is needed: the rest of the command line knows no connector.
"""

from __future__ import annotations

import asyncio
import importlib
import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from streamline.cli.streams import tell

_OPTIONS = [
    click.option("--servers", required=True, metavar="HOST:PORT", help="Some brokers."),
    click.option("--tls", is_flag=True, help="Talk TLS."),
    click.option(
        "--sasl",
        type=click.Choice(["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"]),
        help="How to say who you are.",
    ),
    click.option("--username", help="For --sasl."),
    click.option("--password", envvar="STREAMLINE_KAFKA_PASSWORD", help="For --sasl."),
    click.option("--ca-file", type=click.Path(dir_okay=False), help="Certificates to trust."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON."),
]


def _at_broker(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.group()
def txn() -> None:
    """Show and settle what a dead job left open in Kafka.

    A job that is begun again settles its own transactions; this is for one that never will be.
    """


@txn.command("list")
@_at_broker
@click.option("--job", help="Only those of this job.")
@click.option("--all", "idle", is_flag=True, help="Also ids under which nothing is open.")
def list_(servers: str, as_json: bool, job: str | None, idle: bool, **options: Any) -> None:
    """List open transactions of streamline's jobs."""
    kafka, security = _kafka(options)
    found = asyncio.run(kafka.list_transactions(servers, security, job=job, idle=idle))
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return
    if not found:
        tell("streamline: nothing is open" if not idle else "streamline: there are none")
        return
    rows = [("id", "state", "begun", "timeout", "writes to")]
    for one in found:
        places = ", ".join(f"{topic} {list(numbers)}" for topic, numbers in one.partitions)
        begun = "-"
        if one.started_ms >= 0:
            begun = datetime.fromtimestamp(one.started_ms / 1000, UTC).isoformat(" ", "seconds")
        rows.append((one.id, one.state, begun, f"{one.timeout_ms / 1000:g} s", places or "-"))
    # Not wrapped, also on a narrow terminal: ids are there to be copied.
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())


@txn.command()
@_at_broker
@click.argument("ids", nargs=-1, required=True)
def commit(servers: str, as_json: bool, ids: tuple[str, ...], **options: Any) -> int:
    """Commit open transactions: what they hold appears.

    Only what a completed checkpoint covers is whole. When in doubt, begin the job again: it
    commits what has to be.
    """
    return _end(servers, ids, options, as_json=as_json, do_commit=True)


@txn.command()
@_at_broker
@click.argument("ids", nargs=-1, required=True)
def abort(servers: str, as_json: bool, ids: tuple[str, ...], **options: Any) -> int:
    """Abort open transactions: what they hold never appears."""
    return _end(servers, ids, options, as_json=as_json, do_commit=False)


def _end(
    servers: str, ids: tuple[str, ...], options: dict[str, Any], *, as_json: bool, do_commit: bool
) -> int:
    kafka, security = _kafka(options)
    done = asyncio.run(kafka.end_transactions(servers, security, ids, commit=do_commit))
    if as_json:
        print(json.dumps([{"id": name, "result": result} for name, result in done], indent=2))
    else:
        for name, result in done:
            print(f"{name}: {result}")
    wanted = "committed" if do_commit else "aborted"
    return 0 if all(result == wanted for _, result in done) else 1


def _kafka(options: dict[str, Any]) -> tuple[Any, Any]:
    """The connector, which nothing else of the command line needs, and who we are to it."""
    kafka: Any = importlib.import_module("streamline.connectors.kafka.settle")
    security = kafka.KafkaSecurity(
        tls=options["tls"],
        mechanism=options["sasl"],
        username=options["username"],
        password=options["password"],
        ca_file=options["ca_file"],
    )
    return kafka, security
