"""Trying again while an outside system is away: pauses that grow, said once, given up in time.

Kafka and PostgreSQL share it, and it knows neither: which errors go away by themselves, and how
they are put into words, is told by the connector.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from streamline.errors import ConnectorError, OutageError

T = TypeVar("T")
log = logging.getLogger("streamline.connectors")
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0


@dataclass(frozen=True)
class Patience:
    """How a connector bears with an outage.

    Attributes:
        what: Who waits, for messages: ``source 'orders'``.
        system: For whom: ``Kafka at localhost:9092``.
        away: Errors that go away by themselves.
        wrong: Errors that do not.
        explain: An error in one sentence.
        give_up_after_s: After so long an outage is an error.
    """

    what: str
    system: str
    away: tuple[type[BaseException], ...]
    wrong: tuple[type[BaseException], ...]
    explain: Callable[[BaseException], str]
    give_up_after_s: float

    async def retry(self, work: Callable[[], Awaitable[T]]) -> T:
        """Do something until the system is there; said once when it is away, and when it is back.

        Args:
            work: What to do; it is begun anew each time.

        Raises:
            ConnectorError: For an error that does not go away.
            OutageError: When it is time to give up.
        """
        clock = asyncio.get_running_loop().time
        began, pause, away = clock(), _FIRST_PAUSE_S, False
        while True:
            try:
                result = await work()
            except self.away as error:
                reason = self.explain(error)
                if clock() - began >= self.give_up_after_s:
                    raise OutageError(
                        f"{self.what}: {reason}; given up after {self.give_up_after_s:g} s"
                    ) from error
                if not away:
                    away = True
                    log.warning("streamline: %s: %s; trying again", self.what, reason)
                await asyncio.sleep(pause * (0.5 + random.random()))
                pause = min(pause * 2, _LONGEST_PAUSE_S)
            except self.wrong as error:
                raise ConnectorError(f"{self.what}: {self.explain(error)}") from error
            else:
                if away:
                    log.warning("streamline: %s: %s is back", self.what, self.system)
                return result
