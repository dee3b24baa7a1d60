"""Input files and golden results, made once."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes.runner import Run, results, write_orders

Golden = Callable[[str], Counter[str]]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("orders") / "small.jsonl"
    write_orders(path, 300_000)
    return path


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("orders") / "large.jsonl"
    write_orders(path, 1_000_000)
    return path


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("orders") / "few.jsonl"
    write_orders(path, 80_000)
    return path


def known_of(tmp_path_factory: pytest.TempPathFactory, input: Path) -> Golden:
    """Results of a job at parallelism 1 that nobody disturbs."""
    known: dict[str, Counter[str]] = {}

    def of(job: str) -> Counter[str]:
        if job not in known:
            run = Run(job, tmp_path_factory.mktemp(job), input=input)
            run.finish()
            known[job] = results(run.output)
            assert known[job]
        return known[job]

    return of


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Golden:
    return known_of(tmp_path_factory, small)


@pytest.fixture(scope="session")
def golden_of_few(tmp_path_factory: pytest.TempPathFactory, few: Path) -> Golden:
    return known_of(tmp_path_factory, few)
