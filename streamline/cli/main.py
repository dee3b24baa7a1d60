"""``streamline``: the commands, and how an error becomes a sentence and an exit status."""

from __future__ import annotations

import sys
import traceback

import click

from streamline.cli.plan import plan
from streamline.cli.run import run
from streamline.errors import JobFailedError, StreamlineError, UsageError

FAILED, USAGE = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamline-engine", prog_name="streamline")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def cli(debug: bool) -> None:
    """Exactly-once stream processing in Python."""


cli.add_command(run)
cli.add_command(plan)


def main() -> None:
    """Entry point."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        cli.main(arguments, standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        more = f" (see {where.command_path} --help)" if where is not None else ""
        print(f"streamline: {error.format_message().rstrip('.')}{more}", file=sys.stderr)
        sys.exit(USAGE)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(FAILED)
    except StreamlineError as error:
        trace = getattr(error, "trace", "")
        if trace and (debug or not isinstance(error, JobFailedError)):
            print(trace.rstrip(), file=sys.stderr)
        elif debug:
            traceback.print_exc()
        print(f"streamline: {error}", file=sys.stderr)
        sys.exit(USAGE if isinstance(error, UsageError) else FAILED)


if __name__ == "__main__":
    main()
