"""Every error that streamline raises on purpose.

A message is one sentence that says what is wrong, where, and what to do; the command
line prints it as it stands. This module knows nothing but itself.
"""

from __future__ import annotations


class StreamlineError(Exception):
    """Base of all errors raised on purpose; ``str(error)`` is fit to be shown to a user.

    >>> import streamline as sl
    >>> try:
    ...     sl.Tumbling("ten seconds")
    ... except sl.StreamlineError as error:
    ...     print(error)  # doctest: +NORMALIZE_WHITESPACE
    size='ten seconds' is not a duration; write a timedelta or a number with a unit,
    such as "500ms", "10s", "5m", "1h" or "1d"
    """


class UsageError(StreamlineError):
    """The caller asked for something that cannot be: a wrong name, parameter or value."""


class GraphError(UsageError):
    """A job graph that cannot run; the message names the node and the remedy."""


class JobFailedError(StreamlineError):
    """A job ended because its restart strategy gave up; carries the last cause."""


class UserFunctionError(StreamlineError):
    """A function of the user's raised.

    Attributes:
        operator: The name of the operator that called it.
        record: A shortened ``repr`` of the record it was given.
        trace: The traceback, cut to the user's own frames.
    """

    def __init__(
        self, message: str, *, operator: str = "", record: str = "", trace: str = ""
    ) -> None:
        super().__init__(message)
        self.operator = operator
        self.record = record
        self.trace = trace


class DecodeError(StreamlineError):
    """A record's bytes are not what the format says; names source, partition and offset."""


class EncodeError(StreamlineError):
    """A value cannot be written in the asked-for format or cannot cross processes."""


class StateError(StreamlineError):
    """Stored state does not fit this job, this version, or is damaged."""


class CheckpointError(StateError):
    """A checkpoint or savepoint is missing, incomplete or damaged."""


class LockedError(StreamlineError):
    """Another run holds the state folder."""


class ConnectorError(StreamlineError):
    """A source or sink cannot reach or use its system."""


class OutageError(ConnectorError):
    """The outside system is away, and may come back by itself.

    Coming again, it does not end a job: that is up to the budget of restarts alone.
    """


class FencedError(ConnectorError):
    """A newer run of the job has taken over what this one writes to.

    It ends the run: to try again would shut out the newer one in turn.
    """


class ChannelClosedError(StreamlineError):
    """This end of the channel was closed by its owner."""


class ChannelBrokenError(StreamlineError):
    """The other end of the channel went away."""


class ProtocolError(StreamlineError):
    """A peer sent what the protocol does not allow; the connection is dropped."""


class InvariantError(StreamlineError):
    """The engine broke one of its own rules: a defect of streamline, never of the user."""
