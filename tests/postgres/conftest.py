"""One server for the whole session, one table for each test."""

import psycopg
import pytest

from tests.names import new_name


class Database:
    """What tests do beside the connector."""

    def __init__(self, dsn):
        self.dsn = dsn

    def __call__(self, text, *values):
        """Run a statement; its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(text, values or None)
            return cursor.fetchall() if cursor.description else []

    def table(self, columns):
        """A new table; its name."""
        name = new_name("table")
        self(f"create table {name} ({columns})")
        return name

    def leftovers(self):
        """Staging tables that hold rows, and connections of ours."""
        stages = self("select relname from pg_class where relname ~ '^streamline_[0-9a-f]{8}_'")
        full = [name for (name,) in stages if self(f"select 1 from {name} limit 1")]
        connections = self(
            "select application_name from pg_stat_activity where application_name like 'streamline/%'"
        )
        return full, connections


@pytest.fixture
def database(postgres):
    return Database(postgres.dsn)
