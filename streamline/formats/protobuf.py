"""Protobuf: values in Protocol Buffers, alone or behind the number of a schema in a registry.

Needs the extra ``protobuf``. A job's values are Records or dicts, not messages, which can neither
be stored nor go through a shuffle; ``_Shape`` turns one into the other, field by field. Messages do
not say where they end, so they go into Kafka, not into files.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, cast, overload

import msgspec

from streamline.errors import DecodeError, EncodeError, UsageError
from streamline.formats.base import Format, converted
from streamline.formats.by_registry import ByRegistry
from streamline.formats.registry import SchemaRegistry, pack, unpack
from streamline.io import OnError

T = TypeVar("T")
_TIMESTAMP = "google.protobuf.Timestamp"
_BUILTIN = (bytes, datetime.datetime)


class Message(Protocol):
    """A message, as classes that ``protoc`` has generated make it."""

    DESCRIPTOR: Any

    def SerializeToString(self) -> bytes:  # noqa: N802 - that is its name
        """The message as bytes."""


class Protobuf(Format[T]):
    """Messages of Protocol Buffers, each alone.

    Fields have the names of the .proto file. One that may be absent (``optional``, in a oneof, a
    message) and is absent is left out, so the Record's default stands for it; of a oneof let it be
    None, as one member alone is written. Members of an enum are their names, a
    ``google.protobuf.Timestamp`` is a datetime in UTC, to the microsecond. Fields that the class
    does not know are not handed on.

    Args:
        message: The class of the messages, from the module that protoc has generated.
        type_: A Record class to convert to and check; without one, values are dicts.
        on_error: What happens to a value that cannot be decoded.

    Raises:
        UsageError: If protobuf is not installed, or ``message`` is no class of messages.

    >>> import streamline as sl
    >>> from google.protobuf.source_context_pb2 import SourceContext
    >>> format = sl.Protobuf(SourceContext)
    >>> format.encode_many([{"file_name": "a.py"}])
    [b'\\n\\x04a.py']
    >>> format.decode_one(b"\\n\\x04a.py")
    {'file_name': 'a.py'}
    """

    separator = b""
    in_files = False

    @overload
    def __init__(
        self: Protobuf[dict[str, Any]],
        message: type[Message],
        type_: None = ...,
        *,
        on_error: OnError = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Protobuf[T], message: type[Message], type_: type[T], *, on_error: OnError = ...
    ) -> None: ...
    def __init__(
        self, message: type[Message], type_: Any = None, *, on_error: OnError = "fail"
    ) -> None:
        super().__init__(on_error)
        self.message = message
        self.type_ = type_
        self._codec = _Codec(message, type_)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(type(self), self.message, self.type_, on_error=self.on_error), ()

    def decode_one(self, data: bytes) -> T:
        return cast(T, self._codec.decode(data))

    def decode_many(self, data: Sequence[bytes]) -> list[T]:
        return [self.decode_one(item) for item in data]

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        return [self._codec.encode(value) for value in values]

    def __repr__(self) -> str:
        return f"Protobuf({self.message.__name__})"


class RegistryProtobuf(ByRegistry[T]):
    """Messages of Protocol Buffers in Confluent's wire format.

    Values are as with ``Protobuf``. A value whose number is not that of a Protobuf schema, or that
    is another message of its schema, is bad; fields that were added or removed since are read as
    Protocol Buffers says. Which message it is goes by its name in that schema; a registry that has
    schemas as text alone must have the messages in one order in all of them.

    Args:
        message: The class of the messages, from the module that protoc has generated.
        type_: A Record class to convert to and check; without one, values are dicts.
        registry: Where schemas are, or its url.
        schema: What is registered when writing, as .proto text; if not given, the descriptor
            that the class brings along. What it imports is not registered with it, so it may
            import what Protocol Buffers itself brings along.
        subject: Under which the schema is registered: ``<topic>-value`` as a rule.
        on_error: What happens to a value that cannot be decoded.

    Raises:
        UsageError: If protobuf is not installed, or ``message`` is no class of messages.

    >>> import streamline as sl
    >>> from google.protobuf.source_context_pb2 import SourceContext
    >>> sl.RegistryProtobuf(
    ...     SourceContext, registry="http://localhost:8081", subject="sources-value"
    ... )
    RegistryProtobuf(SourceContext)
    """

    @overload
    def __init__(
        self: RegistryProtobuf[dict[str, Any]],
        message: type[Message],
        type_: None = ...,
        *,
        registry: SchemaRegistry | str,
        schema: str | None = ...,
        subject: str | None = ...,
        on_error: OnError = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: RegistryProtobuf[T],
        message: type[Message],
        type_: type[T],
        *,
        registry: SchemaRegistry | str,
        schema: str | None = ...,
        subject: str | None = ...,
        on_error: OnError = ...,
    ) -> None: ...
    def __init__(
        self,
        message: type[Message],
        type_: Any = None,
        *,
        registry: SchemaRegistry | str,
        schema: str | None = None,
        subject: str | None = None,
        on_error: OnError = "fail",
    ) -> None:
        codec = _Codec(message, type_)
        if schema is None:
            schema = base64.b64encode(message.DESCRIPTOR.file.serialized_pb).decode()
        super().__init__(
            type_, registry=registry, schema=schema, subject=subject, on_error=on_error
        )
        self.message = message
        self._codec = codec
        self._ours = _paths(
            _file(message.DESCRIPTOR.file.serialized_pb), message.DESCRIPTOR.full_name
        )
        self._paths: dict[int, list[bytes]] = {}

    def _given(self) -> tuple[Any, ...]:
        return self.message, self.type_

    def decode_one(self, data: bytes) -> T:
        number, value = unpack(data)
        paths = self._paths.get(number)
        if paths is None:
            paths = self._paths[number] = self._known(number, self._where)
        for path in paths:
            if value.startswith(path):
                return cast(T, self._codec.decode(value[len(path) :]))
        wanted = self.message.DESCRIPTOR.full_name
        raise DecodeError(f"the value is not {wanted} but another message of schema {number}")

    def encode_many(self, values: Sequence[T]) -> list[bytes]:
        number = self._registered("PROTOBUF", "RegistryProtobuf needs subject= to write")
        head = pack(number, self._ours[0])
        return [head + self._codec.encode(value) for value in values]

    def _where(self, number: int) -> list[bytes]:
        """How our message is named in front of values of a schema: by its place in that schema."""
        try:
            file = _file(base64.b64decode(self.registry.schema(number, "PROTOBUF"), validate=True))
        except ValueError:
            return self._ours  # the registry gives nothing but its text
        wanted = self.message.DESCRIPTOR.full_name
        found = _paths(file, wanted)
        if not found:
            raise DecodeError(f"schema {number} of the registry has no message {wanted}")
        return found

    def __repr__(self) -> str:
        return f"RegistryProtobuf({self.message.__name__})"


class _Codec:
    """Messages of one class to values of one type, and back."""

    def __init__(self, message: type[Message], type_: Any) -> None:
        self._decode_error, self._encode_error = _errors()
        descriptor = getattr(message, "DESCRIPTOR", None)
        if not isinstance(message, type) or not hasattr(descriptor, "fields_by_name"):
            raise UsageError(
                f"Protobuf needs a class of messages that protoc has generated, not {message!r:.80}"
            )
        self._message: Any = message
        self._type = type_
        self._shape = _Shape.of(descriptor, {})

    def decode(self, data: bytes) -> Any:
        try:
            message = self._message.FromString(data)
            if not message.IsInitialized():
                raise DecodeError(
                    f"the value is not {self._shape.name}: a required field is missing"
                )
            plain = self._shape.read(message)
        except (self._decode_error, ValueError) as error:
            raise DecodeError(f"the value is not {self._shape.name}: {error}") from error
        return converted(plain, self._type)

    def encode(self, value: object) -> bytes:
        if isinstance(value, self._message):
            message = value
        else:
            message = self._message()
            try:
                plain = msgspec.to_builtins(value, builtin_types=_BUILTIN)
                self._shape.write(message, plain)
            except RecursionError as error:
                raise EncodeError("a value cannot be written: it is nested too deeply") from error
            except (TypeError, ValueError, OverflowError) as error:
                raise EncodeError(f"a value cannot be written: {error} ({value!r:.80})") from error
        try:
            return cast(bytes, message.SerializeToString())
        except self._encode_error as error:
            raise EncodeError(f"a value cannot be written: {error} ({value!r:.80})") from error


class _Shape:
    """How the fields of a kind of message are read into a dict, and written from one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._fields: dict[str, _Field] = {}

    @classmethod
    def of(cls, descriptor: Any, known: dict[str, _Shape]) -> _Shape:
        """The shape of a message and all below it; they may hold one another."""
        shape = known.get(descriptor.full_name)
        if shape is None:
            shape = known[descriptor.full_name] = cls(descriptor.full_name)
            shape._fields = {field.name: _Field(field, known) for field in descriptor.fields}
        return shape

    def read(self, message: Any) -> Any:
        """A message as a dict; a timestamp as a datetime."""
        if self.name == _TIMESTAMP:
            return message.ToDatetime(tzinfo=datetime.UTC)
        return {
            name: field.read(getattr(message, name))
            for name, field in self._fields.items()
            if not field.optional or message.HasField(name)
        }

    def write(self, message: Any, plain: Any) -> None:
        """Fill a message that is empty."""
        if self.name == _TIMESTAMP and isinstance(plain, datetime.datetime):
            message.FromDatetime(plain)
            return
        if not isinstance(plain, dict):
            raise EncodeError(f"{self.name} is written from a Record or a dict, not {plain!r:.80}")
        message.SetInParent()  # it is there, even if nothing in it is
        for name, value in plain.items():
            field = self._fields.get(name)
            if field is None:
                raise EncodeError(f"{self.name} has no field {name!r}")
            if value is not None:
                field.write(message, name, value)


