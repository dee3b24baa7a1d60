"""Failures of writing, in sentences that say what to do.

Pure: an error or the end of a transaction in, words out. Whether the job fails by them is the
writer's to decide.
"""

from __future__ import annotations

from aiokafka import errors

from streamline.connectors.kafka.client import AWAY, explain
from streamline.connectors.kafka.transactions import Outcome, Prepared
from streamline.errors import ConnectorError, OutageError

ENDED = (
    errors.ProducerFenced,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
    errors.InvalidTxnState,
)
"""The transaction of a producer is not there any more."""


def lost(what: str, prepared: Prepared, outcome: Outcome) -> str:
    """Of a transaction that a checkpoint covers, has not been committed and cannot be."""
    where = ", ".join(str(partition) for partition in sorted(prepared.ends))
    if outcome is Outcome.ABORTED:
        became = (
            "was aborted by the broker, since nobody committed it in time, or by hand: its "
            "records are lost; transaction_timeout must be longer than a job may be down"
        )
    else:
        became = "is gone, and the topic no longer tells what became of it: its records may be lost"
    return (
        f"{what}: the transaction of checkpoint {prepared.checkpoint}, topic {prepared.topic!r}, "
        f"partitions {where} ({prepared.id}) {became}"
    )


def broken(
    what: str,
    error: errors.KafkaError,
    *,
    servers: str,
    topic: str,
    batch_bytes: int,
    transaction_timeout_ms: int,
) -> ConnectorError:
    """Of records that could not be sent."""
    if isinstance(error, errors.MessageSizeTooLargeError | errors.RecordListTooLargeError):
        return ConnectorError(
            f"{what}: a record batch is larger than topic {topic!r} takes: {error}; raise "
            f"max.message.bytes of the topic, lower batch_bytes={batch_bytes}, or write smaller "
            "records"
        )
    if isinstance(error, ENDED):
        return ConnectorError(
            f"{what}: Kafka has ended a transaction under way: it was open for longer than "
            f"transaction_timeout, {transaction_timeout_ms / 1000:g} s, or somebody else has "
            "ended it"
        )
    if isinstance(error, errors.InvalidTimestampError):
        return ConnectorError(
            f"{what}: topic {topic!r} does not take records whose event time is so old; raise "
            "message.timestamp.before.max.ms of the topic, or give it "
            "message.timestamp.type=LogAppendTime"
        )
    kind = OutageError if isinstance(error, AWAY) else ConnectorError
    return kind(f"{what}: {explain(error, servers)}")
