"""The REST API: what ``Daemon`` offers, over HTTP, with its OpenAPI document.

Errors are problem details (RFC 9457): ``type``, ``title``, ``status``, ``detail``.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from pathlib import PurePath
from typing import Annotated, Any, TypeAlias

import msgspec
from fastapi import Depends, FastAPI, Header, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException as StarletteError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from streamline.clock import Clock
from streamline.cluster import example
from streamline.cluster.connections import Refusals
from streamline.cluster.daemon import Daemon
from streamline.cluster.environment import BrokenRequirementsError
from streamline.cluster.files import read_failures
from streamline.cluster.intake import EndingError
from streamline.cluster.jobs import (
    Operation,
    OtherBodyError,
    UnknownJobError,
    Verb,
    WrongStateError,
)
from streamline.cluster.log import read_log
from streamline.cluster.machine import BrokenJobError
from streamline.cluster.metrics import as_text
from streamline.cluster.submission import MOST_BYTES, Submission
from streamline.errors import StreamlineError, UsageError
from streamline.version import VERSION

_FAILURES, _WINDOW_S, _MOST_STRANGERS = 10, 60.0, 1_000
_LOG_BYTES = 1 << 20
_MOST_JOBS = 1_000
MAX_PARALLELISM = 1 << 15
_BEARER = HTTPBearer(auto_error=False)
Json: TypeAlias = dict[str, Any]


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    trace: str = ""


class SubmitRequest(BaseModel):
    """A job to be run."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [example.submission()]}
    )
    file: str = Field(min_length=1, max_length=500, description="The job's file in the archive.")
    archive: str = Field(description="The job's folder: a zip file in base64.")
    expose: str = Field("job", max_length=200, description="What the file exposes the job as.")
    params: dict[str, str] = Field(default_factory=dict)
    parallelism: int = Field(1, ge=1, le=MAX_PARALLELISM)
    checkpoint_every_ms: int = Field(1_000, ge=10, le=86_400_000)
    origin: str = Field("", description="Savepoint or checkpoints to begin from.")
    allow_dropped_state: bool = Field(
        False, description="State of it that the job has no place for may be given up."
    )
    memory_limit_bytes: int = Field(
        0, ge=0, le=1 << 50, description="A worker that holds more is replaced; 0 for no limit."
    )
    requirements: str = Field(
        "", max_length=100_000, description="What pip is to install for the job alone."
    )


class StopRequest(BaseModel):
    """How to stop a job."""

    model_config = ConfigDict(extra="forbid")
    savepoint: str | None = Field(None, description="Where to leave a savepoint; none if null.")


class SavepointRequest(BaseModel):
    """Where to leave a savepoint."""

    model_config = ConfigDict(extra="forbid")
    path: str | None = Field(None, description="Folder or URL; one in the data folder if null.")


class RescaleRequest(BaseModel):
    """At which parallelism a job is to go on."""

    model_config = ConfigDict(extra="forbid")
    parallelism: int | None = Field(None, ge=1, le=MAX_PARALLELISM)
    nodes: dict[str, Annotated[int, Field(ge=1, le=MAX_PARALLELISM)]] = Field(default_factory=dict)


class OperationModel(BaseModel):
    """Something that was asked of a job."""

    id: str
    job: str
    verb: str
    state: str = Field(description="pending, done or failed")
    result: Json
    error: str


class CheckpointModel(BaseModel):
    """The last complete checkpoint."""

    epoch: int
    duration_s: float
    size_bytes: int
    age_s: float


class StoredCheckpointModel(BaseModel):
    """A complete checkpoint."""

    epoch: int
    created_ms: int
    duration_s: float
    size_bytes: int


