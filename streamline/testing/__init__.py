"""Tools to test jobs and connectors: public, for users too. See docs/testing.md.

Nothing here needs pytest; the contract kits are plain classes whose ``test_`` methods assert.
"""

from streamline.clock import ManualClock
from streamline.engines.inline import Faults
from streamline.messages import Watermark
from streamline.testing.backend_contract import StateBackendContract
from streamline.testing.engine_contract import EngineContract
from streamline.testing.event import Event
from streamline.testing.harness import OperatorHarness
from streamline.testing.kv_contract import KeyValueStoreContract
from streamline.testing.run import run_job
from streamline.testing.sink import CollectingSink
from streamline.testing.sink_contract import SinkContract
from streamline.testing.snapshots import HarnessSettings, OperatorSnapshot
from streamline.testing.source import (
    Crash,
    End,
    Pause,
    ScriptedCrashError,
    ScriptedSource,
    ScriptItem,
)
from streamline.testing.source_contract import SourceContract

__all__ = [
    "CollectingSink",
    "Crash",
    "End",
    "EngineContract",
    "Event",
    "Faults",
    "HarnessSettings",
    "KeyValueStoreContract",
    "ManualClock",
    "OperatorHarness",
    "OperatorSnapshot",
    "Pause",
    "ScriptItem",
    "ScriptedCrashError",
    "ScriptedSource",
    "SinkContract",
    "SourceContract",
    "StateBackendContract",
    "Watermark",
    "run_job",
]
