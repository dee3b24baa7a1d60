"""Build a job and tell of it, in a process of its own: a broken job file hurts nobody else.

Called as ``python -m streamline.cluster.inspect`` with what to build as JSON on standard input;
prints JSON.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from typing import Any

from streamline.errors import StreamlineError
from streamline.jobfile import JobSpec
from streamline.plan import make_plan, with_parallelism


def look(path: str, expose: str, params: dict[str, str], parallelism: int) -> dict[str, Any]:
    """Name, graph and plan of a job, or why there is none."""
    try:
        spec = JobSpec.from_file(path, params)
        job = JobSpec(spec.path, spec.source, expose, params).load()
        graph = job.graph()
        plan = make_plan(with_parallelism(graph, {}), parallelism)
    except StreamlineError as error:
        return {"error": str(error), "trace": getattr(error, "trace", "")}
    return {"name": graph.name, "graph": graph.to_dict(), "plan": plan.to_dict()}


def main() -> None:
    """Entry point of the process."""
    given = json.loads(sys.stdin.read())
    try:
        # What the job's file prints must not get between.
        with contextlib.redirect_stdout(sys.stderr):
            found = look(**given)
    except BaseException as error:  # noqa: BLE001 - also SystemExit of the job's file
        found = {
            "error": f"the job file ended by {error!r}",
            "trace": traceback.format_exc(),
        }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