class TaskModel(BaseModel):
    """One task."""

    node: str
    index: int
    state: str = Field(description="waiting, starting, running or ended.")
    worker: int
    records_in: int
    records_out: int
    bytes_in: int = Field(description="Read from outside, or received, as credits count them.")
    bytes_out: int = Field(description="Written to outside, or sent, as credits count them.")
    watermark: int | None
    busy: float
    idle: float
    backpressured: float
    busy_s: float = Field(0, description="Since its attempt began, as idle_s and backpressured_s.")
    idle_s: float = 0
    backpressured_s: float = 0
    watermark_lag_s: float | None = Field(None, description="How far event time is behind.")
    alignment_s: float = Field(0, description="First to last barrier, of the last checkpoint.")
    credits: int = Field(0, description="Batches it may send before it has to wait.")
    credits_limit: int = 0
    state_entries: int = Field(0, description="Entries of keyed state in memory.")
    state_bytes: int = Field(0, description="Keyed state in the last checkpoint.")
    source_lag: int | None = Field(None, description="Records that are there and not read yet.")
    source_lag_bytes: int | None = Field(None, description="Bytes, where records are not known.")


class WorkerModel(BaseModel):
    """A worker process."""

    id: int
    pid: int | None = Field(description="None if it has no process just now.")
    state: str = Field(description="starting, running or lost.")


class JobModel(BaseModel):
    """A job, as ``streamline status --json`` shows it."""

    id: str
    name: str
    state: str
    parallelism: int
    generation: int
    restarts: int
    submitted_ms: int
    ended_ms: int | None
    uptime_s: float
    records_in: int
    records_out: int
    last_checkpoint: CheckpointModel | None
    tasks: list[TaskModel]
    workers: list[WorkerModel]
    counters: dict[str, dict[str, int]]
    refused: int = Field(description="Connections by strangers that were turned away.")
    last_error: str


class FailureModel(BaseModel):
    """A failure of a job."""

    at_ms: int
    generation: int = Field(description="The attempt that it ended; 0 if it was outside of any.")
    node: str = Field(description="Of the task that failed; empty if it was none.")
    index: int
    error: str
    trace: str


class ExceptionsModel(BaseModel):
    """What went wrong with a job."""

    last_error: str
    trace: str
    restarts: int
    failures: list[FailureModel]


class RemovedModel(BaseModel):
    """A job that is no more."""

    id: str


class LogModel(BaseModel):
    """A piece of a log."""

    text: str
    next: int


class Guard:
    """Who may come in: whoever has the token, unless they have guessed too often.

    Attributes:
        wrong: How many wrong tokens were given.
    """

    def __init__(self, token: str, clock: Clock) -> None:
        self.wrong = 0
        self._token = token.encode()
        self._clock = clock
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()

    def check(self, client: str, given: str | None) -> None:
        """Let in, or not.

        Raises:
            HTTPException: 401 without the right token, 429 after too many wrong ones.
        """
        now_s = self._clock.monotonic_s()
        failures = self._failures.get(client)
        while failures and now_s - failures[0] > _WINDOW_S:
            failures.popleft()
        if failures is not None and len(failures) >= _FAILURES:
            wait_s = int(_WINDOW_S - (now_s - failures[0])) + 1
            raise HTTPException(
                429, "too many wrong tokens; wait", headers={"Retry-After": str(wait_s)}
            )
        if given is not None and hmac.compare_digest(given.encode(), self._token):
            return
        if given is not None:
            self.wrong += 1
            self._failures.setdefault(client, deque()).append(now_s)
            if len(self._failures) > _MOST_STRANGERS:
                self._failures.popitem(last=False)
        what = "this token is wrong" if given is not None else "a token is needed"
        raise HTTPException(
            401,
            f"{what}; give that of the cluster's data folder (STREAMLINE_TOKEN)",
            headers={"WWW-Authenticate": "Bearer"},
        )


