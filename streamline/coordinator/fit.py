"""Does a checkpoint fit a job? Compared node by node, by names. Pure.

It tells what is kept, migrated, new, dropped or impossible; it refuses nothing itself and changes
nothing. Whether stored types can be read as those of now is the business of ``state.schema``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from streamline.graph import JobGraph, Node
from streamline.io import Sink, Source
from streamline.plural import counted
from streamline.state.manifest import Manifest
from streamline.state.schema import Change, changes_of_layout, changes_of_types

Verdict: TypeAlias = Literal["kept", "migrated", "new", "dropped", "impossible"]


@dataclass(frozen=True)
class Fit:
    """What becomes of one node's state.

    Attributes:
        node: Its name; empty for the job as a whole.
        verdict: ``kept``; ``migrated``, it is kept and rewritten; ``new``, it starts empty;
            ``dropped``, the job has no place for it; ``impossible``, the job cannot be begun from
            this checkpoint at all.
        what: The state, or how, or why.
    """

    node: str
    verdict: Verdict
    what: str


@dataclass
class _Held:
    """What a checkpoint holds of a node."""

    partitions: int = 0
    prepared: int = 0
    operator: bool = False
    keyed: frozenset[str] = frozenset()
    tables: list[dict[str, Any]] = field(default_factory=list)

    def describe(self, keyed: frozenset[str]) -> str:
        parts = []
        if self.partitions:
            parts.append(f"positions of {counted(self.partitions, 'partition')}")
        if keyed:
            parts.append(f"keyed state {', '.join(sorted(keyed))}")
        if self.operator:
            parts.append("state of the operator")
        if self.prepared:
            parts.append("output that is not visible yet")
        return " and ".join(parts)


def compare(graph: JobGraph, manifest: Manifest) -> list[Fit]:
    """What becomes of each node's state if a job begins from a checkpoint.

    Nodes that never have state are left out.
    """
    fits: list[Fit] = []
    if manifest.job != graph.name:
        what = f"it is of job {manifest.job!r}, this is {graph.name!r}"
        fits.append(Fit("", "impossible", what))
    if manifest.max_parallelism != graph.max_parallelism:
        what = f"it was taken with max_parallelism={manifest.max_parallelism}, the job now has "
        fits.append(Fit("", "impossible", f"{what}{graph.max_parallelism}"))
    held = _held(manifest)
    for node in graph.topological():
        before = manifest.nodes.get(str(node.id), {}).get("kind")
        found = held.pop(str(node.id), None)
        if found is not None and before is not None and before != node.kind:
            what = f"its kind was {before} and is {node.kind} now; give it another name="
            fits.append(Fit(node.id, "impossible", what))
        else:
            fits += _fits_of(node, found, known=before is not None)
    for name, what_held in sorted(held.items()):
        fits.append(Fit(name, "dropped", what_held.describe(what_held.keyed)))
    return fits


def _fits_of(node: Node, held: _Held | None, *, known: bool) -> list[Fit]:
    body = node.body
    layouts = {} if isinstance(body, Source | Sink) else body.layouts()
    wanted = frozenset(layouts)
    if held is None:
        stateful = bool(wanted) or isinstance(body, Source)
        if not stateful or known:
            return []  # it had nothing to keep
        what = "it begins where it is told to" if isinstance(body, Source) else "it starts empty"
        return [Fit(node.id, "new", what)]
    fits: list[Fit] = []
    gone = held.keyed - wanted
    kept = held.describe(held.keyed & wanted)
    if kept:
        fits.append(Fit(node.id, "kept", kept))
    if gone:
        fits.append(Fit(node.id, "dropped", f"keyed state {', '.join(sorted(gone))}"))
    fits += _changes(node.id, held, layouts)
    added = wanted - held.keyed
    if added and gone:
        fits.append(Fit(node.id, "new", f"keyed state {', '.join(sorted(added))}"))
    return fits


def _changes(node: str, held: _Held, layouts: dict[str, dict[str, Any]]) -> list[Fit]:
    """What has become of the shapes of what is kept, each thing once."""
    changes: dict[Change, None] = {}
    for table in held.tables:
        if table["state"] in layouts:
            found = changes_of_layout(table.get("layout", {}), layouts[table["state"]])
            found += changes_of_types(table.get("types", {}))
            where = table["state"].removeprefix("state:")
            changes.update(((verdict, f"{where}: {what}"), None) for verdict, what in found)
    return [Fit(node, verdict, what) for verdict, what in changes]


def _held(manifest: Manifest) -> dict[str, _Held]:
    held: dict[str, _Held] = defaultdict(_Held)
    for task in manifest.tasks:
        for node, positions in task.sources.items():
            held[node].partitions += len(positions)
        for node, items in task.sinks.items():
            if items:
                held[node].prepared += len(items)
        for table in task.state.metadata["tables"] if task.state else ():
            one = held[table["node"]]
            one.keyed |= {table["state"]}
            one.tables.append(table)
        # State of operators that is not keyed, such as watermarks, is no loss by itself.
        for node in task.operators.keys() & held.keys():
            held[node].operator = True
    return held
