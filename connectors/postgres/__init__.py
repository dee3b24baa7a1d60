"""PostgreSQL: rows into a table, exactly once. Needs the extra ``postgres``."""

try:
    import psycopg as _psycopg  # noqa: F401
except ImportError as error:  # pragma: no cover - the development set-up has it
    raise ImportError(
        "PostgresSink needs psycopg; install it by: pip install 'streamline-engine[postgres]'"
    ) from error

from streamline.connectors.postgres.sink import PostgresSink

__all__ = ["PostgresSink"]
