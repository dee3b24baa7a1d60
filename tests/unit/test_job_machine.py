"""JobMachine: the life of a job, played as facts and instructions.

``Play`` turns instructions into short words: ``workers load1 deploy1:0 stop1 trigger1@in[0]
commit1@in[0] abort1 manifest1 say end:finished``. Commands to all tasks are one word.
"""

import random
import re
from dataclasses import replace
from typing import Any

import pytest

from streamline.config import RuntimeConfig
from streamline.coordinator.instructions import (
    Deploy,
    Ended,
    EnsureWorkers,
    Instruction,
    LoadCheckpoint,
    Say,
    StopTasks,
    Tell,
    WriteManifest,
)
from streamline.coordinator.job import JobMachine
from streamline.coordinator.lifecycle import ENDED, JobState, TaskState
from streamline.errors import InvariantError
from streamline.ids import TaskId
from streamline.plan import ExecutionPlan
from streamline.runtime.control import (
    Abort,
    AssignPartitions,
    Commit,
    Committed,
    Failed,
    Finished,
    KeepPace,
    Report,
    Running,
    SnapshotDeclined,
    SnapshotTaken,
    SourceEnded,
    Trigger,
)
from streamline.state.manifest import Manifest, TaskSnapshot
from tests.unit.small import plan

CONFIG = RuntimeConfig(
    checkpoint_every_ms=100,
    checkpoint_timeout_ms=1_000,
    tolerable_checkpoint_failures=1,
    restart_initial_ms=50,
    restart_max_ms=400,
    restart_budget=3,
    restart_window_ms=10_000,
    task_timeout_ms=5_000,
)
PLAN = plan("in -> sum hash\nsum -> out", 2)


class Play:
    """A machine, its clock, and facts with short names; each returns the instructions in words."""

    def __init__(self, plan: ExecutionPlan = PLAN, workers: int = 2, **settings: Any) -> None:
        config = replace(CONFIG, **settings)
        self.machine = JobMachine(plan, config, workers=range(workers), jitter=lambda: 1.0)
        self.plan = plan
        self.tasks = plan.tasks()
        self.sources = [task for task in self.tasks if task.node == "in"]
        self.workers = range(workers)
        self.now = 0
        self.all: list[Instruction] = []

    # ------------------------------------------------------------------ facts

    def said(self, instructions: list[Instruction]) -> str:
        self.all += instructions
        words = [word(instruction) for instruction in instructions]
        return " ".join(dict.fromkeys(w for w in words if w != "say"))

    def start(self) -> str:
        return self.said(self.machine.start(self.now))

    def ready(self, worker: int) -> str:
        return self.said(self.machine.on_worker_ready(worker, self.now))

    def lost(self, worker: int = 0, how: str = "was killed") -> str:
        return self.said(self.machine.on_worker_lost(worker, how, self.now))

    def loaded(self, epoch: int | None = None, generation: int | None = None) -> str:
        manifest = None if epoch is None else Manifest("test", epoch, "c", 0, 0, 128, {}, [])
        generation = self.machine.generation if generation is None else generation
        return self.said(self.machine.on_loaded(generation, manifest, {"in": ["a"]}, self.now))

    def report(self, report: Report) -> str:
        return self.said(self.machine.on_report(report, self.now))

    def each(self, make: Any, tasks: list[TaskId] | None = None) -> str:
        """A report of every task; what the last one led to."""
        words = [
            self.report(make(self.machine.generation, task))
            for task in (self.tasks if tasks is None else tasks)
        ]
        assert not any(words[:-1]), words
        return words[-1]

    def taken(self, epoch: int, tasks: list[TaskId] | None = None) -> str:
        return self.each(lambda g, t: SnapshotTaken(g, t, epoch, snapshot(t, epoch)), tasks)

    def committed(self, epoch: int, tasks: list[TaskId] | None = None) -> str:
        return self.each(lambda g, t: Committed(g, t, epoch), tasks)

    def manifest(self, epoch: int, error: str | None = None) -> str:
        return self.said(self.machine.on_manifest(epoch, error, 10, self.now))

    def fail(self, reason: str = "boom", *, fatal: bool = False, outage: bool = False) -> str:
        task = self.tasks[0]
        failed = Failed(self.machine.generation, task, reason, "trace", fatal, outage=outage)
        return self.report(failed)

    def tick(self, after_ms: int = 0) -> str:
        self.now += after_ms
        return self.said(self.machine.tick(self.now))

    # ------------------------------------------------------------------ the way to a moment

    def to_loading(self) -> "Play":
        self.start()
        for worker in self.workers:
            self.ready(worker)
        return self

    def to_running(self) -> "Play":
        self.to_loading()
        self.loaded()
        self.each(Running)
        assert self.machine.state == JobState.RUNNING
        return self

    def to_pending(self, epoch: int = 1) -> "Play":
        assert self.tick(CONFIG.checkpoint_every_ms or 0) == f"trigger{epoch}@sources"
        return self

    def to_writing(self, epoch: int = 1) -> "Play":
        self.to_pending(epoch)
        assert self.taken(epoch) == f"manifest{epoch}"
        return self

    def to_running_again(self, epoch: int | None = None) -> None:
        """From a failure on."""
        for worker in self.workers:
            self.ready(worker)
        self.tick(CONFIG.restart_max_ms)
        self.loaded(epoch)
        self.each(Running)
        assert self.machine.state == JobState.RUNNING

    @property
    def end(self) -> Ended | None:
        ends = [i for i in self.all if isinstance(i, Ended)]
        assert len(ends) <= 1
        return ends[0] if ends else None

    @property
    def says(self) -> list[str]:
        return [i.text for i in self.all if isinstance(i, Say)]


