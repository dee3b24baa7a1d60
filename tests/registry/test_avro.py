"""Avro and JSON by a schema registry: what was written with one schema is read with another."""

import json
import pickle
import re

import pytest

import streamline as sl
from streamline.connectors.files import FileSink, FileSource
from streamline.errors import ConnectorError, DecodeError, EncodeError, OutageError, UsageError
from streamline.formats.registry import unpack
from tests.registry.server import FIRST, OTHER, SECOND


class Order(sl.Record):
    user: str
    amount: float
    note: str = "none"


def writing(registry, schema=FIRST, **options):
    return sl.Avro(registry=registry.url, schema=schema, subject="orders-value", **options)


ORDERS = [Order("a", 1.5), Order("b", 2.0)]


def test_there_and_back(registry):
    data = writing(registry).encode_many(ORDERS)
    assert [unpack(one)[0] for one in data] == [1, 1]
    assert sl.Avro(registry=registry.url).decode_many(data) == [
        {"user": "a", "amount": 1.5},
        {"user": "b", "amount": 2.0},
    ]
    reader = pickle.loads(pickle.dumps(sl.Avro(Order, registry=registry.url)))
    registry.asked.clear()
    assert reader.decode_many(data * 50) == ORDERS * 50
    assert registry.asked == ["/schemas/ids/1"]  # once, not for every record


def test_a_changed_schema(registry):
    old = writing(registry).encode_many(ORDERS)
    new = writing(registry, SECOND).encode_many([Order("c", 3.0, "new")])
    assert [unpack(one)[0] for one in old + new] == [1, 1, 2]
    as_second = sl.Avro(Order, registry=registry.url, schema=SECOND)
    assert as_second.decode_many(old + new) == [*ORDERS, Order("c", 3.0, "new")]
    as_first = sl.Avro(registry=registry.url, schema=FIRST)
    assert as_first.decode_many(new) == [{"user": "c", "amount": 3.0}]


def test_schemas_that_do_not_fit(registry):
    data = writing(registry).encode_many(ORDERS)
    with pytest.raises(DecodeError, match="schema 1 cannot be read as the one that is wanted"):
        sl.Avro(registry=registry.url, schema=OTHER).decode_many(data)
    with pytest.raises(ConnectorError, match="refuses the schema for subject 'orders-value'"):
        writing(registry, OTHER).encode_many(ORDERS)
    with pytest.raises(EncodeError, match="does not fit the Avro schema"):
        writing(registry).encode_many([{"user": 5}])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "does not begin with the number of a schema"),
        (b"\x01\x00\x00\x00\x01a", "does not begin with the number"),
        (b"\x00\x00\x00\x00\x63a", "has no schema 99"),
        (b"\x00\x00\x00\x00\x01", "not what schema 1 says"),
        (b"\x00\x00\x00\x00\x01\x7f", "not what schema 1 says"),
    ],
)
def test_bad_values(registry, data, message):
    good = writing(registry).encode_many(ORDERS)
    avro = sl.Avro(Order, registry=registry.url, on_error="skip")
    with pytest.raises(DecodeError, match=message):
        avro.decode_many([good[0], data])
    bad = []
    assert avro.decode_each([good[0], data, good[1]], lambda *what: bad.append(what)) == ORDERS
    assert [(place, item) for place, item, _ in bad] == [(1, data)]


def test_a_record_of_another_type(registry):
    class Strict(sl.Record):
        user: int

    data = writing(registry).encode_many(ORDERS)
    with pytest.raises(DecodeError, match="Expected `int`, got `str`"):
        sl.Avro(Strict, registry=registry.url).decode_many(data)


def test_a_registry_that_is_away_or_does_not_know_us(registry):
    away = sl.Avro(registry="http://127.0.0.1:1")
    with pytest.raises(OutageError, match="registry at http://127.0.0.1:1 cannot be asked"):
        away.decode_many([b"\x00\x00\x00\x00\x01a"])
    registry.broken = True
    with pytest.raises(OutageError, match="answers: not now"):
        sl.Avro(registry=registry.url).decode_many([b"\x00\x00\x00\x00\x01a"])
    registry.broken = False
    registry.password = "Basic YW5uOnNlY3JldA=="
    data = writing(registry).encode_many(ORDERS)
    with pytest.raises(ConnectorError, match="answers: who are you"):
        sl.Avro(registry=registry.url).decode_many(data)
    ann = sl.SchemaRegistry(registry.url, username="ann", password="secret")
    assert sl.Avro(Order, registry=ann).decode_many(data) == ORDERS
    assert "secret" not in repr(ann)


