"""The job that is measured on PostgreSQL, and the plain loop beside it.

Called as ``python -m benchmarks.postgres_jobs FILE DSN TABLE`` it is the loop: orjson and COPY, a
transaction for every 100,000 rows.
"""

import sys
from pathlib import Path

import orjson
import psycopg

import streamline as sl
from benchmarks.jobs import Order
from streamline.connectors.files import FileSource
from streamline.connectors.postgres import PostgresSink

BLOCK = 100_000


def into_table(input: str, dsn: str, table: str) -> sl.Job:
    """JSON files to a table, exactly once."""
    job = sl.Job("into-table")
    orders = job.source("orders", FileSource(input, format=sl.Json(Order)))
    orders.sink("rows", PostgresSink(dsn, table=table))
    return job


def main() -> None:
    """The loop."""
    path, dsn, table = sys.argv[1:]
    rows: list[tuple[str, float, int]] = []
    with psycopg.connect(dsn) as connection, Path(path).open("rb") as file:

        def write() -> None:
            with connection.cursor().copy(f'copy {table} ("user", amount, at) from stdin') as copy:
                for row in rows:
                    copy.write_row(row)
            connection.commit()
            rows.clear()

        for line in file:
            order = orjson.loads(line)
            rows.append((order["user"], order["amount"], order["at"]))
            if len(rows) == BLOCK:
                write()
        write()


if __name__ == "__main__":
    main()