def snapshot(task: TaskId, epoch: int) -> TaskSnapshot:
    return TaskSnapshot(task.node, task.index, [task.node], 2, epoch, PLAN.key_range(task))


def word(instruction: Instruction) -> str:
    match instruction:
        case EnsureWorkers():
            return "workers"
        case LoadCheckpoint(generation):
            return f"load{generation}"
        case Deploy(generation, worker):
            return f"deploy{generation}:{worker}"
        case StopTasks(generation):
            return f"stop{generation}"
        case Tell(_, task, Trigger(_, epoch, _, drain)):
            assert task.node == "in", "only sources are triggered"
            return f"trigger{epoch}{'!' if drain else ''}@sources"
        case Tell(_, _, Commit(_, epoch, drain)):
            return f"commit{epoch}{'!' if drain else ''}"
        case Tell(_, _, Abort(_, epoch)):
            return f"abort{epoch}"
        case Tell(_, task, AssignPartitions(_, _, partitions)):
            return f"assign:{','.join(partitions)}@{task}"
        case Tell(_, task, KeepPace(_, others)):
            return f"pace:{others}@{task}"
        case WriteManifest(manifest):
            return f"manifest{manifest.epoch}"
        case Ended(state):
            return f"end:{state}"
        case Say():
            return "say"
    raise AssertionError(instruction)


# ---------------------------------------------------------------------- normal life


def test_from_start_to_running() -> None:
    play = Play()
    assert play.start() == "workers"
    assert play.ready(0) == ""
    assert play.ready(1) == "load1"
    assert play.loaded() == "deploy1:0 deploy1:1"
    assert play.machine.state == JobState.STARTING
    assert play.each(Running) == ""
    assert play.machine.state == JobState.RUNNING


def test_each_worker_is_given_its_own_tasks_and_all_know_the_placement() -> None:
    play = Play().to_loading()
    play.loaded()
    deploys = [i for i in play.all if isinstance(i, Deploy)]
    assert [sorted(map(str, d.tasks)) for d in deploys] == [
        ["in[0]", "sum[0]"],
        ["in[1]", "sum[1]"],
    ]
    assert all(set(d.placement) == set(play.tasks) for d in deploys)


def test_sinks_are_told_whether_their_run_has_been_at_work_before() -> None:
    """A run that has not may meet what an earlier one left; one that has meets a newer one."""
    play = Play().to_loading()
    play.loaded()
    play.fail("not yet running")
    play.to_running_again()
    play.fail("running")
    play.to_running_again()
    deploys = [i for i in play.all if isinstance(i, Deploy) and i.worker == 0]
    assert [deploy.took_over for deploy in deploys] == [False, False, True]
    assert [deploy.run for deploy in deploys] == ["0g1", "0g2", "0g3"]
    assert {deploy.whole_run for deploy in deploys} == {"0"}


def test_a_checkpoint_from_trigger_to_commit() -> None:
    play = Play().to_running()
    assert play.tick(99) == ""
    assert play.tick(1) == "trigger1@sources"
    assert play.taken(1) == "manifest1"
    assert play.manifest(1) == "commit1"
    assert play.tick(100) == ""  # not before all have committed
    assert play.committed(1) == ""
    assert play.tick() == "trigger2@sources"
    told = {i.task for i in play.all if isinstance(i, Tell) and isinstance(i.command, Commit)}
    assert told == set(play.tasks)


def test_the_manifest_holds_what_all_tasks_have_said() -> None:
    play = Play().to_running().to_writing()
    manifest = next(i.manifest for i in play.all if isinstance(i, WriteManifest))
    assert (manifest.job, manifest.epoch, manifest.max_parallelism) == ("test", 1, 128)
    assert [(t.node, t.index) for t in manifest.tasks] == [tuple(task) for task in play.tasks]
    assert manifest.nodes["out"] == {"kind": "sink", "parallelism": 2}


