"""Build a job and tell of it, in a process of its own: a broken job file hurts nobody else.

Called as ``python -m streamline.cluster.inspect FILE`` with what to build as JSON in the file, in
whose place it leaves what it has found: standard output belongs to the job's file.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import msgspec

from streamline.cluster.child import end_with_parent
from streamline.cluster.files import Inspection
from streamline.coordinator.fit import Fit, compare
from streamline.engines.statedir import newest_checkpoint
from streamline.errors import StateError, StreamlineError
from streamline.graph import JobGraph
from streamline.jobfile import JobSpec
from streamline.plan import make_plan, with_parallelism


def look(asked: Inspection) -> dict[str, Any]:
    """Name, graph and plan of a job, or why there is none or it cannot begin there."""
    try:
        spec = JobSpec.from_file(asked.path, asked.params)
        job = JobSpec(spec.path, spec.source, asked.expose, asked.params).load()
        graph = job.graph()
        plan = make_plan(with_parallelism(graph, {}), asked.parallelism)
        if asked.origin:
            check_origin(graph, asked.origin, allow_dropped=asked.allow_dropped_state)
    except StreamlineError as error:
        return {"error": str(error), "trace": getattr(error, "trace", "")}
    return {"name": graph.name, "graph": graph.to_dict(), "plan": plan.to_dict()}


def check_origin(graph: JobGraph, origin: str, *, allow_dropped: bool) -> None:
    """Refuse a savepoint from which a job cannot begin, before anything of it is started.

    Raises:
        StateError: Says why.
        UsageError: If there is no such folder.
        CheckpointError: If there is no checkpoint in it that can be used.
    """
    _, manifest = newest_checkpoint(origin)
    for fit in compare(graph, manifest):
        if fit.verdict == "impossible":
            raise StateError(f"--from {origin} does not fit: {_of(fit)}{fit.what}")
        if fit.verdict == "dropped" and not allow_dropped:
            raise StateError(
                f"--from {origin} does not fit: {_of(fit)}the job has no place for {fit.what}; "
                "name it again with name=, or give it up with --allow-dropped-state"
            )


def _of(fit: Fit) -> str:
    return f"node {fit.node!r}: " if fit.node else ""


def main() -> None:
    """Entry point of the process."""
    end_with_parent()
    place = Path(sys.argv[1])
    asked = msgspec.json.decode(place.read_bytes(), type=Inspection)
    try:
        found = look(asked)
    except BaseException as error:  # noqa: BLE001 - also SystemExit of the job's file
        found = {
            "error": f"the job file ended by {error!r}",
            "trace": traceback.format_exc(),
        }
    place.write_text(json.dumps({"found": found}))


if __name__ == "__main__":
    main()
