"""Kafka: topics as sources and sinks, exactly once.

The public names of the connector. How records get in and out stands in ``reader`` and ``writer``;
only ``batches``, ``client`` and ``producer`` look inside aiokafka.
"""

from streamline.connectors.kafka.client import KafkaSecurity
from streamline.connectors.kafka.letters import dead_letters_to
from streamline.connectors.kafka.record import KafkaRecord
from streamline.connectors.kafka.sink import KafkaSink
from streamline.connectors.kafka.source import KafkaSource

__all__ = ["KafkaRecord", "KafkaSecurity", "KafkaSink", "KafkaSource", "dead_letters_to"]
