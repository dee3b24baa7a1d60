"""Kafka to Kafka, with everything killed that can be: what read_committed sees is the reference."""

import signal

import pytest

from streamline.testing.services import KafkaBroker
from tests.chance import chance
from tests.kafka.cases import (
    RESTORE_POINTS,
    WORKER_POINTS,
    Case,
    fill,
    killed_at_random,
    killed_in_restores,
    replaced_while_it_stands_still,
    until_said,
    workers_killed_at_random,
)
from tests.services.started import started


@pytest.fixture
def case(kafka, orders, tmp_path):
    return lambda job="spend": Case(kafka, orders, tmp_path, job)


def test_nobody_is_killed(case):
    for job in ("spend", "copy"):
        one = case(job)
        one.folder = one.folder / job
        one.start(parallelism=3).finish()
        one.check()


@pytest.mark.parametrize("point", WORKER_POINTS)
def test_a_worker_dies_at_every_point(case, point):
    one = case("spend" if point in ("frozen", "flushed") else "copy")
    assert one.start(crash=f"{point}@2").finish()["restarts"] in (1, 2)
    one.check()


@pytest.mark.parametrize(
    ("point", "parallelism"),
    list(zip([*WORKER_POINTS, "manifest", "completed"], [1, 3] * 5, strict=False)),
)
def test_all_die_at_every_point_and_go_on_at_another_parallelism(case, point, parallelism):
    one = case()
    one.killed(f"{point}@2" if point in ("manifest", "completed") else f"all:{point}@2")
    one.start(parallelism).finish()
    one.check()


def test_killed_between_two_commits_and_at_every_point_of_restoring(case):
    """With transactions pending: those that a checkpoint names, and those that none does."""
    one = case("copy")
    one.killed("all:committed@2")
    assert one.open_transactions()
    killed_in_restores(one.start, RESTORE_POINTS["kafka"])
    one.start(2).finish()
    one.check()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("job", ["spend", "copy"])
def test_everything_is_killed_at_random_moments(case, job):
    """Ten times for each job, over as many of its lives as that takes."""
    rng, killed = chance(), 0
    while killed < 10:
        one = case(job)
        killed += killed_at_random(one.start, rng, 10 - killed)
        one.check()


@pytest.mark.timeout(600)
def test_workers_are_killed_at_random_moments(case):
    rng, killed = chance(), 0
    while killed < 20:
        one = case("copy")
        run = one.start(2, options=["--max-restarts", "50"])
        killed += workers_killed_at_random(run, rng, 20 - killed)
        one.check()


@pytest.mark.timeout(300)
def test_the_broker_is_away_when_the_job_starts(tmp_path):
    """It is said, and once the broker is there the job begins by itself."""
    broker = started(KafkaBroker())
    try:
        one = Case(broker, fill(broker.servers, 20_000), tmp_path, "copy")
        broker.kill()
        run = one.start(2)
        said = until_said(run, "trying again")
        assert "orders" in said[-1] and broker.servers in said[-1], said
        broker.start()
        status, _, stderr = run.end()
        assert status == 0, stderr
        assert f"Kafka at {broker.servers} is back" in stderr
        one.check()
    finally:
        broker.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", ["killed", "paused"])
def test_the_broker_goes_away_in_mid_run_and_comes_back(tmp_path, moment):
    """Killed, or standing still: it is said, and that it is back; the job goes on by itself."""
    broker = started(KafkaBroker())
    go_away, come_back = {
        "killed": (broker.kill, broker.start),
        "paused": (broker.pause, broker.resume),
    }[moment]
    try:
        one = Case(broker, fill(broker.servers, 100_000), tmp_path, "copy")
        run, said = one.start(2, until=""), []
        try:
            run.wait_for("checkpoints/*/MANIFEST")
            go_away()
            said += until_said(run, "source 'orders'.* cannot be reached")
            come_back()
            # It may have given up the attempt, and the next one finds the broker there.
            said += until_said(run, "source 'orders'.* is back|running again after")
            while one.seen().total() < one.wanted.total():
                assert run.process.poll() is None, said
            run.process.send_signal(signal.SIGINT)
            said += run.process.stderr.readlines()
            assert run.end()[0] == 0, said
        finally:
            run.kill()  # in case that it still runs
        one.check()
    finally:
        broker.close()
    away = (
        f"streamline: source 'orders': Kafka at {broker.servers} cannot be reached; trying again\n"
    )
    back = f"streamline: source 'orders': Kafka at {broker.servers} is back\n"
    behind = said[said.index(away) :]
    assert back in behind or any("running again after" in line for line in behind), said
    told = [line for line in said if broker.servers in line]
    assert all(line.startswith("streamline: ") for line in told), told
    assert "Traceback" not in "".join(said), said


def test_a_worker_stands_still_for_longer_than_it_may(case):
    """It is taken for dead and replaced, and what it had begun is aborted."""
    one = case("copy")
    run = one.start(2)
    run.wait_for("checkpoints/*/MANIFEST")
    run.workers()[0].suspend()
    assert run.finish()["restarts"] >= 1
    one.check()


def test_a_run_stands_still_until_another_has_replaced_it(case):
    """For longer than its transactions may be open; then it comes back, is fenced and ends."""
    one = case("copy")
    status, said = replaced_while_it_stands_still(
        lambda state: one.start(2, state=state, timeout="3s"), within_s=4
    )
    assert status == 1, said
    assert "a newer run of job 'copy' writes to topic" in said
    one.check()
