"""Formats: what is written comes back, what is bad is said, batches decode as values do."""

import datetime
import enum
import random
from typing import Any

import pytest

import streamline as sl
from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats import Csv, Format, Json, MsgPack, Raw, Text
from tests.names import shown


class Level(enum.Enum):
    HIGH = "high"


class Order(sl.Record):
    user: str
    amount: float
    paid: bool = False
    note: int | None = None


class Pair(sl.Record):
    a: str
    b: str


class Timed(sl.Record):
    at: datetime.datetime
    count: int


class Leveled(sl.Record):
    level: Level


class Nested(sl.Record):
    order: Order
    tags: list[str]


ORDERS = [Order("ada", 1.5, True, 3), Order("über", -2.0), Order('a,"b"', 1e300, False, None)]
PLAIN: list[Any] = [{"a": 1}, [1, "x", None], "text", 5, 1.5, True, None, {"deep": {"er": [{}]}}]

ROUND_TRIPS: dict[str, tuple[Any, list[Any]]] = {
    "json": (Json(), PLAIN),
    "json typed": (Json(Order), ORDERS),
    "json nested": (Json(Nested), [Nested(ORDERS[0], ["a"]), Nested(ORDERS[1], [])]),
    "msgpack": (MsgPack(), [*PLAIN, b"\n\xff", 10]),
    "msgpack typed": (MsgPack(Order), ORDERS),
    "csv": (Csv(Order), ORDERS),
    "csv without header": (Csv(Order, header=False, delimiter=";"), ORDERS),
    "csv timed": (Csv(Timed), [Timed(datetime.datetime(2024, 2, 29, 12, 30), 1 << 60)]),
    "csv enum": (Csv(Leveled), [Leveled(Level.HIGH)]),
    "json enum": (Json(Leveled), [Leveled(Level.HIGH)]),
    "text": (Text(), ["a", "über", "with, comma", "\ttab"]),
    "raw": (Raw(), [b"a", b"\xff\0", b"two words"]),
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_what_is_written_comes_back(name: str) -> None:
    format, values = ROUND_TRIPS[name]
    data = format.encode_many(values)
    assert len(data) == len(values)
    assert [format.decode_one(item) for item in data] == values
    assert format.decode_many(data) == values
    assert format.decode_each(data, bad=pytest.fail) == values


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_a_file_of_values_comes_back(name: str) -> None:
    format, values = ROUND_TRIPS[name]
    data = format.encode_lines(values)
    separator = format.separator
    assert data == b"".join(item + separator for item in format.encode_many(values))
    if separator:  # else whoever reads cuts the values apart
        assert format.decode_lines(data) == values
        assert format.decode_lines(b"\n" + data + b"\n") == values  # empty lines are none


def test_text_lines_keep_their_spaces() -> None:
    assert Text().decode_lines(b" a \n\t\n\nb") == [" a ", "\t", "b"]
    assert Raw().decode_lines(b" a \n \n\n\rb") == [b" a ", b" ", b"\rb"]


PIECES = (b"1", b"{}", b'{"a":', b"[", b"2]", b"]", b",", b"}", b'"x"', b'"', b" ", b"\r", b"\n")


@pytest.mark.parametrize("seed", range(30))
def test_a_line_means_the_same_whatever_lines_stand_beside_it(seed: int) -> None:
    rng = random.Random(seed)
    csv: Format[Any] = Csv(Pair, header=False)
    for _ in range(300):
        joined = b"".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 12)))
        for format, data in ((Json(), joined), (csv, joined.replace(b"1", b"1,1"))):
            lines = [line for line in data.split(b"\n") if line.strip()]
            bad: list[int] = []
            values = format.decode_each(lines, lambda place, item, why: bad.append(place))
            for decode, of in ((format.decode_lines, data), (format.decode_many, lines)):
                if bad:
                    with pytest.raises(DecodeError):
                        decode(of)  # type: ignore[operator]
                else:
                    assert decode(of) == values  # type: ignore[operator]


