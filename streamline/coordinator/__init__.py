"""The coordinator: what decides about a job (pure) and what carries it out (``driver``)."""
