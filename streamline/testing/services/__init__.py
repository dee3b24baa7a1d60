"""Real servers for tests: each is started on loopback, and is gone when the test is.

Nothing here is imported by ``streamline.testing`` itself. A server that cannot be started raises
:class:`ServiceUnavailableError`, whose message says what is missing.
"""

from streamline.testing.services.kafka import KafkaBroker
from streamline.testing.services.postgres import PostgresServer
from streamline.testing.services.process import ServiceUnavailableError

__all__ = ["KafkaBroker", "PostgresServer", "ServiceUnavailableError"]