class _Field:
    """One field of a message; of a map, what its values are."""

    def __init__(self, field: Any, known: dict[str, _Shape]) -> None:
        self.optional = field.has_presence
        self._oneof = None if field.containing_oneof is None else field.containing_oneof.name
        self._of = f"{field.containing_type.full_name}.{field.name}"
        entry = field.message_type if _is_map(field) else None
        self._map, self._list = entry is not None, field.is_repeated
        value = field if entry is None else entry.fields_by_name["value"]
        message, self._enum = value.message_type, value.enum_type
        self._shape = None if message is None else _Shape.of(message, known)
        one: Callable[[Any], Any] | None = self._name if self._enum is not None else None
        if self._shape is not None:
            one = self._shape.read
        self.read: Callable[[Any], Any] = self._reader(one)

    def write(self, message: Any, name: str, value: Any) -> None:
        """Set it.

        Raises:
            EncodeError: If the value does not fit.
        """
        other = None if self._oneof is None else message.WhichOneof(self._oneof)
        if other is not None:
            raise EncodeError(
                f"{self._of} cannot be set beside {other!r}: of {self._oneof!r} one is written, "
                "the others are to be None"
            )
        try:
            if self._map:
                self._fill_map(getattr(message, name), value)
            elif self._list:
                self._fill_list(getattr(message, name), value)
            elif self._shape is not None:
                self._shape.write(getattr(message, name), value)
            else:
                setattr(message, name, self._number(value))
        except (TypeError, ValueError, OverflowError, KeyError, AttributeError) as error:
            raise EncodeError(f"{self._of} cannot be {value!r:.80}: {error}") from error

    def _fill_map(self, items: Any, value: dict[Any, Any]) -> None:
        for key, one in value.items():
            if self._shape is not None:
                self._shape.write(items[key], one)
            else:
                items[key] = self._number(one)

    def _fill_list(self, items: Any, value: Iterable[Any]) -> None:
        if not isinstance(value, list | tuple):
            raise TypeError("a list is needed")
        if self._shape is None:
            items.extend(map(self._number, value))
            return
        for one in value:
            self._shape.write(items.add(), one)

    def _reader(self, one: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
        if self._map:
            if one is None:
                return dict
            return lambda items: {key: one(items[key]) for key in items}
        if self._list:
            return list if one is None else lambda items: list(map(one, items))
        return one or _same

    def _name(self, number: int) -> str | int:
        """The name of an enum's member; one that is not known stays a number."""
        member = self._enum.values_by_number.get(number)
        return number if member is None else cast(str, member.name)

    def _number(self, value: Any) -> Any:
        if self._enum is None or not isinstance(value, str):
            return value
        return self._enum.values_by_name[value].number


def _same(value: Any) -> Any:
    return value


def _is_map(field: Any) -> bool:
    message = field.message_type
    return message is not None and bool(message.GetOptions().map_entry)


def _file(data: bytes) -> Any:
    """A .proto file, from its bytes.

    Raises:
        ValueError: If they are none.
    """
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import DecodeError as CannotDecode

    try:
        return FileDescriptorProto.FromString(data)
    except CannotDecode as error:
        raise ValueError(str(error)) from error


def _paths(file: Any, name: str) -> list[bytes]:
    """Which message of a file is meant, as the wire format has it; nothing if it is not there.

    Indexes stand from outside inwards. The first message has a short form, which comes first; some
    write its long one.
    """
    package = f"{file.package}." if file.package else ""
    level, path = file.message_type, list[int]()
    if not name.startswith(package):
        return []
    for part in name.removeprefix(package).split("."):
        place = next((place for place, one in enumerate(level) if one.name == part), None)
        if place is None:
            return []
        path.append(place)
        level = level[place].nested_type
    long = b"".join(_varint(number << 1) for number in [len(path), *path])  # zigzag
    return [b"\0", long] if path == [0] else [long]


def _varint(number: int) -> bytes:
    data = bytearray()
    while number > 0x7F:
        data.append(number & 0x7F | 0x80)
        number >>= 7
    data.append(number)
    return bytes(data)


def _errors() -> tuple[type[Exception], type[Exception]]:
    try:
        from google.protobuf.message import DecodeError as CannotDecode
        from google.protobuf.message import EncodeError as CannotEncode
    except ImportError as error:
        raise UsageError(
            "Protobuf needs protobuf; install it by: pip install 'streamline-engine[protobuf]'"
        ) from error
    return CannotDecode, CannotEncode
