"""MsgPack: MessagePack values; in files one directly behind the other.

A value tells where it ends, so files need no separator. Decoding and validation are msgspec's. It
is not the codec of state and channels, which writes more types: that is ``codec``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar, cast, overload

import msgspec

from streamline.errors import DecodeError, EncodeError
from streamline.formats.base import Format
from streamline.io import OnError

T = TypeVar("T")


class MsgPack(Format[T]):
    """MessagePack, typed by a Record or as plain values.

    Args:
        type_: A Record class (or any type msgspec knows) to decode and validate to; without
            one, values are dicts, lists, strings, bytes and numbers.
        on_error: What happens to a value that cannot be decoded.

    Raises:
        UsageError: For an ``on_error`` that is none.

    >>> import streamline as sl
    >>> class Order(sl.Record):
    ...     user: str
    >>> sl.MsgPack().encode_many([{"user": "ada"}])
    [b'\\x81\\xa4user\\xa3ada']
    >>> sl.MsgPack(Order).decode_one(b"\\x81\\xa4user\\xa3ada")
    Order(user='ada')
    """

    suffix = ".msgpack"
    separator = b""

    @overload
    def __init__(self: MsgPack[Any], type_: None = ..., *, on_error: OnError = ...) -> None: ...
    @overload
    def __init__(self: MsgPack[T], type_: type[T], *, on_error: OnError = ...) -> None: ...
    def __init__(self, type_: Any = None, *, on_error: OnError = "fail") -> None:
        super().__init__(on_error)
        self.type_ = type_
        self._decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(
            Any if type_ is None else type_
        )
        self._encoder = msgspec.msgpack.Encoder()

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.type_, on_error=self.on_error), ()

    def decode_one(self, data: bytes) -> T:
        try:
            return cast(T, self._decoder.decode(data))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(str(error)) from error

    def decode_many(self, data: Sequence[bytes]) -> list[T]:
        decode = self._decoder.decode
        try:
            return [decode(item) for item in data]
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DecodeError(str(error)) from error

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        encode = self._encoder.encode
        try:
            return [encode(value) for value in values]
        except (TypeError, ValueError, OverflowError) as error:
            raise EncodeError(f"a value cannot be written as MessagePack: {error}") from error
