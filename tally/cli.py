"""The `tally` command: what people type. Each command parses its arguments and calls what does the work.

A `LocalError` is the user's to mend: one sentence on standard error and exit code 1, never a stack trace.
"""

import os
import sys
from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import ParamSpec, TypeVar
from uuid import UUID

import click

from tally.local import run as local
from tally.local import services, walkthrough
from tally.local.ask import not_ready
from tally.local.console import wants_colour
from tally.local.failure import LocalError

P = ParamSpec("P")
R = TypeVar("R")


def in_one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Turns a `LocalError` into its sentence."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LocalError as error:
            click.echo(f"tally: {error}", err=True)
            sys.exit(1)
        except PermissionError as error:
            click.echo(
                f"tally: {error.filename} cannot be used by this user ({error.strerror}): run Tally as the user who "
                "made it, or choose another folder with TALLY_LOCAL_FOLDER=…",
                err=True,
            )
            sys.exit(1)

    return guarded


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Many-to-many relationships across microservices that stay whole."""


@main.command()
@click.option(
    "--folder", type=click.Path(path_type=Path), default=None, help="Where the data is kept.  [default: .tally]"
)
@click.option("--json", "machine_readable", is_flag=True, help="Print JSON events instead of logs.")
@click.option("--no-restart", is_flag=True, help="Leave a service that dies dead.")
@in_one_sentence
def run(folder: Path | None, machine_readable: bool, no_restart: bool) -> None:
    """Start PostgreSQL and every service; Ctrl-C stops them."""
    folder = (folder or services.local_folder()).absolute()
    sys.exit(local.run(folder, supervise=not no_restart, machine_readable=machine_readable))


@main.command()
@in_one_sentence
def demo() -> None:
    """Walk through the API of a running Tally, and check each answer."""
    places = services.place(services.SERVICES, os.environ)
    walkthrough.Demonstration(places, click.echo, colour=wants_colour(sys.stdout)).run()


@main.command()
@click.argument("operation_id", metavar="ID", type=click.UUID)
@in_one_sentence
def operation(operation_id: UUID) -> None:
    """Ask what became of an operation."""
    gateway = services.place(services.SERVICES, os.environ)["gateway"]
    answer = walkthrough.asked("gateway", gateway, "GET", f"/operation/{operation_id}")
    click.echo(walkthrough.operation_in_words(answer))
    sys.exit(0 if answer.status == HTTPStatus.OK else 1)


@main.command()
@in_one_sentence
def status() -> None:
    """Ask each service whether it is ready."""
    places = services.place(services.SERVICES, os.environ)
    reasons = {program.name: not_ready(program, places[program.name]) for program in services.SERVICES}
    for name, reason in reasons.items():
        click.echo(f"{name:<12} {places[name].url:<28} {'ready' if reason is None else f'not ready: {reason}'}")
    sys.exit(1 if any(reasons.values()) else 0)


@main.command("reset-data")
@in_one_sentence
def reset_data() -> None:
    """Delete the local databases."""
    folder = services.local_folder()
    local.reset_data(folder)
    click.echo(f"The local data in {folder} is deleted.")


if __name__ == "__main__":
    main(prog_name="tally")
