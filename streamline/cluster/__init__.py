"""The cluster: a daemon that keeps jobs running, the processes it runs them in, and its API."""
