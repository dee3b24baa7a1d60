"""Files: FileSource reads them, FileSink writes them exactly once."""

from streamline.connectors.files.sink import FileSink
from streamline.connectors.files.source import FileSource

__all__ = ["FileSink", "FileSource"]
