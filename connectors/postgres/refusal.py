"""Refusal: whether a server that was reached will not have us, in whatever language it says so.

libpq keeps the SQLSTATE of a failed connection to itself. What it does tell is whether a server
takes connections at all; one that does, and still takes none of ours, refuses us. It knows
nothing of writers.
"""

from __future__ import annotations

import asyncio

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo

_TIMES = 5
"""A server may have come up between two questions; it is not caught in that so often in a row."""
_PING_WITHIN_S = 3
_REFUSALS = (
    "authentication failed",
    "no password supplied",
    "pg_hba.conf",
    "does not exist",
    "is not permitted to log in",
    "permission denied for database",
    "certificate verify failed",
    "server does not support SSL",
)
_PASSING = ("too many", "connection slots", "starting up", "shutting down")


class Refusal:
    """What comes of the attempts to connect to one server.

    Args:
        dsn: How to connect.
    """

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._in_a_row = 0

    async def met(self, error: psycopg.OperationalError) -> bool:
        """Whether an attempt that came to this need not be repeated.

        What is known by its English words is known at once. The rest takes some attempts; a
        server that has no connection left, and says so in another language, is taken for one
        that refuses.
        """
        text = str(error)
        if any(words in text for words in _REFUSALS):
            return True
        if any(words in text for words in _PASSING) or not await self._answers():
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        return self._in_a_row >= _TIMES

    async def _answers(self) -> bool:
        dsn = make_conninfo(self._dsn, connect_timeout=_PING_WITHIN_S)
        return await asyncio.to_thread(pq.PGconn.ping, dsn.encode()) == pq.Ping.OK
