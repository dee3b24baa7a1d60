"""Every engine keeps the contract."""

import asyncio
from collections.abc import Mapping
from pathlib import Path

from streamline.clock import ManualClock
from streamline.config import RuntimeConfig
from streamline.coordinator.status import JobStatus
from streamline.engines.inline import InlineEngine
from streamline.engines.local import LocalEngine, LocalSettings
from streamline.jobfile import JobSpec
from streamline.state.memory import MemoryStore
from streamline.state.rocksdb import open_rocksdb
from streamline.state.store import DirectoryStore
from streamline.testing import EngineContract

CONFIG = RuntimeConfig(
    check_invariants=True,
    batch_rows=100,
    checkpoint_every_ms=50,
    restart_initial_ms=10,
    restart_max_ms=20,
    restart_budget=2,
)


class TestInline(EngineContract):
    parallelisms = (1, 2, 3, 5)
    open_kv = staticmethod(MemoryStore.open)

    def run(
        self, target: str, params: Mapping[str, str], *, parallelism: int, folder: Path
    ) -> JobStatus:
        engine = InlineEngine(
            JobSpec.from_file(target, params).load().graph(),
            store=DirectoryStore(folder / "checkpoints"),
            open_kv=self.open_kv,
            directory=folder / "live",
            parallelism=parallelism,
            config=CONFIG,
            clock=ManualClock(),
        )
        return engine.run(200_000)


class TestInlineOnRocksDB(TestInline):
    parallelisms = (2,)
    open_kv = staticmethod(open_rocksdb)


class TestLocal(EngineContract):
    parallelisms = (1, 2)

    def run(
        self, target: str, params: Mapping[str, str], *, parallelism: int, folder: Path
    ) -> JobStatus:
        spec = JobSpec.from_file(target, params)
        folder.mkdir()
        settings = LocalSettings(
            spec,
            spec.load().graph(),
            parallelism,
            CONFIG,
            f"{folder}/checkpoints",
            folder / "live",
        )

        async def run() -> JobStatus:
            return await LocalEngine(settings, lambda level, text: None).run()

        return asyncio.run(run())
