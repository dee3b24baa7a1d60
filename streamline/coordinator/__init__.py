"""The coordinator: what decides about a job (pure) and what carries it out (``driver``).

``job`` decides, from facts to instructions, with ``checkpoints``, ``restart``, ``assignment`` and
``fit`` beside it, all pure. ``durable`` does for every engine what concerns stores and sources.
None of it knows processes, sockets or clocks: engines do.
"""
