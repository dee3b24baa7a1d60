"""The command line.

Each command is a file or a part of one; ``main`` puts them together. They build jobs, start engines
and call the cluster, and own what a person reads. They decide nothing about a running job.
"""