@pytest.mark.parametrize(
    ("format", "data"),
    [
        (Json(), b"1 2\n3"),
        (Json(), b"1 2\n[3,\n4]"),
        (Json(), b'1 2\n{"a"\n:4}\n5\n'),
        (Json(), b"1 2\n[3\r\n]\r\n5"),
        (Csv(Order), b'ada,1,true,"\n",2,true,'),
    ],
    ids=str,
)
def test_lines_that_are_not_one_value_each_are_bad(format: Format[Any], data: bytes) -> None:
    with pytest.raises(DecodeError):
        format.decode_lines(data)


def test_lines_of_csv_between_tabs_may_be_empty() -> None:
    found = Csv(Optional, header=False, delimiter="\t").decode_lines(b"a\t1\n\t\n")
    assert found == [Optional("a", 1), Optional(None, None)]


BAD: list[tuple[Format[Any], bytes, str]] = [
    (Json(), b"{", "input data was truncated"),
    (Json(), b"", "input data was truncated"),
    (Json(), b'"\xff"', "utf-8"),
    (Json(), b"1 2", "malformed"),
    (Json(Order), b'{"user":"a"}', "missing required field `amount`"),
    (Json(Order), b'{"user":1,"amount":1}', r"expected `str`, got `int` - at `\$.user`"),
    (Json(Order), b"[]", "expected `object`, got `array`"),
    (MsgPack(), b"\xc1", "malformed"),
    (MsgPack(), b"", "truncated"),
    (MsgPack(), b"\x01\x02", "trailing"),
    (MsgPack(), b"\xa1\xff", "utf-8"),
    (MsgPack(Order), b"\x01", "(?i)expected `object`"),
    (Csv(Order), b"ada,1", r"2 values instead of 4 \(user, amount, paid, note\)"),
    (Csv(Order), b"", "0 values instead of 4"),
    (Csv(Order), b"ada,one,true,", r"expected `float`, got `str` - at `\$.amount`"),
    (Csv(Order), b'"ada,1,true,', "not a line of CSV"),
    (Csv(Order), b"\xff,1,true,", "not a line of CSV"),
    (Text(), b"\xff", "not UTF-8"),
]


