"""Types flow through a job: mypy knows what each lambda receives and each method gives."""

from pathlib import Path

import pytest
from mypy import api

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(120)
def test_mypy_knows_what_a_lambda_receives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that what is marked as wrong is: an unused ``type: ignore`` is an error."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    file = Path(__file__).with_name("surface.py")
    options = ["--strict", "--follow-imports=silent", "--cache-dir=build/mypy-types"]
    said, errors, status = api.run([*options, str(file)])
    assert status == 0, said + errors
