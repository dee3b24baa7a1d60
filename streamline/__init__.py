"""streamline: exactly-once stream processing in Python.

    import streamline as sl

The names below are the public surface; connectors are in ``streamline.connectors``.
"""

from streamline.batch import Batch, ColumnBatch, RowBatch
from streamline.clock import Clock, ManualClock, SystemClock
from streamline.config import RuntimeConfig
from streamline.dsl.job import Job
from streamline.dsl.stream import (
    KeyedStream,
    Stream,
    WindowedStream,
    WindowResultStream,
)
from streamline.errors import StreamlineError
from streamline.expr import Expr, col
from streamline.formats import (
    Avro,
    Csv,
    Format,
    Json,
    MsgPack,
    Protobuf,
    Raw,
    RegistryJson,
    RegistryProtobuf,
    SchemaRegistry,
    Text,
)
from streamline.io import (
    DeadLetter,
    Guarantee,
    ReaderContext,
    Sink,
    SinkWriter,
    Source,
    SourceReader,
    WriterContext,
)
from streamline.operators.aggregations import Aggregation, Collect, Count, Max, Mean, Min, Sum
from streamline.operators.process import ProcessContext, ProcessFunction
from streamline.operators.windows.assigners import Session, Sliding, Tumbling, WindowBounds
from streamline.record import KeyedResult, Record, WindowResult
from streamline.state.views import ListState, MapState, ValueState
from streamline.version import VERSION as __version__

__all__ = [
    "Aggregation",
    "Avro",
    "Batch",
    "Clock",
    "Collect",
    "ColumnBatch",
    "Count",
    "Csv",
    "DeadLetter",
    "Expr",
    "Format",
    "Guarantee",
    "Job",
    "Json",
    "KeyedResult",
    "KeyedStream",
    "ListState",
    "ManualClock",
    "MapState",
    "Max",
    "Mean",
    "Min",
    "MsgPack",
    "ProcessContext",
    "ProcessFunction",
    "Protobuf",
    "Raw",
    "ReaderContext",
    "Record",
    "RegistryJson",
    "RegistryProtobuf",
    "RowBatch",
    "RuntimeConfig",
    "SchemaRegistry",
    "Session",
    "Sink",
    "SinkWriter",
    "Sliding",
    "Source",
    "SourceReader",
    "Stream",
    "StreamlineError",
    "Sum",
    "SystemClock",
    "Text",
    "Tumbling",
    "ValueState",
    "WindowBounds",
    "WindowResult",
    "WindowResultStream",
    "WindowedStream",
    "WriterContext",
    "__version__",
    "col",
]