def test_a_bounded_job_drains_when_all_sources_have_ended() -> None:
    play = Play().to_running()
    assert play.each(SourceEnded, play.sources) == "trigger1!@sources"
    assert play.taken(1) == "manifest1"
    assert play.manifest(1) == "commit1!"
    assert play.committed(1) == ""
    assert play.each(Finished) == "stop1 end:finished"
    assert play.machine.state == JobState.FINISHED


def test_the_drain_waits_for_a_checkpoint_under_way_and_its_commit() -> None:
    play = Play().to_running().to_pending()
    assert play.each(SourceEnded, play.sources) == ""
    assert play.taken(1) == "manifest1"
    assert play.manifest(1) == "commit1"
    assert play.committed(1) == "trigger2!@sources"


def test_the_drain_waits_for_the_commit_of_the_checkpoint_before() -> None:
    play = Play().to_running().to_writing()
    assert play.manifest(1) == "commit1"
    assert play.each(SourceEnded, play.sources) == ""
    assert play.committed(1) == "trigger2!@sources"


def test_a_job_keeps_its_lineage_over_restores() -> None:
    """By it, sinks tell what earlier attempts of the same job left from what others did."""
    play = Play().to_running().to_writing()
    first = next(i.manifest for i in play.all if isinstance(i, WriteManifest))
    assert first.lineage
    play.manifest(1)
    play.lost(0)
    play.ready(0)
    play.tick(CONFIG.restart_max_ms)
    play.said(play.machine.on_loaded(2, first, {"in": ["a"]}, play.now))
    deploys = [i for i in play.all if isinstance(i, Deploy)]
    assert {restore.lineage for d in deploys for restore in d.tasks.values()} == {first.lineage}
    assert len({d.run for d in deploys}) == 2  # but each attempt has a name of its own


def test_sources_that_ended_before_all_ran_are_not_forgotten() -> None:
    play = Play().to_loading()
    play.loaded()
    play.each(SourceEnded, play.sources)
    assert play.each(Running) == "trigger1!@sources"


def test_a_task_that_has_ended_has_committed() -> None:
    """Its Committed may be lost with the connection; Finished says the same."""
    play = Play().to_running()
    play.each(SourceEnded, play.sources)
    play.taken(1)
    play.manifest(1)
    assert play.each(Finished) == "stop1 end:finished"


def test_epochs_go_on_behind_the_checkpoint_that_was_loaded() -> None:
    play = Play().to_loading()
    play.loaded(7)
    play.each(Running)
    assert play.tick(100) == "trigger8@sources"


def test_new_partitions_are_dealt_in_turn_while_running() -> None:
    play = Play().to_running()
    found = play.said(play.machine.on_partitions("in", ["b", "c", "d"]))
    assert found == "assign:b@in[1] assign:c@in[0] assign:d@in[1]"
    play.lost()
    assert play.said(play.machine.on_partitions("in", ["e"])) == ""


def test_source_tasks_are_told_how_far_the_others_are() -> None:
    play = Play().to_running()
    first, second = play.sources
    machine = play.machine
    play.said(machine.on_reached(1, {first: 10}))
    assert play.said(machine.on_reached(1, {second: 40})) == "pace:40@in[0] pace:10@in[1]"
    assert machine.on_reached(0, {first: 50}) == [], "of an attempt before"
    play.lost()
    assert machine.on_reached(1, {first: 50}) == [], "between two attempts"
    play.to_running_again()
    told = play.said(machine.on_reached(2, {first: 20}))
    assert "40" not in told, "it does not remember the attempt before"


def test_without_checkpoints_only_the_last_is_taken() -> None:
    play = Play(checkpoint_every_ms=None).to_running()
    assert play.tick(1_000_000) == ""
    assert play.machine.next_tick_ms() is None
    assert play.each(SourceEnded, play.sources) == "trigger1!@sources"


# ---------------------------------------------------------------------- when to be called


@pytest.mark.parametrize(
    ("moment", "due_ms"),
    [
        ("to_loading", None),
        ("to_running", 100),
        ("to_pending", 1_100),  # its timeout
        ("to_writing", None),
    ],
)
def test_next_tick(moment: str, due_ms: int | None) -> None:
    play = Play()
    if moment in ("to_pending", "to_writing"):
        play.to_running()
    getattr(play, moment)()
    assert play.machine.next_tick_ms() == due_ms


def test_next_tick_before_a_restart_waits_for_the_workers() -> None:
    play = Play().to_running()
    play.lost(1)
    assert play.machine.next_tick_ms() is None
    assert play.ready(1) == ""
    assert play.machine.next_tick_ms() == 50
    assert play.tick(49) == ""
    assert play.tick(1) == "load2"


def test_next_tick_while_committing_is_the_repetition() -> None:
    play = Play().to_running().to_writing()
    play.manifest(1)
    assert play.machine.next_tick_ms() == play.now + 1_000


