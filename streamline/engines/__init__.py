"""Engines: how the tasks of a job are started, driven and supervised.

They carry out what the coordinator decides, and report facts to it: ``inline`` in one thread, step
by step, ``local`` in worker processes. They see no records, and decide nothing about a job.
"""
