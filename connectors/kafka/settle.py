"""See and settle, by hand, what a job that will not come back has left open at a broker.

For ``streamline txn``. It touches only ids of streamline's own, and runs beside no job: whether a
transaction may be ended is for the person to know, who is shown all that the broker knows of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from aiokafka import errors

from streamline.connectors.kafka.client import AWAY, KafkaSecurity, explain
from streamline.connectors.kafka.transactions import (
    OPEN_STATES,
    Listed,
    Prepared,
    Transactions,
    parse_id,
)
from streamline.errors import ConnectorError, UsageError

T = TypeVar("T")
_PATIENCE_S = 15.0


async def list_transactions(
    servers: str, security: KafkaSecurity, *, job: str | None = None, idle: bool = False
) -> list[Listed]:
    """Transactions of streamline's jobs, with all that the broker knows of them.

    Args:
        servers: Some brokers.
        security: Encryption, and who we are.
        job: Only those of this job.
        idle: Also ids without an open transaction.

    Raises:
        ConnectorError: If Kafka cannot be reached or does not let us.
    """

    async def work(transactions: Transactions) -> list[Listed]:
        found = [one for one in await transactions.listed(job) if idle or one.state in OPEN_STATES]
        told = [await transactions.describe(one.id) for one in found]
        return [one for one in told if one is not None]

    return await _with(servers, security, work)


async def end_transactions(
    servers: str, security: KafkaSecurity, names: Sequence[str], *, commit: bool
) -> list[tuple[str, str]]:
    """Commit or abort open transactions by their ids.

    Returns:
        Each id, and what was done: ``committed``, ``aborted``, or why nothing was.

    Raises:
        UsageError: If an id is not one of streamline's.
        ConnectorError: If Kafka cannot be reached or does not let us.
    """
    for name in names:
        if parse_id(name) is None:
            raise UsageError(f"{name!r} is no transactional id of streamline; see txn list")

    async def work(transactions: Transactions) -> list[tuple[str, str]]:
        return [(name, await _end(transactions, name, commit=commit)) for name in names]

    return await _with(servers, security, work)


async def _end(transactions: Transactions, name: str, *, commit: bool) -> str:
    there = await transactions.describe(name)
    if there is None:
        return "the broker does not know it"
    if there.state not in OPEN_STATES:
        return f"nothing is open ({there.state})"
    open_one = Prepared(name, there.producer_id, there.producer_epoch, "", 0, {})
    ended = await transactions.end(open_one, commit=commit)
    if not ended:
        return "somebody else has ended it meanwhile"
    return "committed" if commit else "aborted"


async def _with(
    servers: str, security: KafkaSecurity, work: Callable[[Transactions], Awaitable[T]]
) -> T:
    transactions = Transactions(servers, security, patience_s=_PATIENCE_S)
    try:
        await transactions.open()
        return await work(transactions)
    except (errors.KafkaError, *AWAY) as error:
        raise ConnectorError(explain(error, servers)) from error
    finally:
        await transactions.close()
