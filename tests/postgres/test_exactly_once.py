"""Kafka to PostgreSQL, with everything killed that can be: what the tables hold is the reference."""

import signal
from collections import Counter
from pathlib import Path

import pytest

from streamline.testing.services import PostgresServer
from tests.chance import chance
from tests.kafka.cases import (
    RESTORE_POINTS,
    WORKER_POINTS,
    ended,
    killed_at_random,
    killed_in_restores,
    replaced_while_it_stands_still,
    workers_killed_at_random,
)
from tests.postgres.conftest import Database
from tests.processes.runner import Run
from tests.services.started import started

JOBS = Path(__file__).with_name("jobs.py")


class Case:
    """One run after the other of the job into tables of its own."""

    def __init__(self, kafka, database, orders, folder):
        self.database, self.folder = database, folder
        topic, self.wanted = orders
        self.totals = database.table(
            'key text, window_start int8, total int8, "count" int8, primary key (key, window_start)'
        )
        self.orders = database.table("number int8, owner text")  # nothing keeps doubles out
        self.params = {
            "servers": kafka.servers,
            "source": topic,
            "dsn": database.dsn,
            "totals": self.totals,
            "orders": self.orders,
        }

    def start(self, parallelism=2, crash="", options=(), state="state"):
        return Run(
            "store",
            self.folder,
            jobs=JOBS,
            params=self.params,
            parallelism=parallelism,
            crash=crash,
            checkpoint_every="200ms",
            options=options,
            state=state,
        )

    def killed(self, crash):
        status, _, stderr = self.start(2, crash).end()
        assert status == -signal.SIGKILL, stderr

    def check(self):
        found = Counter(self.database(f"select owner, number from {self.orders}"))
        assert found == self.wanted["copy"], (
            (self.wanted["copy"] - found).total(),
            (found - self.wanted["copy"]).total(),
        )
        rows = self.database(f'select key, window_start, total, "count" from {self.totals}')
        assert Counter(rows) == self.wanted["spend"]


@pytest.fixture
def case(kafka, database, orders, tmp_path):
    return Case(kafka, database, orders, tmp_path)


@pytest.mark.parametrize(
    ("point", "parallelism"),
    list(zip([*WORKER_POINTS, "manifest", "completed"], [1, 3] * 5, strict=False)),
)
def test_all_die_at_every_point_and_go_on_at_another_parallelism(case, point, parallelism):
    case.killed(f"{point}@2" if point in ("manifest", "completed") else f"all:{point}@2")
    case.start(parallelism).finish()
    case.check()


def test_killed_at_every_point_of_restoring(case):
    """With rows staged: those that a checkpoint names, and those that none does."""
    case.killed("all:committed@2")
    killed_in_restores(case.start, RESTORE_POINTS["postgres"])
    case.start(2).finish()
    case.check()


@pytest.mark.timeout(600)
def test_everything_is_killed_at_random_moments(case):
    assert killed_at_random(case.start, chance(), 10) >= 2
    case.check()


@pytest.mark.timeout(600)
def test_workers_are_killed_at_random_moments(case):
    run = case.start(2, options=["--max-restarts", "50"])
    assert workers_killed_at_random(run, chance(), 10, pause_s=(0.2, 1.0)) >= 3
    case.check()


@pytest.mark.timeout(300)
def test_the_server_is_killed_and_started_again(kafka, orders, tmp_path):
    server = started(PostgresServer(durable=True))
    try:
        case = Case(kafka, Database(server.dsn), orders, tmp_path)
        run = case.start(2)
        for _ in range(2):
            run.wait_for("checkpoints/*/MANIFEST")
            ended(run, 0.4)
            server.kill()
            ended(run, 0.5)
            server.start()
        run.finish()
        case.check()
    finally:
        server.close()


def test_a_run_stands_still_until_another_has_replaced_it(case):
    """Then it comes back, finds its connections cut and its place taken, and ends."""
    status, said = replaced_while_it_stands_still(
        lambda state: case.start(2, state=state), within_s=3
    )
    assert status == 1, said
    assert "a newer run of job 'store' writes here now" in said
    case.check()