@pytest.mark.parametrize(("format", "data", "said"), BAD, ids=lambda value: str(value)[:30])
def test_a_bad_value_says_why(format: Format[Any], data: bytes, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        format.decode_one(data)
    with pytest.raises(DecodeError):
        format.decode_many([data])


GOOD = {"Json": b'{"user":"a","amount":1}', "Csv": b"a,1,false,", "Text": b"a"}


@pytest.mark.parametrize(
    ("format", "good", "bad"),
    [
        (Json(), b"1", b"{"),
        (Json(), b"1", b""),
        (Json(), b"1", b"2\n3"),
        (Json(), b"1", b" "),
        (Json(Order), GOOD["Json"], b"{}"),
        (MsgPack(), b"\x01", b"\xc1"),
        (Csv(Order), GOOD["Csv"], b"a"),
        (Csv(Order), GOOD["Csv"], b'"a'),
        (Text(), b"a", b"\xff"),
    ],
    ids=str,
)
def test_one_bad_value_among_good_ones(format: Format[Any], good: bytes, bad: bytes) -> None:
    data = [good, bad, good]
    with pytest.raises(DecodeError):
        format.decode_many(data)
    told: list[tuple[int, bytes]] = []
    found = format.decode_each(data, lambda place, item, why: told.append((place, item)))
    assert found == format.decode_many([good, good])
    assert told == [(1, bad)]


@pytest.mark.parametrize(
    "data",
    [[b"{}", b" {} "], [b"1\n", b"2"], [b'{\n"a": 1}', b"2"], [b"\r\n1", b"2\r"]],
    ids=repr,
)
def test_json_values_may_have_space_around_and_inside(data: list[bytes]) -> None:
    """As many values as were given, or an error that sends the caller to look at each."""
    values = [Json().decode_one(item) for item in data]
    try:
        assert Json().decode_many(data) == values
    except DecodeError:
        assert Json().decode_each(data, bad=pytest.fail) == values


def test_json_columns_are_the_rows() -> None:
    format = Json(Order)
    data = format.encode_lines(ORDERS)
    columns = format.decode_columns(data)
    assert columns is not None
    assert columns.to_rows().values == format.decode_lines(data) == ORDERS
    assert [str(c.dtype) for c in columns.columns.values()] == [
        "object",
        "float64",
        "bool",
        "object",
    ]


@pytest.mark.parametrize("format", [Json(), MsgPack(Order), Csv(Order), Text(), Raw()], ids=str)
def test_other_formats_have_no_columns(format: Format[Any]) -> None:
    assert format.decode_columns(b"") is None


def test_json_columns_of_a_bad_line_are_an_error() -> None:
    with pytest.raises(DecodeError):
        Json(Order).decode_columns(b'{"user":"a","amount":1}\n{}\n')


# ---------------------------------------------------------------------- csv


def test_csv_header() -> None:
    assert Csv(Order).header == b"user,amount,paid,note\n"
    assert Csv(Order, delimiter=";").header == b"user;amount;paid;note\n"
    assert Csv(Order, header=False).header is None
    assert Json(Order).header is None


@pytest.mark.parametrize(
    ("line", "order"),
    [
        (b"ada,1,true,", Order("ada", 1.0, True, None)),
        (b"ada,1,1,5", Order("ada", 1.0, True, 5)),
        (b'"a,b",1e3,False,', Order("a,b", 1000.0, False, None)),
        (b'"say ""hi""",0,0,', Order('say "hi"', 0.0)),
        (b"ada,1,true,\r", Order("ada", 1.0, True, None)),
        (b",1,true,5", Order("", 1.0, True, 5)),
        (b",1,true,", Order("", 1.0, True, None)),
    ],
)
def test_csv_lines(line: bytes, order: Order) -> None:
    assert Csv(Order).decode_one(line) == order


class Optional(sl.Record):
    name: str | None
    count: int | None


@pytest.mark.parametrize(
    ("line", "found"), [(b",", (None, None)), (b",5", (None, 5)), (b"a,", ("a", None))]
)
def test_an_empty_csv_value_is_none_where_that_is_allowed(line: bytes, found: tuple[Any]) -> None:
    assert Csv(Optional).decode_one(line) == Optional(*found)


def test_csv_writes_dicts_by_the_fields_of_the_record() -> None:
    values: list[Any] = [{"note": None, "paid": True, "amount": 1.0, "user": "a"}]
    assert Csv(Order).encode_many(values) == [b"a,1.0,True,"]


def test_csv_needs_a_record() -> None:
    for kind in (dict, str, Order("a", 1.0), None):
        with pytest.raises(UsageError, match="needs a Record class"):
            Csv(kind)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- what cannot be written


@pytest.mark.parametrize(
    ("format", "value", "said"),
    [
        (Json(), object(), "cannot be written as JSON"),
        (Json(), {(1, 2): 3}, "cannot be written as JSON"),
        (Json(), "\ud800", "cannot be written as JSON"),
        (MsgPack(), object(), "cannot be written as MessagePack"),
        (MsgPack(), 1 << 70, "cannot be written as MessagePack"),
        (Csv(Order), {"user": "a"}, "not the fields user, amount, paid, note: {'user': 'a'}"),
        (Csv(Order), 5, "not the fields"),
        (Text(), 5, r"writes str, not int \(5\)"),
        (Text(), "\ud800", "not valid Unicode"),
        (Raw(), "a", r"writes bytes, not str \('a'\)"),
    ],
    ids=shown,
)
def test_what_cannot_be_written(format: Format[Any], value: Any, said: str) -> None:
    for encode in (format.encode_many, format.encode_lines):
        with pytest.raises(EncodeError, match=said):
            encode([value])


@pytest.mark.parametrize("kind", [Json, MsgPack, lambda **k: Csv(Order, **k), Text, Raw])
def test_on_error(kind: Any) -> None:
    assert kind().on_error == "fail"
    for choice in ("fail", "skip", "dead_letter"):
        assert kind(on_error=choice).on_error == choice
    with pytest.raises(UsageError, match='on_error=\'ignore\' must be "fail", "skip" or'):
        kind(on_error="ignore")


def test_how_formats_are_shown() -> None:
    assert [repr(f) for f in (Json(), Json(Order), Csv(Order), Text())] == [
        "Json()",
        "Json(Order)",
        "Csv()",
        "Text()",
    ]
