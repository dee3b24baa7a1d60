"""The jobs in the documentation can be built, and run on the sample data."""

import ast
import re
from pathlib import Path

import pytest

import streamline as sl
from streamline.coordinator.lifecycle import JobState
from streamline.dsl.job import as_graph
from streamline.engines.inline import InlineEngine
from streamline.jobfile import JobSpec
from streamline.plan import make_plan
from streamline.state.memory import MemoryStore
from streamline.state.store import DirectoryStore

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_COMPLETE = re.compile(r"^def job\(|^job = sl\.Job", re.MULTILINE)


DOCUMENTS = ("README.md", "docs/tutorial.md", "docs/jobs.md", "docs/kafka.md", "docs/postgres.md")


def blocks() -> dict[str, str]:
    found = {}
    for name in DOCUMENTS:
        text = (ROOT / name).read_text()
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 2
            found[f"{name}:{line}"] = match[1]
    return found


BLOCKS = blocks()
COMPLETE = {where: text for where, text in BLOCKS.items() if _COMPLETE.search(text)}


def test_there_are_complete_jobs_in_each_document() -> None:
    assert {where.partition(":")[0] for where in COMPLETE} == set(DOCUMENTS)


@pytest.mark.parametrize("where", BLOCKS)
def test_blocks_are_python(where: str) -> None:
    ast.parse(BLOCKS[where])


@pytest.mark.parametrize("where", COMPLETE)
def test_complete_jobs_build_and_run(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = COMPLETE[where]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "output").mkdir()
    given = {"input": str(ROOT / "examples/data/orders.jsonl"), "output": "output"}
    given |= {"servers": "localhost:9092", "dsn": "host=localhost"}
    functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    names = {
        arg.arg for function in functions if function.name == "job" for arg in function.args.args
    }
    params = {name: value for name, value in given.items() if name in names}
    path = tmp_path / (re.sub(r"\W", "_", where) + ".py")
    graph = as_graph(JobSpec(path=str(path), source=text, params=params).load())
    for parallelism in (1, 3):
        make_plan(graph, parallelism)
    if "follow=True" in text or "kafka" in text:
        return  # it would not end
    engine = InlineEngine(
        graph,
        store=DirectoryStore(tmp_path / "checkpoints"),
        open_kv=MemoryStore.open,
        directory=tmp_path / "live",
        parallelism=2,
        config=sl.RuntimeConfig(check_invariants=True),
    )
    status = engine.run()
    assert status.state == JobState.FINISHED, status.reason


@pytest.mark.parametrize("name", [name for name in sl.__all__ if not name.startswith("_")])
def test_the_reference_names_what_a_job_is_made_of(name: str) -> None:
    if name.endswith(("Stream", "Context", "Reader", "Writer")) or name in [
        "Batch",
        "RowBatch",
        "ColumnBatch",
        "Clock",
        "ManualClock",
        "SystemClock",
        "Expr",
        "Format",
        "Guarantee",
        "StreamlineError",
        "WindowResult",
        "KeyedResult",
        "RuntimeConfig",
        "DeadLetter",
        "WindowBounds",
    ]:
        return  # types that a user is given, or needs for connectors and tests
    assert re.search(rf"\b{name}\b", (ROOT / "docs/jobs.md").read_text()), name
