"""KafkaSource: topics as streams of records, by partition, exactly once.

The description: it checks what the user has set, finds topics and partitions, and makes readers.
It reads no record itself; see ``reader``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from datetime import datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import for_code

from streamline.config import Duration, positive_duration_ms
from streamline.connectors.kafka.client import NO_SECURITY, OURS, KafkaSecurity, explain, retry
from streamline.connectors.kafka.reader import KafkaReader, ReadSettings
from streamline.connectors.kafka.record import KafkaRecord
from streamline.errors import ConnectorError, UsageError
from streamline.formats import Format
from streamline.io import Source, SourceReader

T = TypeVar("T")
Topics: TypeAlias = str | Sequence[str] | re.Pattern[str]
Start: TypeAlias = Literal["earliest", "latest", "committed"] | datetime
OnReset: TypeAlias = Literal["fail", "earliest", "latest"]
_UNKNOWN_TOPIC, _LEADER_AWAY = 3, 5


class KafkaSource(Source[T], Generic[T]):
    """Reads topics of Apache Kafka.

    Partitions are dealt out to the tasks by us, not by a consumer group, and where each stands
    is kept in the job's checkpoints. New partitions, and new topics that a pattern matches, are
    found while the job runs, and read from their beginning.

    A record without a value (a tombstone) is left out and counted as skipped;
    ``with_metadata()`` hands it over.

    Args:
        servers: Some brokers, ``"host:port,host:port"``.
        topic: A topic, several, or a pattern that whole names match, made by ``re.compile``.
        format: How a value is decoded.
        group: Offsets are also committed to this consumer group at each checkpoint, so that
            tools of Kafka can show the lag. Nothing is read from it, but by ``"committed"``.
        start: Where a job that starts from scratch begins: ``"earliest"``, ``"latest"``, what
            the group has ``"committed"`` (the earliest where there is nothing), or the first
            record at or behind a point in time.
        until: ``"latest"`` makes it bounded: each partition is read to what is its end when the
            job starts from scratch.
        isolation: ``"read_committed"`` sees only records of transactions that were committed.
        on_offset_reset: What happens when the next record is no longer there, because the topic
            does not keep it so long: ``"fail"``, since records are lost, or go on at the
            ``"earliest"`` or ``"latest"`` and say so.
        max_skew: A partition that is further ahead in event time than this is not read until
            the others have caught up, those of other tasks included, so that windows need not
            keep what it is ahead. It needs ``with_timestamps``; partitions without anything to
            read do not count. Tasks hear of each other some times a second: leave room for what
            the job catches up meanwhile.
        give_up_after: How long to try while no broker can be reached, when the job starts.
        fetch_bytes: Most bytes of one partition in one answer.
        security: Encryption, and who we are.

    Raises:
        UsageError: For a setting that cannot be.

    >>> import streamline as sl
    >>> source = KafkaSource("localhost:9092", topic="orders", format=sl.Json(), until="latest")
    >>> source.bounded
    True
    """

    def __init__(
        self,
        servers: str,
        *,
        topic: Topics,
        format: Format[T],
        group: str | None = None,
        start: Start = "earliest",
        until: Literal["latest"] | None = None,
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
        on_offset_reset: OnReset = "fail",
        max_skew: Duration | None = None,
        give_up_after: Duration = "5m",
        fetch_bytes: int = 1 << 20,
        security: KafkaSecurity = NO_SECURITY,
    ) -> None:
        if not isinstance(format, Format):
            raise UsageError(
                f"KafkaSource(format=...) needs a format such as sl.Json(), not {format!r}"
            )
        if isinstance(topic, Sequence) and not topic:
            raise UsageError("KafkaSource(topic=...) names no topic")
        _one_of("isolation", isolation, ("read_committed", "read_uncommitted"))
        _one_of("on_offset_reset", on_offset_reset, ("fail", "earliest", "latest"))
        _one_of("until", until, ("latest", None))
        if not isinstance(start, datetime):
            _one_of("start", start, ("earliest", "latest", "committed"))
        elif start.tzinfo is None:
            raise UsageError(f"start={start} has no time zone; add tzinfo=timezone.utc")
        if start == "committed" and group is None:
            raise UsageError('start="committed" needs group=')
        self.topic = topic
        self.settings = ReadSettings(
            servers=servers,
            format=format,
            group=group,
            start=start,
            bounded=until is not None,
            isolation=isolation,
            on_offset_reset=on_offset_reset,
            max_skew_ms=None if max_skew is None else positive_duration_ms(max_skew, "max_skew"),
            give_up_after_ms=positive_duration_ms(give_up_after, "give_up_after"),
            fetch_bytes=fetch_bytes,
            security=security,
        )

    def with_metadata(self) -> Source[KafkaRecord[T]]:
        """The same source with key, headers, timestamp and place beside each value.

        >>> import streamline as sl
        >>> source = KafkaSource("localhost:9092", topic="orders", format=sl.Json()).with_metadata()
        >>> orders = sl.Job("example").source("orders", source)
        >>> keys = orders.map(lambda record: record.key)
        """
        other: KafkaSource[Any] = copy(self)
        other.settings = replace(self.settings, metadata=True)
        return other

    @property
    def bounded(self) -> bool:
        return self.settings.bounded

    @property
    def dead_letters(self) -> bool:
        return self.settings.format.on_error == "dead_letter"

    async def discover(self) -> list[str]:
        return await retry(
            self._discover,
            what=f"reading {self.topic!r}",
            servers=self.settings.servers,
            give_up_after_s=self.settings.give_up_after_ms / 1000,
        )

    def reader(self) -> SourceReader[T]:
        return KafkaReader(self.settings)

    async def _discover(self) -> list[str]:
        admin = AIOKafkaAdminClient(
            bootstrap_servers=self.settings.servers,
            client_id=f"{OURS}discover",
            **self.settings.security.options(),
        )
        try:
            await admin.start()
            topics = await self._topics(admin)
            found = await admin.describe_topics(topics) if topics else []
        finally:
            await admin.close()
        names: list[str] = []
        for topic in sorted(found, key=lambda one: str(one["topic"])):
            self._check(topic)
            numbers = sorted(part["partition"] for part in topic["partitions"])
            names += [f"{topic['topic']}/{number}" for number in numbers]
        if not names and self.bounded:
            raise ConnectorError(f"no topic at {self.settings.servers} matches {self.topic!r}")
        return names

    async def _topics(self, admin: AIOKafkaAdminClient) -> list[str]:
        if isinstance(self.topic, str):
            return [self.topic]
        if not isinstance(self.topic, re.Pattern):
            return list(self.topic)
        return [name for name in await admin.list_topics() if self.topic.fullmatch(name)]

    def _check(self, topic: dict[str, Any]) -> None:
        name, code, servers = topic["topic"], topic["error_code"], self.settings.servers
        if code == _UNKNOWN_TOPIC:
            raise ConnectorError(
                f"there is no topic {name!r} at {servers}; create it, or correct topic="
            )
        if code not in (0, _LEADER_AWAY):
            raise ConnectorError(explain(for_code(code)(name), servers))


def _one_of(name: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        shown = ", ".join(repr(one) for one in allowed)
        raise UsageError(f"{name}={value!r} must be one of {shown}")
