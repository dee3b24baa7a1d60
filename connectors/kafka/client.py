"""How Kafka is reached: security, the words for its errors, and trying again while it is away.

What source and sink share on their way to a broker. aiokafka's habits that would hurt a job are
corrected here, once and for all its clients. It knows neither records nor transactions.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, Literal, TypeVar

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.helpers import create_ssl_context
from aiokafka.protocol.metadata import MetadataRequest

from streamline.connectors.outage import Patience, log
from streamline.errors import ConnectorError, UsageError

T = TypeVar("T")
__all__ = ["AWAY", "NO_SECURITY", "OURS", "KafkaSecurity", "check_alive", "explain", "log", "retry"]


class _Refusals(logging.Handler):
    """Why brokers would not have us: aiokafka raises all as "unable to bootstrap", and logs why.

    It also keeps what is logged while a broker is away from the terminal: that is said by us,
    once and in words.
    """

    def __init__(self) -> None:
        super().__init__()
        self._reasons: dict[str, BaseException] = {}

    def emit(self, record: logging.LogRecord) -> None:
        args = record.args
        if isinstance(args, tuple) and len(args) == 3:
            host, port, reason = args
            # An error of a certificate is an OSError too, as brokers that are away are.
            refuses = isinstance(reason, errors.KafkaError) and not isinstance(reason, AWAY)
            if isinstance(reason, ssl.SSLError) or (refuses and isinstance(reason, BaseException)):
                self._reasons[f"{host}:{port}"] = reason

    def take(self, servers: str) -> BaseException | None:
        """The last refusal by one of the servers; it is forgotten then."""
        found = [self._reasons.pop(one.strip(), None) for one in servers.split(",")]
        return next((one for one in found if one is not None), None)

    def forget(self, servers: str) -> None:
        """We were let in: what was said before does not hold any more."""
        self.take(servers)


_refusals = _Refusals()
logging.getLogger("aiokafka").addHandler(_refusals)

_Send = Callable[..., Awaitable[Any]]
OURS = "streamline-"
"""What the names of our clients begin with."""


def _mended(send: _Send) -> _Send:
    """Have a connection that is gone told as what it is, and no topic made by asking for it.

    Where asyncio's transports raise OSError, uvloop's raise RuntimeError. aiokafka does not expect
    that: the task that looks after the brokers would die of it, and others wait for it for ever.

    aiokafka lets brokers make the topics it asks for; then a broker as it comes makes one of every
    name that is mistyped. Clients of others in this process keep that.
    """

    @wraps(send)
    def guarded(connection: AIOKafkaConnection, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        if args and isinstance(args[0], MetadataRequest) and connection._client_id.startswith(OURS):
            args[0]._allow_auto_topic_creation = False
        try:
            return send(connection, *args, **kwargs)
        except RuntimeError as error:
            connection.close(reason=CloseReason.CONNECTION_BROKEN)
            where = f"{connection.host}:{connection.port}"
            raise errors.KafkaConnectionError(f"Connection at {where} broken: {error}") from error

    return guarded


for _name in ("send", "_send_sasl_token"):
    setattr(AIOKafkaConnection, _name, _mended(getattr(AIOKafkaConnection, _name)))

AWAY = (
    errors.KafkaConnectionError,
    errors.NodeNotReadyError,
    errors.KafkaTimeoutError,
    errors.RequestTimedOutError,
    errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError,
    errors.BrokerNotAvailableError,
    errors.CoordinatorLoadInProgressError,
    errors.CoordinatorNotAvailableError,
    errors.NotCoordinatorError,
    errors.ConcurrentTransactions,
    errors.StaleMetadata,
    asyncio.TimeoutError,
    OSError,
)
"""Errors that go away by themselves."""


@dataclass(frozen=True)
class KafkaSecurity:
    """Encryption and who we are.

    Attributes:
        tls: Talk TLS.
        mechanism: How to say who we are; None does not.
        username, password: For the mechanism.
        ca_file: Certificates to trust, instead of the system's.
        cert_file, key_file, key_password: Our own certificate, where the broker wants one.
        check_hostname: Whether the broker's certificate must name the host it is reached at.

    Raises:
        UsageError: If a mechanism comes without user name or password.

    >>> KafkaSecurity(tls=True, mechanism="SCRAM-SHA-512", username="ann", password="secret")
    KafkaSecurity(tls=True, mechanism='SCRAM-SHA-512', username='ann')
    """

    tls: bool = False
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    key_password: str | None = field(default=None, repr=False)
    check_hostname: bool = True

    def __post_init__(self) -> None:
        known = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", None)
        if self.mechanism not in known:
            raise UsageError(f"mechanism={self.mechanism!r} must be one of {known[:3]}")
        if self.mechanism is not None and (self.username is None or self.password is None):
            raise UsageError(f"mechanism={self.mechanism!r} needs username= and password=")

    def __repr__(self) -> str:
        shown = {"tls": self.tls, "mechanism": self.mechanism, "username": self.username}
        return f"KafkaSecurity({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def options(self) -> dict[str, Any]:
        """What aiokafka's clients want to be told.

        Raises:
            ConnectorError: If a certificate cannot be read.

        >>> KafkaSecurity().options()
        {'security_protocol': 'PLAINTEXT'}
        """
        sasl, tls = self.mechanism is not None, self.tls
        protocol = f"{'SASL_' if sasl else ''}{'SSL' if tls else 'PLAINTEXT'}"
        options: dict[str, Any] = {"security_protocol": protocol}
        if sasl:
            options |= {
                "sasl_mechanism": self.mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        if tls:
            try:
                context = create_ssl_context(
                    cafile=self.ca_file,
                    certfile=self.cert_file,
                    keyfile=self.key_file,
                    password=self.key_password,
                )
            except (OSError, ValueError) as error:
                raise ConnectorError(f"a certificate for Kafka cannot be used: {error}") from error
            context.check_hostname = self.check_hostname
            options["ssl_context"] = context
        return options


NO_SECURITY = KafkaSecurity()


def explain(error: BaseException, servers: str) -> str:
    """An error of aiokafka in one sentence that says what to do."""
    text = str(error).strip() or type(error).__name__
    if isinstance(error, errors.AuthenticationFailedError | errors.SaslAuthenticationFailed):
        return f"Kafka at {servers} refuses user name or password: {text}"
    if isinstance(error, errors.UnsupportedSaslMechanismError):
        return f"Kafka at {servers} does not know the SASL mechanism: {text}"
    if isinstance(error, errors.TopicAuthorizationFailedError):
        topic = _named(error)
        return (
            f"Kafka at {servers} does not let us use topic {topic}; grant the user Describe on it, "
            "and Read or Write"
        )
    if isinstance(error, errors.GroupAuthorizationFailedError):
        group = _named(error)
        return f"Kafka at {servers} does not let us use group {group}; grant the user Read on it"
    if isinstance(error, errors.TransactionalIdAuthorizationFailed):
        return (
            f"Kafka at {servers} does not let us use our transactional ids; grant the user Write "
            "and Describe on transactional ids that begin with 'streamline/'"
        )
    if isinstance(error, errors.ClusterAuthorizationFailedError):
        return f"Kafka at {servers} does not let us write idempotently; grant IdempotentWrite"
    if isinstance(error, errors.ConcurrentTransactions):
        return f"Kafka at {servers} has not ended an earlier transaction yet: {text}"
    if isinstance(error, AWAY):
        return f"Kafka at {servers} cannot be reached: {text}"
    return f"Kafka at {servers} failed by {type(error).__name__}: {text}"


def check_alive(client: Any) -> None:
    """See to it that aiokafka's client still looks after the brokers.

    Should the task that does so die, what waits for it would wait for ever.

    Raises:
        KafkaConnectionError: If it does not; a new client is needed.
    """
    task = client._sync_task
    if task is not None and task.done():
        raise errors.KafkaConnectionError(
            "the client has lost its way to the brokers; it is begun anew"
        )


def _named(error: BaseException) -> str:
    """What an error is about: aiokafka gives a name, or a set of names."""
    names = error.args[0] if error.args else ""
    return repr(names) if isinstance(names, str) else ", ".join(map(repr, sorted(names)))


async def retry(
    work: Callable[[], Awaitable[T]],
    *,
    what: str,
    servers: str,
    give_up_after_s: float,
) -> T:
    """Do something until Kafka is there; see :class:`Patience`.

    Raises:
        ConnectorError: For an error that does not go away, or when it is time to give up.
    """
    patience = Patience(
        what=what,
        system=f"Kafka at {servers}",
        away=AWAY,
        wrong=(errors.KafkaError,),
        explain=lambda error: explain(error, servers),
        give_up_after_s=give_up_after_s,
    )

    async def attempt() -> T:
        try:
            result = await work()
        except AWAY:
            refused = _refusals.take(servers)
            if isinstance(refused, ssl.SSLError):
                raise ConnectorError(
                    f"{what}: Kafka at {servers} cannot be talked to by TLS: {refused}; correct "
                    "ca_file=, or the broker's certificate"
                ) from refused
            if refused is not None:
                raise refused from None
            raise
        _refusals.forget(servers)
        return result

    return await patience.retry(attempt)
