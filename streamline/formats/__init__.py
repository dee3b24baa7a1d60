"""Formats: bytes to values and back.

One file each; the seam is in ``base``. Sources and sinks are given one; formats know neither files
nor topics, nor where a value came from.
"""

from streamline.formats.avro import Avro
from streamline.formats.base import Format
from streamline.formats.by_registry import RegistryJson
from streamline.formats.csv import Csv
from streamline.formats.json import Json
from streamline.formats.msgpack import MsgPack
from streamline.formats.protobuf import Protobuf, RegistryProtobuf
from streamline.formats.registry import SchemaRegistry
from streamline.formats.text import Raw, Text

__all__ = [
    "Avro",
    "Csv",
    "Format",
    "Json",
    "MsgPack",
    "Protobuf",
    "Raw",
    "RegistryJson",
    "RegistryProtobuf",
    "SchemaRegistry",
    "Text",
]
