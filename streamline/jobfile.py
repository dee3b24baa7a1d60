"""JobSpec: a job as it travels to the processes that run it, and how a job file is read.

The file's text travels, not its objects: every process runs the same text, so that modules,
clients and models at the top of the file work, and editing the file does not change a job
that is running.
"""

from __future__ import annotations

import linecache
import sys
import traceback
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import cloudpickle

from streamline.dsl.job import Job
from streamline.errors import StreamlineError, UsageError
from streamline.record import job_module
from streamline.user_code import is_ours

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


class JobFileError(UsageError):
    """The job file itself failed; ``trace`` is the traceback, cut to the user's frames."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


@dataclass(frozen=True)
class JobSpec:
    """All that is needed to build a job in another process.

    Attributes:
        path: The job file, for imports beside it and for messages.
        source: Its text.
        name: What it exposes the job as.
        params: Values for the function's parameters, as given on the command line.
        pickled: Instead of a file: the Job itself, pickled by value.
    """

    path: str = ""
    source: str = ""
    name: str = "job"
    params: dict[str, str] = field(default_factory=dict)
    pickled: bytes = b""

    @classmethod
    def from_file(cls, target: str, params: Mapping[str, str]) -> JobSpec:
        """Read ``FILE`` or ``FILE:NAME``.

        Raises:
            UsageError: If there is no such file, or it cannot be read.
        """
        path, _, name = target.partition(":") if not Path(target).exists() else (target, "", "")
        file = Path(path)
        if not file.is_file():
            kind = "is a folder" if file.is_dir() else "does not exist"
            raise UsageError(f"the job file {path!r} {kind}; give the path of a Python file")
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the job file {path!r} cannot be read: {error}") from error
        return cls(str(file.resolve()), source, name or "job", dict(params))

    @classmethod
    def from_job(cls, job: Job) -> JobSpec:
        """Pickle a job that was built in this process.

        Raises:
            UsageError: If something in it cannot be pickled.
        """
        try:
            return cls(pickled=cloudpickle.dumps(job))
        except Exception as error:
            raise UsageError(
                f"job {job.name!r} cannot be sent to worker processes ({error}); put it into a "
                "file and use `streamline run`, or run it with the inline engine"
            ) from error

    def load(self) -> Job:
        """Build the job in this process.

        Raises:
            UsageError: If the file does not expose a job, or a parameter does not fit.
            JobFileError: If the file's own code raises.
        """
        if self.pickled:
            job = cloudpickle.loads(self.pickled)
            assert isinstance(job, Job)
            return job
        module = self._module()
        if not hasattr(module, self.name):
            names = [name for name, value in vars(module).items() if isinstance(value, Job)]
            names += [
                name
                for name, value in vars(module).items()
                if isinstance(value, types.FunctionType) and value.__module__ == module.__name__
            ]
            found = (
                f"it has {', '.join(names)}: name one with FILE:NAME" if names else "it has none"
            )
            raise UsageError(
                f"{self.path} exposes nothing named {self.name!r}; a job file exposes a Job, or a "
                f"function that returns one, under the name job ({found})"
            )
        found_job = getattr(module, self.name)
        if callable(found_job) and not isinstance(found_job, Job):
            arguments = _arguments(found_job, self.params, name=self.name, path=self.path)
            found_job = self._guarded(lambda: found_job_call(found_job, arguments))
        elif self.params:
            raise UsageError(
                f"{self.name!r} in {self.path} is a Job, not a function: it takes no parameters "
                f"({', '.join(self.params)})"
            )
        if not isinstance(found_job, Job):
            raise UsageError(
                f"{self.name!r} in {self.path} must be a streamline Job or a function that returns "
                f"one, not {type(found_job).__name__}"
            )
        return found_job

    def _module(self) -> types.ModuleType:
        """Run the text as a module of its own; the folder of the file is importable."""
        path = Path(self.path)
        name = job_module(path.stem)
        folder = str(path.parent)
        if folder not in sys.path:
            sys.path.insert(0, folder)
        module = types.ModuleType(name)
        module.__file__ = self.path
        sys.modules[name] = module
        lines = self.source.splitlines(keepends=True)
        linecache.cache[self.path] = (len(self.source), None, lines, self.path)

        def run() -> None:
            exec(compile(self.source, self.path, "exec"), module.__dict__)

        self._guarded(run)
        return module

    def _guarded(self, function: Callable[[], Any]) -> Any:
        """Call the user's code; its errors come with the user's frames only."""
        try:
            return function()
        except StreamlineError as error:
            line = _user_line(error, self.path)
            if line is None:
                raise
            raise JobFileError(f"{error} ({Path(self.path).name}:{line})") from error
        except SyntaxError as error:
            raise JobFileError(
                f"{error.filename or self.path}:{error.lineno}: {error.msg}",
                "".join(traceback.format_exception_only(error)),
            ) from error
        except SystemExit as error:
            raise JobFileError(f"{self.path} calls exit({error.code}) while it is read") from error
        except Exception as error:
            line = _user_line(error, self.path)
            raise JobFileError(
                f"the job file {self.path} raised {type(error).__name__}: {error}"
                + (f" (line {line})" if line is not None else ""),
                _user_trace(error),
            ) from error


def found_job_call(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call the function that makes the job."""
    return function(**arguments)


