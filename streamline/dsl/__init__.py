"""The fluent surface: it builds a JobGraph and does nothing else.

``job`` and ``stream`` are what a user calls, ``builder`` is what they write with. It knows the
specs of operators, and neither plans nor runs anything.
"""