def test_nothing_is_asked_for_after_the_end() -> None:
    """A job that ended between two attempts stays ended when its worker comes back."""
    play = Play().to_running()
    play.lost(1)
    assert play.said(play.machine.stop(play.now)) == "stop1 end:stopped"
    assert play.tick(1_000) == ""
    assert play.ready(1) == ""
    assert play.machine.next_tick_ms() is None


# ---------------------------------------------------------------------- workers are lost


def test_a_worker_lost_before_it_was_ready() -> None:
    play = Play()
    play.start()
    play.ready(0)
    assert play.lost(1) == "stop0"
    assert play.machine.next_tick_ms() == 50  # one that dies at its start may always do so
    assert play.tick(49) == ""
    assert play.tick(1) == "workers"
    assert play.tick() == ""
    assert play.ready(1) == "load1"
    assert play.machine.state == JobState.STARTING


def test_workers_that_die_at_their_start_are_started_with_the_pauses_of_restarts() -> None:
    play = Play(restart_budget=20)
    play.start()
    play.ready(0)
    starts = []
    for _ in range(6):
        assert play.lost(1) == "stop0"
        due = play.machine.next_tick_ms()
        assert due is not None
        assert play.tick(due - play.now) == "workers"
        starts.append(play.now)
    pauses = [after - before for before, after in zip([0, *starts], starts, strict=False)]
    assert pauses == [50, 100, 200, 400, 400, 400]


def test_a_worker_lost_while_loading() -> None:
    play = Play().to_loading()
    assert play.lost(1) == "stop1 workers"
    assert play.loaded() == ""  # the answer to a question of before
    play.ready(1)
    assert play.tick(50) == "load2"
    assert play.loaded(generation=1) == ""
    assert play.loaded() == "deploy2:0 deploy2:1"


def test_a_worker_lost_while_deploying() -> None:
    play = Play().to_loading()
    play.loaded()
    play.each(Running, play.tasks[:2])
    assert play.lost(0) == "stop1 workers"
    play.to_running_again()
    assert play.machine.generation == 2


def test_a_worker_lost_while_running() -> None:
    play = Play().to_running()
    assert play.lost(0) == "stop1 workers"
    assert play.machine.state == JobState.RECOVERING
    assert play.says[-1].startswith("worker 0 was killed; trying again in 50 ms")
    play.to_running_again()
    assert (play.machine.generation, play.machine.restarts) == (2, 1)


def test_where_tasks_are() -> None:
    """From what was decided: what has been deployed, confirmed, given up, and has ended."""
    play = Play()
    assert play.machine.task_states == {}  # none is placed yet
    play.to_loading()
    play.loaded()
    assert states(play) == ["starting"]
    play.each(Running, play.tasks[:1])
    assert play.machine.task_states[play.tasks[0]] == TaskState.RUNNING
    assert states(play) == ["running", "starting"]
    play.each(Running, play.tasks[1:])
    assert states(play) == ["running"]
    play.lost(0)
    assert states(play) == ["waiting"]
    play.ready(0)
    assert play.tick(CONFIG.restart_max_ms) == "load2"
    assert states(play) == ["waiting"]
    play.loaded()
    play.each(Running)
    play.machine.stop(play.now)
    play.taken(1)
    play.manifest(1)
    play.committed(1)
    play.each(Finished, play.tasks[:1])
    assert states(play) == ["ended", "running"]
    play.each(Finished, play.tasks[1:])
    assert states(play) == ["ended"]


def states(play: Play) -> list[str]:
    return sorted(set(map(str, play.machine.task_states.values())))


def test_a_worker_lost_during_a_checkpoint_ends_it() -> None:
    play = Play().to_running().to_pending()
    play.lost(0)
    play.to_running_again()
    assert play.taken(1) == ""  # of an epoch that is over
    assert play.tick(100) == "trigger2@sources"  # its number is not used again


def test_a_worker_lost_between_snapshots_and_manifest_commits_nothing() -> None:
    play = Play().to_running().to_writing()
    play.lost(0)
    assert play.manifest(1) == ""
    play.to_running_again(1)  # the restart finds that the manifest is there
    assert play.tick(100) == "trigger2@sources"


def test_no_checkpoint_is_looked_for_while_a_manifest_is_being_written() -> None:
    """Else the new attempt goes on from the one before, and the next crash from this one."""
    play = Play().to_running().to_writing()
    play.lost(0)
    play.ready(0)
    assert play.tick(CONFIG.restart_max_ms) == ""
    assert "load2" in play.manifest(1) + play.tick()


