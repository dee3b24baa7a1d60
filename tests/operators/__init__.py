"""Operators against brute-force references, driven by hand."""
