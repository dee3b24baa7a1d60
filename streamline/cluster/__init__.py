"""The cluster: a daemon that keeps jobs running, the processes it runs them in, and its API.

``daemon`` decides with ``jobs`` and ``journal``, a ``keeper`` holds on to each job's process,
``master`` is that process, ``api`` and ``client`` are the two ends of the network. How a job runs
is for the engine to know: here it is started, given orders and asked how it is.
"""
