"""Servers that tests share."""