def test_a_worker_lost_between_manifest_and_commit() -> None:
    play = Play().to_running().to_writing()
    assert play.manifest(1) == "commit1"
    assert play.lost(0) == "stop1 workers"
    assert play.committed(1) == ""
    assert "from checkpoint 1" in play.says[-1]
    play.to_running_again(1)
    assert play.tick(5_000) == "trigger2@sources"  # no commit of the old generation is repeated


def test_all_workers_lost_at_once_is_one_failure() -> None:
    """A machine that reboots must not use up the whole budget."""
    play = Play(plan("in -> sum hash\nsum -> out", 5), workers=5).to_running()
    for worker in play.workers:
        play.lost(worker)
    assert play.end is None
    play.to_running_again()


def test_a_worker_that_never_comes_up_is_given_up() -> None:
    play = Play()
    play.start()
    for _ in range(10):
        play.lost(0, "ended with status 1")
        play.tick(1_000)
    assert play.end is not None
    assert play.end.state == JobState.FAILED
    assert "gave up after 3 restarts in 10 s" in play.end.reason


# ---------------------------------------------------------------------- tasks fail


def test_the_rest_of_a_failed_attempt_is_not_heard() -> None:
    play = Play().to_running()
    assert play.fail("one") == "stop1 workers"
    assert play.fail("two") == ""
    assert play.machine.restarts == 1


def test_the_same_failure_twice_without_a_checkpoint_between_fails_the_job() -> None:
    play = Play().to_running()
    play.fail("boom")
    play.to_running_again()
    assert play.fail("boom") == "stop2 end:failed"
    assert play.end is not None
    assert play.end.reason.startswith("boom; it failed the same way twice")
    assert play.end.trace == "trace"


def test_an_outage_may_come_again_until_the_budget_is_spent() -> None:
    play = Play().to_running()
    for number in range(1, 4):
        assert play.fail("the server is away", outage=True) == f"stop{number} workers"
        play.to_running_again()
    assert play.machine.restarts == 3


def test_the_same_failure_after_a_checkpoint_is_another_one() -> None:
    play = Play().to_running()
    for epoch in (1, 2):
        play.to_writing(epoch)
        play.manifest(epoch)
        play.committed(epoch)
        assert play.fail("boom") == f"stop{epoch} workers"
        play.to_running_again(epoch)


def test_different_failures_use_up_the_budget() -> None:
    play = Play().to_running()
    for number in range(3):
        play.fail(f"boom {number}")
        play.to_running_again()
    assert play.fail("boom again") == "stop4 end:failed"
    assert play.end is not None
    assert play.end.reason == "boom again (gave up after 3 restarts in 10 s)"


def test_the_budget_is_for_a_window_of_time() -> None:
    play = Play().to_running()
    for number in range(12):
        play.now += 4_000
        play.fail(f"boom {number}")
        play.to_running_again()
    assert play.machine.restarts == 12


def test_a_fatal_failure_is_not_tried_again() -> None:
    play = Play().to_running()
    assert play.fail("bad data", fatal=True) == "stop1 end:failed"
    assert play.end == Ended(JobState.FAILED, "bad data", "trace")


def test_what_cannot_be_loaded_at_the_start_fails_the_job() -> None:
    play = Play().to_loading()
    found = play.said(play.machine.on_load_failed(1, "no such topic", 0))
    assert found == "stop1 end:failed"


def test_what_cannot_be_loaded_later_is_tried_again() -> None:
    play = Play().to_running()
    play.lost(0)
    play.ready(0)
    play.tick(50)
    assert play.said(play.machine.on_load_failed(1, "of before", play.now)) == ""
    assert play.said(play.machine.on_load_failed(2, "no answer", play.now)) == "stop2 workers"
    assert play.machine.state == JobState.RECOVERING


def test_an_outage_at_the_start_fails_a_job_that_never_ran() -> None:
    play = Play().to_loading()
    found = play.said(play.machine.on_load_failed(1, "no Kafka", 0, outage=True, goes_on=False))
    assert found == "stop1 end:failed"


def test_an_outage_at_the_start_is_waited_for_by_a_job_that_goes_on() -> None:
    play = Play().to_loading()
    for generation in (1, 2, 3):  # the same way each time, which would end it otherwise
        found = play.machine.on_load_failed(
            generation, "no Kafka", play.now, outage=True, goes_on=True
        )
        assert play.said(found) == f"stop{generation} workers"
        assert play.machine.state == JobState.STARTING
        due = play.machine.next_tick_ms()
        assert due is not None
        assert play.tick(due - play.now) == f"load{generation + 1}"


def test_an_outage_while_it_recovers_does_not_end_the_job() -> None:
    play = Play().to_running()
    play.fail("no Kafka", outage=True)
    for generation in (2, 3):
        due = play.machine.next_tick_ms()
        assert due is not None
        assert play.tick(due - play.now) == f"load{generation}"
        found = play.machine.on_load_failed(generation, "no Kafka", play.now, outage=True)
        assert play.said(found) == f"stop{generation} workers"
    assert play.machine.state == JobState.RECOVERING


