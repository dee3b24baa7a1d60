"""The runtime: tasks, the channels between them, and the worker process that drives both."""