class _Guarded:
    """Let in, or not, before anything of a request but its head is looked at."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            given = token.strip() if kind.lower() == "bearer" else None
            client = scope["client"][0] if scope.get("client") else ""
            try:
                self._guard.check(client, given or None)
            except HTTPException as error:
                answer = _problem(error.status_code, str(error.detail), headers=error.headers)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _LimitBody:
    """Refuse bodies that are too large before they are read."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._limit:
            response = _problem(413, f"a request may have {self._limit} bytes at most")
            await response(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._limit:
                raise HTTPException(413, f"a request may have {self._limit} bytes at most")
            return message

        await self._app(scope, limited, send)


def _problem(status: int, detail: str, *, trace: str = "", headers: Any = None) -> JSONResponse:
    found = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, trace=trace)
    body = found.model_dump(exclude_defaults=True) | {"type": found.type}
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def make_app(daemon: Daemon, clock: Clock, refusals: Refusals) -> FastAPI:
    """The application."""
    guard = Guard(daemon.token, clock)
    codes = (400, 401, 404, 409, 413, 422, 429, 503)
    app = FastAPI(
        title="streamline",
        version=VERSION,
        summary="Jobs of a streamline cluster.",
        dependencies=[Depends(_BEARER)],  # for the document; _Guarded looks at it
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses={
            code: {"model": Problem, "description": HTTPStatus(code).phrase} for code in codes
        },
    )
    app.add_middleware(_LimitBody, limit=MOST_BYTES + (1 << 16))
    app.add_middleware(_Guarded, guard=guard)  # the last one added is the first one asked
    _add_errors(app)
    _add_jobs(app, daemon)
    _add_verbs(app, daemon)

    @app.get("/v1/openapi.json", include_in_schema=False)
    async def openapi() -> Json:
        return _document(app)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> Response:
        """Prometheus text."""
        jobs = [await daemon.describe(job, fresh=False) for job in daemon.jobs.jobs.values()]
        counts = {"wrong_tokens": guard.wrong, "silent_connections": refusals.count}
        return _metrics(jobs, counts)

    return app


def _metrics(jobs: list[Json], counts: dict[str, int] | None = None) -> Response:
    return Response(as_text(jobs, counts), media_type="text/plain; version=0.0.4; charset=utf-8")


def _document(app: FastAPI) -> Json:
    """The OpenAPI document; errors have a media type of their own, which FastAPI cannot say."""
    document = app.openapi()
    for methods in document["paths"].values():
        for operation in methods.values():
            for code, answer in operation["responses"].items():
                if code >= "400":
                    schema = {"schema": {"$ref": "#/components/schemas/Problem"}}
                    answer["content"] = {"application/problem+json": schema}
    return document