def test_stopped_while_it_recovers_tells_of_what_was_prepared() -> None:
    play = Play().to_running()
    play.tick(100)
    play.taken(1)
    play.manifest(1)
    play.fail()
    assert "end:stopped" in play.said(play.machine.stop(play.now))
    said = [one.text for one in play.all if isinstance(one, Say)]
    assert said[-1].startswith("stopped while it recovered: what the sinks had prepared with")


# ---------------------------------------------------------------------- checkpoints fail


def decline(play: Play, epoch: int) -> str:
    generation = play.machine.generation
    return play.report(SnapshotDeclined(generation, play.tasks[1], epoch, "disk full"))


def test_a_declined_checkpoint_is_given_up_and_the_job_goes_on() -> None:
    play = Play().to_running().to_pending()
    assert decline(play, 1) == "abort1"
    assert "checkpoint 1 failed, the job goes on" in play.says[-1]
    assert "in[1] could not take part: disk full" in play.says[-1]
    assert play.taken(1) == ""
    assert play.tick(100) == "trigger2@sources"


def test_a_late_decline_changes_nothing() -> None:
    play = Play().to_running().to_pending()
    assert decline(play, 0) == ""
    play.taken(1)
    play.manifest(1)
    assert decline(play, 1) == ""
    assert play.committed(1) == ""


def test_an_overdue_checkpoint_is_given_up() -> None:
    play = Play().to_running().to_pending()
    assert play.tick(999) == ""
    assert play.tick(1) == "abort1 trigger2@sources"
    assert "not complete after 1 s" in play.says[-1]


def test_a_manifest_that_cannot_be_written_aborts() -> None:
    play = Play().to_running().to_writing()
    assert play.manifest(1, "disk full") == "abort1"
    assert play.machine.checkpoints.completed is None


def test_a_manifest_that_takes_long_is_waited_for() -> None:
    play = Play().to_running().to_writing()
    assert play.tick(100_000) == ""
    assert play.manifest(1) == "commit1"


def test_too_many_checkpoint_failures_in_a_row_fail_the_job() -> None:
    play = Play().to_running().to_pending()
    decline(play, 1)
    play.to_pending(2)
    assert decline(play, 2) == "stop1 end:failed"
    assert play.end is not None
    assert "as did those before it" in play.end.reason


def test_the_message_knows_of_the_checkpoint_the_job_was_resumed_from() -> None:
    play = Play().to_loading()
    play.loaded(7)
    play.each(Running)
    play.to_pending(8)
    decline(play, 8)
    assert "there is none yet" not in play.says[-1]


# ---------------------------------------------------------------------- stopping


def test_stop_drains_and_stops() -> None:
    play = Play().to_running()
    assert play.said(play.machine.stop(play.now)) == "trigger1!@sources"
    assert play.machine.state == JobState.STOPPING
    play.taken(1)
    assert play.manifest(1) == "commit1!"
    assert play.committed(1) == ""
    assert play.each(Finished) == "stop1 end:stopped"


def test_stop_during_a_checkpoint_waits_for_it() -> None:
    play = Play().to_running().to_pending()
    assert play.said(play.machine.stop(play.now)) == ""
    play.taken(1)
    assert play.manifest(1) == "commit1"
    assert play.committed(1) == "trigger2!@sources"


def test_stop_during_a_checkpoint_that_fails_drains_then() -> None:
    play = Play().to_running().to_pending()
    play.machine.stop(play.now)
    assert f"{decline(play, 1)} {play.tick()}".strip() == "abort1 trigger2!@sources"


def test_a_drain_that_fails_is_repeated() -> None:
    play = Play(checkpoint_every_ms=60_000).to_running()
    play.machine.stop(play.now)
    decline(play, 1)
    play.now = play.machine.next_tick_ms() or play.now  # soon, but not at once
    assert play.now <= 5_000
    play.tick()
    assert word(play.all[-1]) == "trigger2!@sources"
    play.taken(2)
    play.manifest(2)
    play.committed(2)
    assert play.each(Finished) == "stop1 end:stopped"


def test_a_failed_drain_is_repeated_without_periodic_checkpoints_too() -> None:
    play = Play(checkpoint_every_ms=None).to_running()
    play.machine.stop(play.now)
    decline(play, 1)
    assert play.machine.next_tick_ms() is not None, "nobody would call, and the job would hang"


def test_a_worker_lost_while_stopping_is_replaced_and_the_stop_goes_on() -> None:
    play = Play().to_running()
    play.machine.stop(play.now)
    assert play.lost(0) == "stop1 workers"
    for worker in play.workers:
        play.ready(worker)
    play.tick(50)
    play.loaded()
    assert play.each(Running) == "trigger2!@sources"
    assert play.machine.state == JobState.STOPPING