def test_wrong_settings(registry):
    with pytest.raises(UsageError, match="must begin with http"):
        sl.Avro(registry="localhost:8081")
    with pytest.raises(UsageError, match="not an Avro schema"):
        sl.Avro(registry=registry.url, schema={"type": "nothing"})
    with pytest.raises(UsageError, match="schema=...\\) is needed to write"):
        sl.Avro(registry=registry.url).encode_many(ORDERS)
    with pytest.raises(UsageError, match="subject=...\\) is needed to write"):
        sl.Avro(registry=registry.url, schema=FIRST).encode_many(ORDERS)


def test_json_by_the_registry(registry):
    json_ = sl.RegistryJson(Order, registry=registry.url, subject="orders-value")
    data = json_.encode_many(ORDERS)
    assert unpack(data[0]) == (1, b'{"user":"a","amount":1.5,"note":"none"}')
    assert pickle.loads(pickle.dumps(json_)).decode_many(data) == ORDERS
    assert "Order" in registry.schemas[0][0]
    with pytest.raises(DecodeError, match="does not begin with the number"):
        json_.decode_many([b"{}"])
    with pytest.raises(DecodeError, match="user"):
        json_.decode_many([data[0][:5] + b"{}"])


BAD_SCHEMAS = [
    ("{", "AVRO", "schema 2 of the registry is not an Avro schema: Expecting"),
    ('{"type": "nothing"}', "AVRO", "schema 2 of the registry is not an Avro schema: "),
    (json.dumps(OTHER), "AVRO", "schema 2 cannot be read as the one that is wanted"),
    ('{"type": "object"}', "JSON", "schema 2 .*is of kind JSON, not AVRO"),
]


@pytest.mark.parametrize(("schema", "kind", "message"), BAD_SCHEMAS)
def test_a_bad_schema_is_a_bad_value(registry, schema, kind, message):
    """It came with the record; the job's settings are not to blame."""
    good = writing(registry).encode_many(ORDERS)
    registry.schemas.append((schema, kind))
    bad = b"\x00\x00\x00\x00\x02\x02a"
    avro = sl.Avro(Order, registry=registry.url, schema=FIRST)
    with pytest.raises(DecodeError, match=message):
        avro.decode_many([good[0], bad])
    told = []
    found = avro.decode_each([good[0], bad, good[1], bad], lambda *what: told.append(what))
    assert found == ORDERS
    assert [(place, item) for place, item, _ in told] == [(1, bad), (3, bad)]
    assert all(re.search(message, reason) for _, _, reason in told)


def test_json_with_a_wrong_number(registry):
    json_ = sl.RegistryJson(Order, registry=registry.url, subject="orders-value")
    good = json_.encode_many(ORDERS)
    writing(registry).encode_many(ORDERS)
    unknown, avro = b"\x00\x00\x00\x00\x63" + good[0][5:], b"\x00\x00\x00\x00\x02" + good[0][5:]
    with pytest.raises(DecodeError, match="has no schema 99"):
        json_.decode_many([good[0], unknown])
    with pytest.raises(DecodeError, match="schema 2 .* is of kind AVRO, not JSON"):
        json_.decode_many([avro])
    told = []
    assert json_.decode_each([*good, unknown, avro], lambda *what: told.append(what)) == ORDERS
    assert [item for _, item, _ in told] == [unknown, avro]
    registry.asked.clear()
    json_.decode_each(good * 50 + [unknown] * 50, lambda *what: None)
    assert registry.asked == ["/schemas/ids/99"]  # once in a batch, since it may come to be there


def test_values_in_files_could_not_be_told_apart(registry, tmp_path):
    for format in (writing(registry), sl.RegistryJson(registry=registry.url)):
        for make in (FileSource, FileSink):
            with pytest.raises(UsageError, match="cannot be told apart in a file; use sl.Json"):
                make(tmp_path, format=format)
