"""The fluent surface: it builds a JobGraph and does nothing else."""
