"""The engine's own rules are checked in real processes, if that is asked for."""

from pathlib import Path

import pytest

from streamline.config import CHECKS_VARIABLE
from tests.processes.runner import Run

JOBS = Path(__file__).with_name("forgetful.py")


@pytest.mark.parametrize(
    ("options", "environment", "checked"),
    [((), "1", True), (("--check-invariants",), "0", True), ((), "0", False)],
)
def test_a_reader_that_goes_on_elsewhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
    environment: str,
    checked: bool,
) -> None:
    """Nobody else would see that a record is missing."""
    monkeypatch.setenv(CHECKS_VARIABLE, environment)
    params = {"output": tmp_path / "out"}
    run = Run("job", tmp_path, jobs=JOBS, params=params, options=options, crash="committed@2")
    status, _, said = run.end()
    assert "worker 0 was killed" in said
    if checked:
        assert status == 1
        assert "numbers[0] reads all from 101, but the checkpoint says 100" in said
    else:
        assert status == 0
