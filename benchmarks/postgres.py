"""PostgreSQL: rows into a table exactly once, against COPY in a loop that promises nothing."""

import subprocess
import sys
import time
from itertools import count
from pathlib import Path

import psycopg

from benchmarks.measure import Result, folder, rounds, streamline, write_orders
from streamline.testing.services import PostgresServer

JOBS = Path(__file__).with_name("postgres_jobs.py")
RECORDS = 500_000
_numbers = count()


def copying() -> Result:
    """Rate of the sink as a part of the loop's, start-up subtracted on both sides."""
    with PostgresServer() as server, folder() as work:
        data, one = work / "in.jsonl", work / "one.jsonl"
        write_orders(data, RECORDS)
        write_orders(one, 1)

        def table() -> str:
            name = f"bench_{next(_numbers)}"
            with psycopg.connect(server.dsn, autocommit=True) as connection:
                connection.execute(f'create table {name} ("user" text, amount float8, at int8)')
            return name

        def loop(source: Path) -> float:
            command = [sys.executable, "-m", "benchmarks.postgres_jobs"]
            began = time.perf_counter()
            subprocess.run([*command, str(source), server.dsn, table()], check=True)
            return time.perf_counter() - began

        def ours(source: Path) -> float:
            return streamline(
                "into_table", work, jobs=JOBS, input=source, dsn=server.dsn, table=table()
            )[0]

        times = rounds(lambda: loop(data), lambda: ours(data), lambda: loop(one), lambda: ours(one))
    plain, seconds = min(times[0]) - min(times[2]), min(times[1]) - min(times[3])
    ratio = plain / seconds
    detail = f"{RECORDS / seconds:,.0f} rows/s, the loop {RECORDS / plain:,.0f}"
    return Result("rows into PostgreSQL / COPY in a loop", f"{ratio:.2f}", "told", True, detail)
