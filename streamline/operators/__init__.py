"""Operators: one file each. The seam is in ``base``; operators never see channels.

A spec is frozen and travels with the graph; it builds the operator that runs in a task. The seam is
in ``base``. Operators get batches, watermarks and the clock, and never see channels, tasks,
barriers or threads.
"""
