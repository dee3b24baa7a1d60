"""Formats: bytes to values and back. One file each; the seam is in ``base``."""

from streamline.formats.base import Format
from streamline.formats.csv import Csv
from streamline.formats.json import Json
from streamline.formats.msgpack import MsgPack
from streamline.formats.text import Raw, Text

__all__ = ["Csv", "Format", "Json", "MsgPack", "Raw", "Text"]