@pytest.mark.parametrize("moment", ["start", "to_loading"])
def test_stop_before_anything_ran(moment: str) -> None:
    play = Play()
    getattr(play, moment)()
    play.machine.stop(play.now)
    assert play.machine.state == JobState.STOPPED


def test_stop_while_recovering_stops_at_once() -> None:
    play = Play().to_running()
    play.lost(0)
    assert play.said(play.machine.stop(play.now)) == "stop1 end:stopped"


def test_stop_of_a_job_that_is_finishing_lets_it_finish() -> None:
    play = Play().to_running()
    play.each(SourceEnded, play.sources)
    assert play.said(play.machine.stop(play.now)) == ""
    play.taken(1)
    play.manifest(1)
    play.committed(1)
    assert play.each(Finished) == "stop1 end:finished"


@pytest.mark.parametrize("moment", ["start", "to_loading", "to_running", "to_pending"])
def test_cancel_ends_at_once(moment: str) -> None:
    play = Play()
    if moment == "to_pending":
        play.to_running()
    getattr(play, moment)()
    assert play.said(play.machine.cancel()).endswith("end:canceled")
    assert play.said(play.machine.cancel()) == ""
    assert play.said(play.machine.stop(play.now)) == ""
    assert play.tick(10_000) == ""


def test_the_coordinator_may_give_up_itself() -> None:
    play = Play().to_running()
    assert play.said(play.machine.fail("no disk")) == "stop1 end:failed"
    assert play.said(play.machine.fail("again")) == ""


# ---------------------------------------------------------------------- lost messages


def test_a_lost_running_makes_the_deployment_repeated_to_that_worker() -> None:
    play = Play().to_loading()
    play.loaded()
    silent = play.tasks[-1]
    play.each(Running, [task for task in play.tasks if task != silent])
    assert play.machine.next_tick_ms() == 5_000
    assert play.tick(4_999) == ""
    assert play.tick(1) == f"deploy1:{silent.index}"
    assert play.each(Running, [silent]) == ""
    assert play.machine.state == JobState.RUNNING


def test_a_lost_committed_makes_the_commit_repeated_to_that_task() -> None:
    play = Play().to_running().to_writing()
    play.manifest(1)
    play.committed(1, play.tasks[1:])
    before = len(play.all)
    assert play.tick(1_000) == "commit1"
    again = [i.task for i in play.all[before:] if isinstance(i, Tell)]
    assert again == [play.tasks[0]]
    play.committed(1, play.tasks[:1])
    assert play.tick() == "trigger2@sources"


def test_a_lost_finished_makes_the_last_commit_repeated() -> None:
    play = Play().to_running()
    play.machine.stop(play.now)
    play.taken(1)
    play.manifest(1)
    play.committed(1)
    play.each(Finished, play.tasks[1:])
    before = len(play.all)
    assert play.tick(1_000) == "commit1!"
    assert [i.task for i in play.all[before:] if isinstance(i, Tell)] == [play.tasks[0]]
    assert play.each(Finished, play.tasks[:1]) == "stop1 end:stopped"


def test_reports_that_come_twice_change_nothing() -> None:
    play = Play().to_running().to_writing()
    assert play.taken(1) == ""
    play.manifest(1)
    assert play.manifest(1) == ""
    play.committed(1)
    assert play.committed(1) == ""
    assert play.each(Running) == ""
    assert play.machine.state == JobState.RUNNING


# ---------------------------------------------------------------------- fencing


@pytest.mark.parametrize("generation", [0, 1, 3])
def test_reports_of_another_generation_are_not_heard(generation: int) -> None:
    play = Play().to_running()
    play.lost(0)
    play.to_running_again()
    play.to_pending(1)
    task = play.tasks[0]
    for report in (
        Failed(generation, task, "boom", fatal=True),
        SnapshotDeclined(generation, task, 1, "no"),
        SourceEnded(generation, play.sources[0]),
        Finished(generation, task),
        SnapshotTaken(generation, task, 1, snapshot(task, 1)),
        Committed(generation, task, 1),
    ):
        assert play.report(report) == ""
    assert play.machine.state == JobState.RUNNING
    assert play.machine.checkpoints.pending is not None
    assert play.machine.checkpoints.pending.waiting == set(play.tasks)


def test_reports_between_two_attempts_start_nothing() -> None:
    play = Play().to_running().to_pending()
    play.lost(0)
    for make in (Running, SourceEnded, Finished):
        assert play.each(make) == ""
    assert play.taken(1) == ""
    assert play.committed(1) == ""
    assert play.machine.state == JobState.RECOVERING


def test_commands_carry_the_generation() -> None:
    play = Play().to_running()
    play.lost(0)
    play.to_running_again()
    play.to_writing(1)
    play.manifest(1)
    tells = [i.command.generation for i in play.all if isinstance(i, Tell)]
    assert set(tells) == {2}


