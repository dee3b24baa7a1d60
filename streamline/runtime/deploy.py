"""Build the tasks of one process and connect them: by calls here, by a transport elsewhere.

The one place that turns plan, tasks, routers and channels into objects that hold each other. Both
engines use it. Which tasks belong here it is told; it starts none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from streamline.batch import Batch
from streamline.config import RuntimeConfig
from streamline.graph import Partitioning
from streamline.ids import ChannelId, TaskId
from streamline.operators.base import LATE, OperatorSpec
from streamline.plan import CrossEdge, ExecutionPlan
from streamline.runtime.chain import Outlet
from streamline.runtime.channel import Receiver, Sender, local_channel
from streamline.runtime.credits import Credits
from streamline.runtime.dispatch import Router
from streamline.runtime.task import Task, TaskPlace, TaskServices


@dataclass(frozen=True)
class RemoteEnds:
    """How to make one end of a channel whose other end lives in another process.

    Attributes:
        sender: Gets the channel, its credits and the task at the other end.
        receiver: Gets the channel and the task at the other end.
    """

    sender: Callable[[ChannelId, Credits, TaskId], Sender]
    receiver: Callable[[ChannelId, TaskId], Receiver]


def build_tasks(
    plan: ExecutionPlan,
    mine: Collection[TaskId],
    services: TaskServices,
    *,
    remote: RemoteEnds | None = None,
) -> dict[TaskId, Task]:
    """Make the tasks in ``mine``, none of them started yet.

    Args:
        plan: The job as deployed.
        mine: Tasks of this process.
        services: What tasks need of it.
        remote: Ends of channels to other processes; None if there are none.
    """
    places = {
        task: TaskPlace(
            id=task,
            stage=plan.stage(task.node),
            key_range=plan.key_range(task),
            max_parallelism=plan.max_parallelism,
        )
        for task in mine
    }
    for edge in plan.edges:
        senders = _connect(plan, edge, places, config=services.config, remote=remote)
        project = projection(plan, edge) if senders else None
        for index, of_task in senders.items():
            place = places[TaskId(edge.source, index)]
            router = Router(
                edge.partitioning,
                of_task,
                max_parallelism=plan.max_parallelism,
                first=index,
                project=project,
            )
            place.routers.append(router)
            place.outlets.append(
                Outlet(edge.edge.source, edge.edge.tag, router.emit, router.control)
            )
    return {task: Task(place, services) for task, place in places.items()}


def projection(plan: ExecutionPlan, edge: CrossEdge) -> Callable[[Batch], Batch] | None:
    """What reduces a batch before a shuffle to what the operator behind it looks at."""
    head = plan.stage(edge.target).nodes[0]
    if edge.partitioning is not Partitioning.HASH or not isinstance(head.body, OperatorSpec):
        return None
    inner = plan.stage(edge.target).inner
    leaving = [*inner, *(other.edge for other in plan.edges)]
    if any(other.source == head.id and other.tag == LATE for other in leaving):
        return None
    return head.body.projection(str(head.id))


def _connect(
    plan: ExecutionPlan,
    edge: CrossEdge,
    places: dict[TaskId, TaskPlace],
    *,
    config: RuntimeConfig,
    remote: RemoteEnds | None,
) -> dict[int, list[Sender]]:
    """Make all ends of an edge that belong here; returns the senders by source index."""
    senders: dict[int, list[Sender]] = {}
    for channel in plan.channels(edge):
        source, target = TaskId(edge.source, channel.source), TaskId(edge.target, channel.target)
        credits = Credits(batches=config.channel_batches, size_bytes=config.channel_bytes)
        if source in places and target in places:
            sender, receiver = local_channel(channel, credits)
            senders.setdefault(channel.source, []).append(sender)
            places[target].inputs.append(receiver)
            continue
        if source in places:
            assert remote is not None, f"{target} is nowhere"
            senders.setdefault(channel.source, []).append(remote.sender(channel, credits, target))
        elif target in places:
            assert remote is not None, f"{source} is nowhere"
            places[target].inputs.append(remote.receiver(channel, source))
    return senders
