"""``streamline``: the commands, and how an error becomes a sentence and an exit status.

The entry point, and the only place that prints an error or chooses an exit status. What a command
does, it does not know.
"""

from __future__ import annotations

import sys
import traceback

import click

from streamline.cli.cluster import COMMANDS
from streamline.cli.completion import VARIABLE, completion
from streamline.cli.plan import plan
from streamline.cli.run import CANCELED, run
from streamline.cli.streams import silence, tell
from streamline.cli.txn import txn
from streamline.errors import JobFailedError, StreamlineError, UsageError

FAILED, USAGE = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamline-engine", prog_name="streamline")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Exactly-once stream processing in Python."""


cli.add_command(run)
cli.add_command(plan)
cli.add_command(txn)
cli.add_command(completion)
for _command in COMMANDS:
    cli.add_command(_command)


def main() -> None:
    """Entry point."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        status = _call(arguments, debug=debug)
        sys.stdout.flush()
    except OSError as error:
        status = FAILED
        if _of_stdout():
            silence(1)
            if not isinstance(error, BrokenPipeError):
                tell(f"streamline: standard output cannot be written: {error}")
        else:  # most are told as what they mean, where they happen; this one was not
            if debug:
                tell(traceback.format_exc().rstrip())
            what = error.strerror or str(error)
            tell("streamline: " + (f"{error.filename}: {what}" if error.filename else what))
    sys.exit(status)


def _of_stdout() -> bool:
    """Whether standard output is what cannot be written: it still holds what it could not."""
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _call(arguments: list[str], *, debug: bool) -> int:
    try:
        # Without its standalone mode click returns the status instead of exiting.
        status = cli.main(arguments, complete_var=VARIABLE, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        tell(error.format_message())
        return USAGE
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        more = f" (see {where.command_path} --help)" if where is not None else ""
        tell(f"streamline: {error.format_message().rstrip('.')}{more}")
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return CANCELED
    except StreamlineError as error:
        trace = getattr(error, "trace", "")
        if trace and (debug or not isinstance(error, JobFailedError)):
            tell(trace.rstrip())
        elif debug:
            tell(traceback.format_exc().rstrip())
        tell(f"streamline: {error}")
        return USAGE if isinstance(error, UsageError) else FAILED
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
