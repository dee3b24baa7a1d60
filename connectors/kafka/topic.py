"""Topic: what brokers tell of the topic that is written to, before the first record.

It asks once and is done; it knows neither producers nor transactions, only what would make them
fail later.
"""

from __future__ import annotations

from aiokafka import errors
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from streamline.connectors.kafka.client import OURS, KafkaSecurity
from streamline.errors import ConnectorError, UsageError


async def look_at_topic(
    servers: str,
    topic: str,
    *,
    what: str,
    security: KafkaSecurity,
    transaction_timeout_ms: int | None,
) -> int:
    """How many partitions a topic has.

    Args:
        servers: Some brokers.
        topic: Its name.
        what: Who wants to write there, for messages.
        security: Encryption, and who we are.
        transaction_timeout_ms: What the broker must allow; None writes without transactions.

    Raises:
        ConnectorError: If there is no such topic.
        UsageError: If the broker does not allow the timeout.
        KafkaError: If it refuses us, or cannot be reached.
    """
    admin = AIOKafkaAdminClient(
        bootstrap_servers=servers, client_id=f"{OURS}look", **security.options()
    )
    try:
        await admin.start()
        (found,) = await admin.describe_topics([topic])
        if found["error_code"] == errors.UnknownTopicOrPartitionError.errno:
            raise ConnectorError(
                f"{what}: there is no topic {topic!r} at {servers}; create it, or correct topic="
            )
        if found["error_code"] != 0:
            raise errors.for_code(found["error_code"])(topic)
        if transaction_timeout_ms is not None:
            await _check_timeout(admin, what, transaction_timeout_ms)
    finally:
        await admin.close()
    return len(found["partitions"])


async def _check_timeout(admin: AIOKafkaAdminClient, what: str, wanted_ms: int) -> None:
    (node,) = {broker["node_id"] for broker in (await admin.describe_cluster())["brokers"][:1]}
    resource = ConfigResource(
        ConfigResourceType.BROKER, str(node), configs={"transaction.max.timeout.ms": None}
    )
    (answer,) = await admin.describe_configs([resource])
    code, _, _, _, entries = answer.resources[0]
    limits = [int(entry[1]) for entry in entries if entry[0] == "transaction.max.timeout.ms"]
    if code == 0 and limits and wanted_ms > limits[0]:
        raise UsageError(
            f"{what}: transaction_timeout={wanted_ms} ms is longer than the broker allows, "
            f"{limits[0]} ms; lower it, or raise transaction.max.timeout.ms of the broker"
        )
