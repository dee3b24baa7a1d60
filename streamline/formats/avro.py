"""Avro: values in Apache Avro, with their schemas in a registry. Needs the extra ``avro``.

fastavro decodes and encodes; how a schema is looked up and registered is in ``by_registry``.
"""

from __future__ import annotations

import datetime
import decimal
import io
import json
import uuid
from collections.abc import Sequence
from typing import Any, TypeVar, cast, overload

import msgspec

from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats.base import converted
from streamline.formats.by_registry import ByRegistry
from streamline.formats.registry import SchemaRegistry, pack, unpack
from streamline.io import OnError

T = TypeVar("T")
_AVRO_TYPES = (bytes, datetime.datetime, datetime.date, decimal.Decimal, uuid.UUID)


class Avro(ByRegistry[T]):
    """Apache Avro in Confluent's wire format.

    What is read may have been written with any schema of the registry: fields that were added
    with a default, removed or reordered are resolved as Avro says.

    Args:
        type_: A Record class to convert to and check; without one, values are dicts.
        registry: Where schemas are, or its url.
        schema: What to write with, and to read as; JSON text or a dict. To read it may be left
            out, then values are what the writer's schema says.
        subject: Under which the schema is registered when writing: ``<topic>-value`` as a rule.
        on_error: What happens to a value that cannot be decoded.

    Raises:
        UsageError: If fastavro is not installed, or the schema is none.

    >>> import streamline as sl
    >>> class Order(sl.Record):
    ...     user: str
    >>> schema = {"type": "record", "name": "Order", "fields": [{"name": "user", "type": "string"}]}
    >>> sl.Avro(Order, registry="http://localhost:8081", schema=schema, subject="orders-value")
    Avro(Order)
    """

    @overload
    def __init__(
        self: Avro[dict[str, Any]],
        type_: None = ...,
        *,
        registry: SchemaRegistry | str,
        schema: str | dict[str, Any] | None = ...,
        subject: str | None = ...,
        on_error: OnError = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Avro[T],
        type_: type[T],
        *,
        registry: SchemaRegistry | str,
        schema: str | dict[str, Any] | None = ...,
        subject: str | None = ...,
        on_error: OnError = ...,
    ) -> None: ...
    def __init__(
        self,
        type_: Any = None,
        *,
        registry: SchemaRegistry | str,
        schema: str | dict[str, Any] | None = None,
        subject: str | None = None,
        on_error: OnError = "fail",
    ) -> None:
        super().__init__(
            type_, registry=registry, schema=schema, subject=subject, on_error=on_error
        )
        self._avro = _fastavro()
        self._wanted = None if self.schema is None else self._parsed(self.schema)
        self._writers: dict[int, Any] = {}

    def decode_one(self, data: bytes) -> T:
        number, value = unpack(data)
        writer = self._writers.get(number)
        if writer is None:
            writer = self._writers[number] = self._known(number, self._writer)
        try:
            record = self._avro.schemaless_reader(io.BytesIO(value), writer, self._wanted)
        except self._avro.read.SchemaResolutionError as error:
            raise DecodeError(
                f"schema {number} cannot be read as the one that is wanted: {error}"
            ) from error
        except (EOFError, ValueError, TypeError, LookupError, OverflowError) as error:
            raise DecodeError(f"the value is not what schema {number} says: {error}") from error
        return cast(T, converted(record, self.type_))

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        if self._wanted is None:
            raise UsageError("Avro(schema=...) is needed to write")
        needed = 'Avro(subject=...) is needed to write, such as "orders-value"'
        number = self._registered("AVRO", needed)
        encoded: list[bytes] = []
        for value in values:
            out = io.BytesIO()
            plain = msgspec.to_builtins(value, builtin_types=_AVRO_TYPES)
            try:
                self._avro.schemaless_writer(out, self._wanted, plain)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise EncodeError(
                    f"a value does not fit the Avro schema: {error} ({value!r:.80})"
                ) from error
            encoded.append(pack(number, out.getvalue()))
        return encoded

    def _writer(self, number: int) -> Any:
        """The schema that a value was written with; a bad one is a bad value, not a bad setting."""
        schema = self.registry.schema(number)
        try:
            return self._parsed(schema)
        except UsageError as error:
            raise DecodeError(f"schema {number} of the registry is {error}") from error

    def _parsed(self, schema: str) -> Any:
        try:
            return self._avro.parse_schema(json.loads(schema))
        except (ValueError, TypeError, self._avro.schema.SchemaParseException) as error:
            raise UsageError(f"not an Avro schema: {error}") from error

    def __repr__(self) -> str:
        return f"Avro({'' if self.type_ is None else getattr(self.type_, '__name__', self.type_)})"


def _fastavro() -> Any:
    try:
        import fastavro
        import fastavro.read
        import fastavro.schema
    except ImportError as error:
        raise UsageError(
            "Avro needs fastavro; install it by: pip install 'streamline-engine[avro]'"
        ) from error
    return fastavro
