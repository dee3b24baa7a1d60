"""The examples of docs/testing.md run, and it names every public tool."""

import re
import sys
import types
from pathlib import Path

import pytest

import streamline.testing

PAGE = (Path(__file__).resolve().parents[2] / "docs/testing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_examples_run(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"testing_page_{number}"
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(BLOCKS[number], f"docs/testing.md, example {number}", "exec"), module.__dict__)
    ran = 0
    for what, found in vars(module).copy().items():
        if what.startswith("test_"):
            found()
            ran += 1
        elif what.startswith("Test"):
            for method in [method for method in dir(found) if method.startswith("test_")]:
                kit = found()
                getattr(kit, "setup_method", lambda: None)()
                getattr(kit, method)()
                ran += 1
    assert ran


def test_every_public_name_is_documented_and_sorted() -> None:
    names = streamline.testing.__all__
    assert sorted(names) == names
    for name in set(names) - {"ScriptItem"}:  # an alias
        assert getattr(streamline.testing, name).__doc__, name
    told = {"HarnessSettings", "OperatorSnapshot", "ScriptItem", "ScriptedCrashError", "Faults"}
    for name in set(names) - told:
        assert re.search(rf"\b{name}\b", PAGE), name


def test_no_test_framework_is_imported() -> None:
    import subprocess

    code = "import sys, streamline.testing; sys.exit('pytest' in sys.modules or 'click' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
