"""``streamline plan``: the graph and the tasks of a job, without running it.

It prints what ``plan`` and ``coordinator.fit`` have worked out: as tables, JSON or Mermaid. It
opens no state but the manifest of a savepoint that is asked about.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table

from streamline.cli.options import job_arguments, job_spec
from streamline.coordinator.fit import compare
from streamline.engines.statedir import newest_checkpoint
from streamline.graph import JobGraph
from streamline.io import Sink, Source
from streamline.plan import ExecutionPlan, make_plan
from streamline.plural import counted


@click.command()
@job_arguments
@click.option("--parallelism", type=int, default=1, show_default=True, help="Default parallelism.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--mermaid", is_flag=True, help="Print the graph as a Mermaid flow chart.")
@click.option(
    "--from",
    "origin",
    metavar="PATH",
    help="Tell what becomes of the state in a savepoint; status 1 if it does not fit.",
)
def plan(
    target: str,
    params: tuple[str, ...],
    parallelism: int,
    as_json: bool,
    mermaid: bool,
    origin: str | None,
) -> int:
    """Show graph and tasks of the job in FILE without running it."""
    graph = job_spec(target, params).load().graph()
    laid_out = make_plan(graph, parallelism)
    if origin is not None:
        return _tell_fit(graph, origin, as_json=as_json)
    _tell_plan(graph, laid_out, parallelism, as_json=as_json, mermaid=mermaid)
    return 0


def _tell_fit(graph: JobGraph, origin: str, *, as_json: bool) -> int:
    """What becomes of stored state, node by node."""
    manifest = newest_checkpoint(origin)[1]
    fits = compare(graph, manifest)
    status = 1 if any(fit.verdict == "impossible" for fit in fits) else 0
    if as_json:
        found = [asdict(fit) for fit in fits]
        print(json.dumps({"job": manifest.job, "epoch": manifest.epoch, "nodes": found}, indent=2))
        return status
    print(f"{manifest.kind} {manifest.epoch} of job {manifest.job}")
    width = max((len(fit.node) for fit in fits), default=0)
    for fit in fits:
        print(f"  {fit.verdict:<10}  {fit.node:<{width}}  {fit.what}".rstrip())
    return status


def _tell_plan(
    graph: JobGraph, laid_out: ExecutionPlan, parallelism: int, *, as_json: bool, mermaid: bool
) -> None:
    if as_json:
        print(json.dumps({"graph": graph.to_dict(), "plan": laid_out.to_dict()}, indent=2))
        return
    if mermaid:
        print(graph.to_mermaid())
        return
    console = Console(highlight=False)
    with console.capture() as captured:
        _show(console, graph, laid_out, parallelism=parallelism)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _show(console: Console, graph: JobGraph, laid_out: ExecutionPlan, *, parallelism: int) -> None:
    console.print(f"job [bold]{graph.name}[/bold], {counted(len(laid_out.tasks()), 'task')}")
    nodes = Table("node", "kind", "parallelism", "fed by", box=None, pad_edge=False)
    for node in graph.topological():
        fed = [f"{edge.source} ({edge.partitioning})" for edge in graph.inputs(node.id)]
        parallel = graph.parallelism_of(node, parallelism)
        nodes.add_row(node.id, node.kind, str(parallel), ", ".join(fed) or "-")
    console.print(nodes)
    tasks = Table("tasks", "nodes run in one call", "key groups", box=None, pad_edge=False)
    for stage in laid_out.stages:
        ranges = [laid_out.key_range(task) for task in stage.tasks()]
        keyed = any(
            not isinstance(node.body, Source | Sink) and node.body.keyed for node in stage.nodes
        )
        groups = ", ".join(f"{owned.start}-{owned.stop - 1}" for owned in ranges)
        tasks.add_row(
            ", ".join(str(task) for task in stage.tasks()).replace("[", r"\["),
            " > ".join(stage.node_ids),
            groups if keyed else "-",
        )
    console.print()
    console.print(tasks)