def test_an_illegal_move_raises_with_the_story() -> None:
    play = Play().to_running()
    play.machine.cancel()
    with pytest.raises(InvariantError) as error:
        play.machine._move(JobState.RUNNING)
    assert "cannot go from canceled to running" in str(error.value)
    assert "worker 1 ready" in str(error.value)
    assert "starting -> running" in str(error.value)


# ---------------------------------------------------------------------- any order of facts


class Chaos:
    """Facts in any order, sensible or not; remembers which manifests were ever written."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.play = Play(
            checkpoint_every_ms=self.random.choice([None, 50, 500]),
            restart_budget=self.random.choice([2, 100]),
            tolerable_checkpoint_failures=self.random.choice([0, 3, 100]),
        )
        self.asked: set[int] = set()
        self.written: set[int] = set()
        self.epochs = [0]

    def watch(self, start: int) -> None:
        """What must hold of every instruction, whatever happened."""
        machine = self.play.machine
        for instruction in self.play.all[start:]:
            match instruction:
                case WriteManifest(manifest):
                    assert manifest.epoch not in self.asked
                    self.asked.add(manifest.epoch)
                case Tell(_, _, Commit(generation, epoch)):
                    assert epoch in self.written, f"commit of {epoch} without a manifest"
                    assert generation == machine.generation
                case Tell(_, _, Trigger(_, epoch)):
                    assert epoch >= self.epochs[-1], "epochs grow"
                    self.epochs.append(epoch)
                case _:
                    pass

    def step(self) -> None:
        random_, play = self.random, self.play
        machine = play.machine
        play.now += random_.choice([0, 1, 30, 300])
        task = random_.choice(play.tasks)
        tasks = random_.choice([play.tasks, [task]])
        generation = machine.generation - random_.choice([0, 0, 0, 1])
        pending = machine.checkpoints.pending
        epoch = random_.choice([pending.epoch if pending else 1, self.epochs[-1], 1])
        start = len(play.all)
        match random_.choice("tttttrrrRRRSSSSCCCmmMlllLdfFEsePacx"):
            case "t":
                play.tick()
            case "r":
                play.ready(random_.choice(play.workers))
            case "R":
                for task in tasks:
                    play.report(Running(generation, task))
            case "S":
                for task in tasks:
                    play.report(SnapshotTaken(generation, task, epoch, snapshot(task, epoch)))
            case "C":
                for task in tasks:
                    play.report(Committed(generation, task, epoch))
            case "m" if self.asked - self.written:
                epoch = random_.choice(sorted(self.asked - self.written))
                self.written.add(epoch)
                play.manifest(epoch)
            case "M" if self.asked - self.written:
                play.manifest(max(self.asked - self.written), "disk full")
            case "l":
                play.loaded(random_.choice([None, max(self.written, default=None)]))
            case "L":
                play.said(machine.on_load_failed(generation, "no answer", play.now))
            case "d":
                play.report(SnapshotDeclined(generation, task, epoch, "no"))
            case "f" if random_.random() < 0.3:
                play.report(Failed(generation, task, f"boom {play.now}"))
            case "F":
                for task in tasks:
                    play.report(Finished(generation, task))
            case "E":
                source = random_.choice(play.sources)
                play.report(SourceEnded(generation, source))
            case "s" if random_.random() < 0.1:
                play.said(machine.stop(play.now))
            case "e" if random_.random() < 0.3:
                play.lost(random_.choice(play.workers))
            case "P":
                play.said(machine.on_partitions("in", ["new"]))
            case "a":
                play.said(machine.on_reached(generation, {task: random_.randrange(100)}))
            case "c" if random_.random() < 0.01:
                play.said(machine.cancel())
            case "x" if random_.random() < 0.02:
                play.report(Failed(generation, task, "bad data", fatal=True))
        self.watch(start)


@pytest.mark.parametrize("seed", range(60))
def test_no_order_of_facts_breaks_the_machine(seed: int) -> None:
    chaos = Chaos(seed)
    chaos.play.start()
    for _ in range(600):
        chaos.step()
    assert (chaos.play.end is not None) == (chaos.play.machine.state in ENDED)


def test_the_chaos_reaches_what_it_is_about() -> None:
    """Seeds that never commit or end would prove nothing."""
    reached: set[str] = set()
    for seed in range(60):
        chaos = Chaos(seed)
        chaos.play.start()
        for _ in range(600):
            chaos.step()
        reached |= {re.sub(r"\d.*", "", word(i)) for i in chaos.play.all}
    assert {"commit", "abort", "trigger", "manifest", "assign:new@in["} <= reached
    assert {"end:stopped", "end:finished", "end:failed"} <= reached
