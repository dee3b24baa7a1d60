"""PostgreSQL: rows into a table, exactly once. Needs the extra ``postgres``.

The public name, and what is said when the extra is missing. How rows are staged and moved stands
in ``writer``.
"""

try:
    import psycopg as _psycopg  # noqa: F401
except ImportError as error:  # pragma: no cover - the development set-up has it
    raise ImportError(
        "PostgresSink needs psycopg; install it by: pip install 'streamline-engine[postgres]'"
    ) from error

from streamline.connectors.postgres.sink import PostgresSink

__all__ = ["PostgresSink"]
