"""The examples on Kafka and PostgreSQL, on real servers, against sums computed here."""

import asyncio
import json
import random
from collections import defaultdict

import psycopg
import pytest

from examples import kafka_spend, kafka_to_postgres, replay_dead_letters
from streamline.engines.inline import InlineEngine
from streamline.state.memory import MemoryStore
from streamline.state.store import DirectoryStore
from tests.kafka.topics import create, read_all, send
from tests.names import new_name

START_MS = 1_700_000_000_000


def run(job, folder):
    status = InlineEngine(
        job.graph(),
        store=DirectoryStore(folder / "checkpoints"),
        open_kv=MemoryStore.open,
        directory=folder / "live",
        parallelism=2,
    ).run()
    assert str(status.state) == "finished", status.reason


@pytest.fixture
def topics(kafka):
    """Orders, three of them with a bad amount; names of topics."""
    rng = random.Random(1)
    orders = [
        {"user": f"u{rng.randrange(5)}", "amount": rng.randrange(1, 9), "at": START_MS + n * 100}
        for n in range(500)
    ]
    values = [json.dumps(order).encode() for order in orders]
    bad = [json.dumps({**orders[n], "amount": "7"}).encode() for n in (3, 4)] + [b"not json"]
    names = {kind: new_name(kind) for kind in ("in", "out", "bad", "back")}

    async def fill():
        for name in names.values():
            await create(kafka.servers, name, 2)
        await send(kafka.servers, names["in"], values)
        await send(kafka.servers, names["in"], bad, 1)

    asyncio.run(fill())
    sums = defaultdict(int)
    for order in orders:
        sums[order["user"], order["at"] - order["at"] % 10_000] += order["amount"]
    return names, dict(sums)


def values_of(servers, topic):
    return [json.loads(one.value) for one in asyncio.run(read_all(servers, topic))]


def test_spend_and_dead_letters(kafka, topics, tmp_path):
    names, sums = topics
    servers = kafka.servers
    run(kafka_spend.job(servers, names["in"], names["out"], names["bad"], "latest"), tmp_path / "1")
    found = {
        (one["key"], one["window_start"]): one["total"] for one in values_of(servers, names["out"])
    }
    assert found == sums
    letters = asyncio.run(read_all(servers, names["bad"]))
    assert len(letters) == 3
    headers = dict(next(one for one in letters if one.value == b"not json").headers)
    assert headers["partition"].decode() == f"{names['in']}/1"
    assert headers["offset"] == b"2"
    assert headers["node"] == b"orders"
    assert b"malformed" in headers["reason"]
    run(replay_dead_letters.job(servers, names["bad"], names["back"]), tmp_path / "2")
    assert [one["amount"] for one in values_of(servers, names["back"])] == [7.0, 7.0]


def test_into_a_table(kafka, postgres, topics, tmp_path):
    names, _ = topics
    table = new_name("spend")
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        connection.execute(
            f"create table {table} (key text, window_start int8, window_end int8, total float8, "
            "orders int8, primary key (key, window_start))"
        )
        source = names["back"]
        asyncio.run(
            send(kafka.servers, source, [b'{"user":"a","amount":2,"at":1700000000000}'] * 3)
        )
        job = kafka_to_postgres.job(kafka.servers, postgres.dsn, source, table, "latest")
        run(job, tmp_path)
        rows = connection.execute(
            f"select key, window_start, total, orders from {table}"
        ).fetchall()
    assert rows == [("a", START_MS, 6.0, 3)]
