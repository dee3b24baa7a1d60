"""Protobuf: messages become values and values messages, alone and with a schema registry."""

import base64
import datetime
import enum
import pickle

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

import streamline as sl
from streamline.connectors.files import FileSink
from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats.registry import pack, unpack
from tests.registry import messages

AT = datetime.datetime(2024, 5, 1, 12, 30, tzinfo=datetime.UTC)
FULL = {
    "user": "ann",
    "amount": 2.5,
    "note": "soon",
    "tags": ["a", "b"],
    "lines": [{"item": "tea", "pieces": 2**62}, {"item": "", "pieces": 0}],
    "counts": {"x": 1, "y": -1},
    "by_place": {3: {"item": "cup", "pieces": 1}},
    "state": "PAID",
    "at": AT,
    "raw": b"\x00\xff",
    "parent": {
        "user": "bob",
        "amount": 0.0,
        "tags": [],
        "lines": [],
        "counts": {},
        "by_place": {},
        "state": "OPEN",
        "raw": b"",
        "states": [],
    },
    "states": ["OPEN", "PAID"],
}


class State(enum.Enum):
    OPEN = "OPEN"
    PAID = "PAID"


class Order(sl.Record):
    user: str
    amount: float
    note: str = "none"
    state: State = State.OPEN
    at: datetime.datetime | None = None


def deep(levels):
    value = {}
    for _ in range(levels):
        value = {"parent": value}
    return value


def test_there_and_back():
    plain = sl.Protobuf(messages.Order)
    (data,) = plain.encode_many([FULL])
    assert plain.decode_many([data]) == [FULL]
    message = messages.Order.FromString(data)
    assert (message.user, message.state, message.at.seconds) == ("ann", 1, AT.timestamp())
    assert message.lines[0].pieces == 2**62 and message.by_place[3].item == "cup"
    assert plain.encode_many([message]) == [data]  # one may hand on the message itself
    again = pickle.loads(pickle.dumps(plain))
    assert again.decode_one(data) == FULL


def test_records():
    orders = sl.Protobuf(messages.Order, Order)
    given = [Order("ann", 1.5), Order("bob", 2.0, "soon", State.PAID, AT)]
    data = orders.encode_many(given)
    assert orders.decode_many(data) == given
    assert sl.Protobuf(messages.Order).decode_one(data[0])["note"] == "none"  # it was written
    bare = messages.Order(user="ann").SerializeToString()
    assert orders.decode_one(bare) == Order("ann", 0.0)  # what is absent has the Record's default


def test_a_message_that_is_there_though_nothing_is_in_it():
    orders = sl.Protobuf(messages.Order)
    (data,) = orders.encode_many([{"parent": {}}])
    assert "parent" in orders.decode_one(data)
    assert "parent" not in orders.decode_one(orders.encode_many([{"parent": None}])[0])


class Paid(sl.Record):
    card: str | None = None
    cash: int | None = None


def test_one_of_several():
    paid = sl.Protobuf(messages.Order, Paid)
    given = [Paid(card="x"), Paid(cash=0), Paid()]
    assert paid.decode_many(paid.encode_many(given)) == given
    with pytest.raises(EncodeError, match=r"Order\.cash cannot be set beside 'card': of 'how' one"):
        paid.encode_many([Paid("x", 0)])


def test_a_required_field_that_is_missing():
    old = sl.Protobuf(messages.Needing)
    with pytest.raises(DecodeError, match=r"not old\.Order: a required field is missing"):
        old.decode_one(b"")
    with pytest.raises(EncodeError, match="missing required fields: user"):
        old.encode_many([{}])


def test_a_member_of_an_enum_that_is_not_known_stays_a_number():
    data = messages.Order(state=7, states=[1, 9]).SerializeToString()
    found = sl.Protobuf(messages.Order).decode_one(data)
    assert (found["state"], found["states"]) == (7, ["PAID", 9])
    with pytest.raises(DecodeError, match=r"Expected `str`, got `int` - at `\$.state`"):
        sl.Protobuf(messages.Order, Order).decode_one(data)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"usr": "a"}, "shop.Order has no field 'usr'"),
        ({"user": 5}, "shop.Order.user cannot be 5"),
        ({"amount": "much"}, "shop.Order.amount cannot be 'much'"),
        ({"tags": "ab"}, "shop.Order.tags cannot be 'ab': a list is needed"),
        ({"tags": [1]}, r"shop.Order.tags cannot be \[1\]"),
        ({"lines": [{"item": 5}]}, "shop.Order.Line.item cannot be 5"),
        ({"lines": [5]}, "shop.Order.Line is written from a Record or a dict, not 5"),
        ({"counts": {"x": 2**63}}, "shop.Order.counts cannot be"),
        ({"counts": [1]}, "shop.Order.counts cannot be"),
        ({"by_place": {"x": {}}}, "shop.Order.by_place cannot be"),
        ({"state": "GONE"}, "shop.Order.state cannot be 'GONE'"),
        ({"at": "today"}, "Timestamp is written from a Record or a dict, not 'today'"),
        ("ann", "shop.Order is written from a Record or a dict, not 'ann'"),
        (None, "shop.Order is written from a Record or a dict, not None"),
        (object(), "a value cannot be written"),
        (deep(100_000), "a value cannot be written: it is nested too deeply"),
        (messages.Refund(), "a value cannot be written"),
    ],
)
def test_values_that_do_not_fit(value, message):
    with pytest.raises(EncodeError, match=message):
        sl.Protobuf(messages.Order).encode_many([{"user": "good"}, value])


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff",
        b"\x0a\x05a",
        messages.Order(user="ann").SerializeToString()[:-1],
        b"\x4a\x0b\x08\x80\x80\x80\x80\x80\x80\x80\x80\x7f",  # a time there is not
    ],
)
def test_bad_values(data):
    orders = sl.Protobuf(messages.Order, Order, on_error="skip")
    with pytest.raises(DecodeError, match="the value is not shop.Order: "):
        orders.decode_one(data)
    good = orders.encode_many([Order("ann", 1.0)])[0]
    bad = []
    found = orders.decode_each([good, data, good], lambda *what: bad.append(what[:2]))
    assert (found, bad) == ([Order("ann", 1.0)] * 2, [(1, data)])


