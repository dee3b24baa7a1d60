"""Engines: how the tasks of a job are started, driven and supervised."""