def _user_line(error: BaseException, path: str) -> int | None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == path]
    return frames[-1].lineno if frames else None


def _user_trace(error: BaseException) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not is_ours(frame.filename)
    ]
    head = "Traceback (most recent call last):\n"
    tail = "".join(traceback.format_exception_only(error))
    return head + "".join(traceback.format_list(frames)) + tail


def _arguments(
    function: Callable[..., Any], params: Mapping[str, str], *, name: str, path: str
) -> dict[str, Any]:
    """Turn ``-p name=value`` into the function's arguments, by their annotations."""
    parameters = signature(function).parameters
    try:
        hints = typing.get_type_hints(function)
    except Exception:  # noqa: BLE001 - an annotation that cannot be resolved is treated as none
        hints = {}
    open_ended = any(p.kind == Parameter.VAR_KEYWORD for p in parameters.values())
    for given in params:
        if given not in parameters and not open_ended:
            known = ", ".join(parameters) or "none"
            raise UsageError(
                f"{name}() in {path} has no parameter {given!r}; its parameters are: {known}"
            )
    arguments: dict[str, Any] = {}
    for parameter in parameters.values():
        if parameter.kind in (Parameter.VAR_KEYWORD, Parameter.VAR_POSITIONAL):
            continue
        if parameter.name in params:
            kind = hints.get(parameter.name, str)
            arguments[parameter.name] = _convert(params[parameter.name], kind, parameter.name)
        elif parameter.default is Parameter.empty:
            raise UsageError(
                f"{name}() in {path} needs a value for its parameter {parameter.name!r}; give "
                f"-p {parameter.name}=VALUE"
            )
    if open_ended:
        arguments.update({key: params[key] for key in params if key not in arguments})
    return arguments


def _convert(text: str, kind: Any, name: str) -> Any:
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        options = typing.get_args(kind)
        if type(None) in options and text.lower() in ("none", ""):
            return None
        kind = next((option for option in options if option is not type(None)), str)
    try:
        if kind is bool:
            if text.lower() in _TRUE | _FALSE:
                return text.lower() in _TRUE
            raise ValueError("write true or false")
        if kind in (int, float, Path):
            return kind(text)
    except ValueError as error:
        raise UsageError(f"-p {name}={text}: not a {kind.__name__} ({error})") from error
    if kind in (str, Any, Parameter.empty) or not isinstance(kind, type):
        return text
    raise UsageError(
        f"-p {name}={text}: the parameter is a {kind.__name__}, which the command line cannot "
        "give; use str, int, float, bool or Path"
    )