@pytest.mark.parametrize("message", [Order, dict, None, messages.Order()])
def test_what_is_no_class_of_messages(message):
    with pytest.raises(UsageError, match="a class of messages that protoc has generated"):
        sl.Protobuf(message)


def test_files_could_not_tell_them_apart(tmp_path):
    with pytest.raises(UsageError, match="Protobuf"):
        FileSink(tmp_path, format=sl.Protobuf(messages.Order))


# ------------------------------------------------------------------ registry


def writing(registry, message=messages.Order, **options):
    return sl.RegistryProtobuf(message, registry=registry.url, subject="orders-value", **options)


def test_by_the_registry(registry):
    data = writing(registry).encode_many([Order("a", 1.5), Order("b", 2.0)])
    assert [unpack(one)[0] for one in data] == [1, 1]
    assert all(unpack(one)[1].startswith(b"\0\n\1") for one in data)  # the first message, its user
    schema, kind = registry.schemas[0]
    assert kind == "PROTOBUF"
    file = FileDescriptorProto.FromString(base64.b64decode(schema))
    assert [message.name for message in file.message_type] == ["Order", "Refund"]
    reading = sl.RegistryProtobuf(messages.Order, Order, registry=registry.url)
    reading = pickle.loads(pickle.dumps(reading))
    registry.asked.clear()
    assert reading.decode_many(data * 50) == [Order("a", 1.5), Order("b", 2.0)] * 50
    assert registry.asked == ["/schemas/ids/1?format=serialized"]
    long = data[0].replace(b"\0\n\1", b"\2\0\n\1")  # as some write the first message
    assert reading.decode_one(long) == Order("a", 1.5)


def test_the_text_of_a_schema_may_be_given(registry):
    writing(registry, schema='syntax = "proto3";').encode_many([{}])
    assert registry.schemas == [('syntax = "proto3";', "PROTOBUF")]


@pytest.mark.parametrize(
    ("message", "path"),
    [(messages.Order, b"\0"), (messages.Refund, b"\2\2"), (messages.Why, b"\4\2\0")],
)
def test_which_message_of_its_file(registry, message, path):
    (data,) = writing(registry, message).encode_many([{}])
    assert unpack(data)[1] == path
    for other in (messages.Order, messages.Refund, messages.Why):
        reading = sl.RegistryProtobuf(other, registry=registry.url)
        if other is message:
            reading.decode_one(data)
        else:
            with pytest.raises(DecodeError, match="but another message of schema 1"):
                reading.decode_one(data)


def test_the_order_of_messages_is_that_of_the_schema(registry):
    """A schema may have them in another order than the class that reads."""
    (order,) = writing(registry, messages.SwappedOrder).encode_many([{"user": "ann"}])
    (refund,) = writing(registry, messages.SwappedRefund).encode_many([{"user": "ann"}])
    assert (unpack(order)[1][:2], unpack(refund)[1][:1]) == (b"\2\2", b"\0")
    reading = sl.RegistryProtobuf(messages.Order, Order, registry=registry.url)
    assert reading.decode_one(order) == Order("ann", 0.0)
    with pytest.raises(DecodeError, match="but another message of schema 1"):
        reading.decode_one(refund)


def test_a_schema_without_the_message(registry):
    (data,) = writing(registry, messages.Needing).encode_many([{"user": "ann"}])
    reading = sl.RegistryProtobuf(messages.Order, Order, registry=registry.url)
    with pytest.raises(DecodeError, match=r"schema 1 .* has no message shop\.Order"):
        reading.decode_one(data)


def test_a_registry_that_has_nothing_but_text(registry):
    given = [Order("a", 1.5)]
    data = writing(registry, schema='syntax = "proto3"; message Order {}').encode_many(given)
    reading = sl.RegistryProtobuf(messages.Order, Order, registry=registry.url)
    assert reading.decode_many(data) == given


def test_bad_values_of_the_registry(registry):
    good = writing(registry).encode_many([Order("a", 1.5)])[0]
    sl.RegistryJson(Order, registry=registry.url, subject="x").encode_many([Order("a", 1.0)])
    reading = sl.RegistryProtobuf(messages.Order, Order, registry=registry.url, on_error="skip")
    wrong = {
        b"": "does not begin with the number",
        pack(1, b""): "another message",
        pack(1, b"\0\xff"): "the value is not shop.Order",
        pack(2, b"\0"): "schema 2 .* is of kind JSON, not PROTOBUF",
        pack(9, b"\0"): "has no schema 9",
    }
    for data, message in wrong.items():
        with pytest.raises(DecodeError, match=message):
            reading.decode_many([good, data])
    bad = []
    found = reading.decode_each([good, *wrong, good], lambda *what: bad.append(what[1]))
    assert (found, bad) == ([Order("a", 1.5)] * 2, list(wrong))


def test_writing_needs_a_subject(registry):
    with pytest.raises(UsageError, match=r"needs subject="):
        sl.RegistryProtobuf(messages.Order, registry=registry.url).encode_many([{}])
