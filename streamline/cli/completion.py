"""``streamline completion``: what makes a shell complete commands, options and ids of jobs.

Ids come from the cluster, with little patience and without errors: whoever presses a key must not
wait for it, nor read them. Everything else is click's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

VARIABLE = "_STREAMLINE_COMPLETE"
_TIMEOUT_S = 2.0
CA = "streamline.ca"
"""Where a command keeps the certificate that it was given, in click's context."""
ENDED = ("stopped", "finished", "failed", "canceled")

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes SHELL complete commands, options and ids of jobs.

    Such as, in ~/.bashrc: eval "$(streamline completion bash)"
    """
    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(context.find_root().command, {}, "streamline", VARIABLE).source())


def job_argument(*, ended: bool | None = None) -> Callable[[Any], Any]:
    """``JOB``, whose ids are completed.

    Args:
        ended: Complete those of jobs that have ended, or that have not; all if not given.
    """
    return click.argument("job", shell_complete=_completer(ended))


def _completer(ended: bool | None) -> Complete:
    def complete(
        context: click.Context, _: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        try:
            from streamline.cluster.client import Client

            given = context.params.get("cluster")
            with Client(given, timeout_s=_TIMEOUT_S, ca=context.meta.get(CA)) as client:
                jobs = client.get("/v1/jobs")
        except Exception:  # noqa: BLE001 - whoever presses a key wants no error between their words
            return []
        return [
            CompletionItem(one["id"], help=f"{one['name']}, {one['state']}")
            for one in jobs
            if one["id"].startswith(incomplete)
            and (ended is None or (one["state"] in ENDED) == ended)
        ]

    return complete