def _add_errors(app: FastAPI) -> None:
    statuses: dict[type[StreamlineError], int] = {
        UnknownJobError: 404,
        WrongStateError: 409,
        BrokenJobError: 422,
        BrokenRequirementsError: 422,
        OtherBodyError: 422,
        EndingError: 503,
        UsageError: 400,
        StreamlineError: 500,
    }

    def of(status: int) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def answer(_: Request, error: Exception) -> Response:
            return _problem(status, str(error), trace=getattr(error, "trace", ""))

        return answer

    for kind, status in statuses.items():
        app.add_exception_handler(kind, of(status))

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        return _problem(500, f"the cluster failed by {error!r}")

    @app.exception_handler(StarletteError)
    async def http(_: Request, error: StarletteError) -> Response:
        return _problem(error.status_code, str(error.detail), headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return _problem(422, f"{where}: {first['msg']}")


def _add_jobs(app: FastAPI, daemon: Daemon) -> None:
    @app.get("/v1/jobs", response_model=list[JobModel])
    async def jobs(
        ended: bool = True, most: Annotated[int, Query(ge=1, le=_MOST_JOBS)] = _MOST_JOBS
    ) -> list[Json]:
        """Jobs, the newest last: so many of the newest, or those alone that have not ended."""
        known = daemon.jobs.jobs.values()
        found = [job for job in reversed(known) if ended or job.state is None][:most]
        return [await daemon.describe(job, fresh=False) for job in reversed(found)]

    @app.post("/v1/jobs", response_model=JobModel, status_code=201)
    async def submit(
        given: SubmitRequest, idempotency_key: Annotated[str, Header(max_length=200)] = ""
    ) -> Json:
        """Submit a job; a second submission with the same key is answered with the same job."""
        job = await daemon.submit(Submission(**given.model_dump()), idempotency_key)
        return await daemon.describe(job)

    @app.get("/v1/jobs/{job}", response_model=JobModel)
    async def status(job: str) -> Json:
        """One job, by its id or its name."""
        return await daemon.describe(daemon.jobs.find(job))

    @app.delete("/v1/jobs/{job}")
    async def remove(job: str) -> RemovedModel:
        """Remove one that has ended; savepoints that were asked for, and its output, stay."""
        return RemovedModel(id=await daemon.remove(job))

    @app.get("/v1/jobs/{job}/tasks", response_model=list[TaskModel])
    async def tasks(job: str) -> Any:
        """Its tasks."""
        return (await daemon.describe(daemon.jobs.find(job)))["tasks"]

    @app.get("/v1/jobs/{job}/graph")
    async def graph(job: str) -> Json:
        """Its graph and plan, as submitted."""
        found = daemon.job_folder(daemon.jobs.find(job).id).root / "graph.json"
        answer: Json = json.loads(found.read_text())
        return answer

    @app.get("/v1/jobs/{job}/checkpoints", response_model=list[StoredCheckpointModel])
    async def checkpoints(job: str) -> Any:
        """The complete checkpoints there are, the newest last."""
        return await asyncio.to_thread(daemon.checkpoints, daemon.jobs.find(job))

    @app.get("/v1/jobs/{job}/metrics", response_class=PlainTextResponse)
    async def metrics(job: str) -> Response:
        """Its part of ``/metrics``."""
        return _metrics([await daemon.describe(daemon.jobs.find(job))])

    @app.get("/v1/jobs/{job}/exceptions")
    async def exceptions(job: str) -> ExceptionsModel:
        """Why it failed, and why it was restarted: the last failures, the newest last."""
        found = daemon.jobs.find(job)
        described = await daemon.describe(found)
        failures = await asyncio.to_thread(read_failures, daemon.job_folder(found.id).failures)
        return ExceptionsModel(
            last_error=described["last_error"],
            trace=found.trace or (failures[-1].trace if failures else ""),
            restarts=described["restarts"],
            failures=[FailureModel(**msgspec.structs.asdict(one)) for one in failures],
        )

    @app.get("/v1/jobs/{job}/logs", response_model=LogModel)
    async def logs(
        job: str,
        offset: Annotated[int, Query(ge=-_LOG_BYTES, le=1 << 50)] = 0,
    ) -> Json:
        """What was printed, from an offset in bytes; a negative one counts from the end."""
        path = daemon.job_folder(daemon.jobs.find(job).id).log
        return await asyncio.to_thread(read_log, path, offset)


def _add_verbs(app: FastAPI, daemon: Daemon) -> None:
    def ask(job: str, verb: Verb, arguments: Json) -> OperationModel:
        return _operation(daemon.ask(job, verb, arguments))

    @app.post("/v1/jobs/{job}/stop", status_code=202)
    async def stop(job: str, given: StopRequest) -> OperationModel:
        """Drain it to a last checkpoint, and end it; perhaps leave a savepoint."""
        return ask(job, "stop", {"savepoint": _whole(given.savepoint) or ""})

    @app.post("/v1/jobs/{job}/cancel", status_code=202)
    async def cancel(job: str) -> OperationModel:
        """End it at once."""
        return ask(job, "cancel", {})

    @app.post("/v1/jobs/{job}/savepoint", status_code=202)
    async def savepoint(job: str, given: SavepointRequest) -> OperationModel:
        """Leave a savepoint; it goes on."""
        return ask(
            job, "savepoint", {"target": _whole(given.path) or daemon.default_savepoint(job)}
        )

    @app.post("/v1/jobs/{job}/rescale", status_code=202)
    async def rescale(job: str, given: RescaleRequest) -> OperationModel:
        """Go on at another parallelism."""
        if given.parallelism is None and not given.nodes:
            raise UsageError("rescale: give parallelism, or nodes")
        return ask(job, "rescale", given.model_dump())

    @app.get("/v1/operations/{operation}")
    async def operation(operation: str) -> OperationModel:
        """What became of something that was asked."""
        found = daemon.jobs.operations.get(operation)
        if found is None:
            raise UnknownJobError(f"there is no operation {operation!r}")
        return _operation(found)


def _whole(path: str | None) -> str | None:
    """A place for a savepoint, which no process of ours may take to be in its own folder.

    Raises:
        UsageError: If it is only a part of a path.
    """
    if path and "://" not in path and not PurePath(path).is_absolute():
        raise UsageError(f"savepoint {path!r}: give the whole path of a folder, or a URL")
    return path


def _operation(operation: Operation) -> OperationModel:
    return OperationModel(
        id=operation.id,
        job=operation.job,
        verb=operation.verb,
        state=operation.state,
        result=operation.result,
        error=operation.error,
    )
