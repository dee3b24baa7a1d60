"""Keyed state: tables in memory, RocksDB behind them, snapshots of both."""
