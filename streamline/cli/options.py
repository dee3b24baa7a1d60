"""Options that several commands share.

How a job's file and its parameters are given on the command line, said once. What they mean is
for ``jobfile`` to know.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from streamline.errors import UsageError
from streamline.jobfile import JobSpec

F = TypeVar("F", bound=Callable[..., Any])


def job_arguments(command: F) -> F:
    """``FILE[:NAME]`` and ``-p name=value``."""
    command = click.option(
        "-p",
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A value for a parameter of the job's function; may be repeated.",
    )(command)
    command = click.option(
        "--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors."
    )(command)  # main() looks for it
    return click.argument("target", metavar="FILE[:NAME]")(command)


def job_spec(target: str, params: tuple[str, ...]) -> JobSpec:
    """Read what ``job_arguments`` gave.

    Raises:
        UsageError: If there is no such file, or a parameter is not ``NAME=VALUE``.
    """
    return JobSpec.from_file(target, parse_params(params))


def parse_params(params: tuple[str, ...]) -> dict[str, str]:
    """``NAME=VALUE`` as a dict.

    Raises:
        UsageError: If one is not like that.
    """
    given: dict[str, str] = {}
    for param in params:
        name, equals, value = param.partition("=")
        if not equals or not name:
            raise UsageError(f"-p {param}: a parameter is given as NAME=VALUE")
        given[name] = value
    return given
