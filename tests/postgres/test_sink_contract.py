"""PostgresSink keeps the contract of sinks, on a real server."""

import pytest

from streamline.connectors.postgres import PostgresSink
from streamline.testing import SinkContract
from tests.names import new_name


class _Contract(SinkContract):
    options = {}

    @pytest.fixture(autouse=True)
    def _place(self, database):
        self.database = database
        self.job = new_name("contract")
        self.table = database.table("n int primary key, text text, extra int default 7")

    def make_sink(self):
        return PostgresSink(self.database.dsn, table=self.table, **self.options)

    def visible(self):
        rows = self.database(f"select n, text from {self.table} where extra = 7")
        return [{"n": n, "text": text} for n, text in rows]

    def records(self, count):
        return [{"n": number, "text": f"record {number}"} for number in range(count)]


class TestInsert(_Contract):
    pass


class TestUpsert(_Contract):
    options = {"mode": "upsert", "key": "n"}


class TestAtLeastOnceUpsert(_Contract):
    options = {"mode": "upsert", "key": "n", "guarantee": "at-least-once"}


class TestAtLeastOnceInsert(_Contract):
    options = {"guarantee": "at-least-once"}
