"""Keyed state: tables in memory, RocksDB behind them, snapshots of both.

``views`` is what a user's function sees, ``task_state`` the tables of a task, ``kv`` the seam to
what lies behind them, ``store`` and ``manifest`` what a checkpoint consists of. It serves
operators and tasks, and knows neither.
"""
