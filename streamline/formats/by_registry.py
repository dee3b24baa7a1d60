"""Formats with schemas in a registry: what they share, and JSON.

Each value begins with the number of its schema. Here is how it is looked up, registered, and
refused if it is of another kind; the registry's protocol is in ``registry``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast, overload

import msgspec

from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats.base import BadValue, Format
from streamline.formats.registry import SchemaRegistry, pack, unpack
from streamline.io import OnError

S = TypeVar("S")
T = TypeVar("T")


class ByRegistry(Format[T]):
    """What formats with schemas in a registry share."""

    separator = b""
    in_files = False

    def __init__(
        self,
        type_: Any,
        *,
        registry: SchemaRegistry | str,
        schema: str | dict[str, Any] | None,
        subject: str | None,
        on_error: OnError,
    ) -> None:
        super().__init__(on_error)
        self.type_ = type_
        self.registry = SchemaRegistry(registry) if isinstance(registry, str) else registry
        self.schema = schema if isinstance(schema, str) or schema is None else json.dumps(schema)
        self.subject = subject
        self._number: int | None = None
        self._refused: dict[int, DecodeError] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        make = partial(
            type(self),
            *self._given(),
            registry=self.registry,
            schema=self.schema,
            subject=self.subject,
            on_error=self.on_error,
        )
        return make, ()

    def _given(self) -> tuple[Any, ...]:
        """What it was made with beside the registry."""
        return (self.type_,)

    def decode_many(self, data: Sequence[bytes]) -> list[T]:
        self._refused.clear()
        return [self.decode_one(item) for item in data]

    def decode_each(self, data: Sequence[bytes], bad: BadValue) -> list[T]:
        self._refused.clear()
        return super().decode_each(data, bad)

    def _known(self, number: int, look: Callable[[int], S]) -> S:
        """What is known of a schema; one that cannot be had is asked for once in a batch."""
        refused = self._refused.get(number)
        if refused is not None:
            raise refused
        try:
            return look(number)
        except DecodeError as error:
            self._refused[number] = error
            raise

    def _registered(self, kind: str, needed: str) -> int:
        """The number of our schema, which is registered with the first value.

        Raises:
            UsageError: If there is no schema or no subject; says what is needed.
        """
        if self._number is None:
            if self.subject is None or self.schema is None:
                raise UsageError(needed)
            self._number = self.registry.register(self.subject, self.schema, kind)
        return self._number


class RegistryJson(ByRegistry[T]):
    """JSON behind the number of a JSON schema, in Confluent's wire format.

    Args:
        type_: A Record class to decode and validate to; without one, values are plain.
        registry: Where schemas are, or its url. A value whose number is not that of a JSON schema
            there is bad; what the schema says is not checked, the Record class is.
        schema: What is registered when writing; of the Record class if not given.
        subject: Under which the schema is registered: ``<topic>-value`` as a rule.
        on_error: What happens to a value that cannot be decoded.

    Raises:
        UsageError: For a url that is none.

    >>> import streamline as sl
    >>> class Order(sl.Record):
    ...     user: str
    >>> orders = sl.RegistryJson(Order, registry="http://localhost:8081", subject="orders-value")
    >>> orders.subject
    'orders-value'
    """

    @overload
    def __init__(
        self: RegistryJson[Any],
        type_: None = ...,
        *,
        registry: SchemaRegistry | str,
        schema: str | dict[str, Any] | None = ...,
        subject: str | None = ...,
        on_error: OnError = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: RegistryJson[T],
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
        if schema is None and type_ is not None:
            schema = msgspec.json.schema(type_)
        super().__init__(
            type_, registry=registry, schema=schema, subject=subject, on_error=on_error
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
            Any if type_ is None else type_
        )
        self._encoder = msgspec.json.Encoder()
        self._seen: set[int] = set()

    def decode_one(self, data: bytes) -> T:
        number, value = unpack(data)
        if number not in self._seen:
            self._known(number, lambda number: self.registry.schema(number, "JSON"))
            self._seen.add(number)
        try:
            return cast(T, self._decoder.decode(value))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(str(error)) from error

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        number = self._registered("JSON", "RegistryJson needs subject= and a schema to write")
        try:
            return [pack(number, self._encoder.encode(value)) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodeError(f"a value cannot be written as JSON: {error}") from error
