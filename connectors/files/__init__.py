"""Files: FileSource reads them, FileSink writes them exactly once.

The public names. ``partitions`` says which files there are and how they are cut; ``zstd`` reads a
compressed one from any place.
"""

from streamline.connectors.files.sink import FileSink
from streamline.connectors.files.source import FileSource

__all__ = ["FileSink", "FileSource"]
