"""Seeded simulation: whole jobs in one thread, with everything going wrong that a seed decides.

python -m tests.simulation SEED        replays one seed and tells what happened
"""
