"""The `tally` command: what people type. Each command parses its arguments and calls what does the work.

A `LocalError` is the user's to mend: one sentence on standard error and exit code 1, never a stack trace.
"""

import errno
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import wraps
from http import HTTPStatus
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args
from uuid import UUID

import click

from tally.chassis.faults import Kind
from tally.halves.restore import Skippable
from tally.local import outcomes, prometheus, reports, services, walkthrough
from tally.local import run as local
from tally.local.ask import not_ready
from tally.local.console import wants_colour
from tally.local.control import Remote
from tally.local.exports import exports
from tally.local.failure import LocalError
from tally.local.operator import Operator
from tally.resilience.breaker import Mode

ASK_AGAIN_S = 0.5
#: What a write may meet with; the system names no file then.
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

P = ParamSpec("P")
R = TypeVar("R")


def in_one_sentence(command: Callable[P, R]) -> Callable[P, R]:
    """Turns a `LocalError` into its sentence, and what the system says of a file into one."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except LocalError as error:
            said = str(error)
        except PermissionError as error:
            said = (
                f"{error.filename} cannot be used by this user ({error.strerror}): run Tally as the user who made it, "
                "or choose another folder with TALLY_LOCAL_FOLDER=…"
            )
        except OSError as error:
            if error.filename is None and error.errno not in _UNWRITABLE:
                raise
            what = f"{error.filename} cannot be used" if error.filename is not None else "a file cannot be written"
            said = f"{what} ({error.strerror}): mend that, or choose another folder with TALLY_LOCAL_FOLDER=…"
        click.echo(f"tally: {said}", err=True)
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
    """Start PostgreSQL and every service; Ctrl-C stops them. With OBSERVE=1, Prometheus, too."""
    folder = (folder or services.local_folder()).absolute()
    programs: tuple[services.Program, ...] = services.SERVICES
    if os.environ.get("OBSERVE", "") not in ("", "0"):
        if prometheus.found():
            programs = (*programs, prometheus.PROMETHEUS)
        else:
            click.echo(f"tally: {prometheus.MISSING}", err=True)
    sys.exit(local.run(folder, programs=programs, supervise=not no_restart, machine_readable=machine_readable))


@main.command()
@in_one_sentence
def demo() -> None:
    """Walk through the API of a running Tally, and check each answer."""
    places = _places()
    remote = Remote(services.local_folder())
    outage = remote.stopped if remote.is_there else None
    walkthrough.Demonstration(places, click.echo, colour=wants_colour(sys.stdout), outage=outage).run()


@main.command()
@click.argument("service")
@in_one_sentence
def stop(service: str) -> None:
    """Stop one SERVICE of the running Tally, until it is started again."""
    Remote(services.local_folder()).stop(service)
    click.echo(f"{service} is stopped; `tally start {service}` starts it.")


@main.command()
@click.argument("service")
@in_one_sentence
def start(service: str) -> None:
    """Start a SERVICE of the running Tally that was stopped."""
    Remote(services.local_folder()).start(service)
    click.echo(f"{service} is ready.")


class _ShowByDefault(click.Group):
    """`tally operation ID` is `tally operation show ID`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        short = bool(args) and args[0] not in self.commands and not args[0].startswith("-")
        return super().parse_args(ctx, ["show", *args] if short else args)


@main.group(cls=_ShowByDefault)
def operation() -> None:
    """Ask what became of an operation (`tally operation ID`), and decide about one that waits.

    Every request ends in one of three ways. Done: it is recorded on both sides. Refused: nothing is recorded, now or
    later. Unknown: neither could be proven in time; the answer (504 outcome-unknown) names the operation, and this
    tells what became of it, at the latest when its epoch is settled, about three seconds after the services are back.
    """


@operation.command("show")
@click.argument("operation_id", metavar="ID", type=click.UUID)
@click.option("--wait", "wait_s", type=float, default=0.0, help="Seconds to ask again for, until it is decided.")
@in_one_sentence
def show_operation(operation_id: UUID, wait_s: float) -> None:
    """Ask what became of an operation.

    Exit code 0 if it is decided, one way or the other; 3 if it is not yet; 1 if nobody knows it, or nobody answers; 2
    if the command was mistyped.
    """
    gateway = _places()["gateway"]
    give_up_s = time.monotonic() + wait_s
    while True:
        answer = walkthrough.asked("gateway", gateway, "GET", f"/operation/{operation_id}")
        if not outcomes.is_open(answer) or time.monotonic() >= give_up_s:
            break
        time.sleep(ASK_AGAIN_S)
    click.echo(outcomes.in_words(answer))
    sys.exit(outcomes.NOT_YET if outcomes.is_open(answer) else 0 if answer.status == HTTPStatus.OK else 1)


@operation.command("retry")
@click.argument("operation_id", metavar="ID", type=click.UUID)
@in_one_sentence
def retry_operation(operation_id: UUID) -> None:
    """Try a deferred operation now; one that was parked is queued again."""
    _operator().order(operation_id, "retry")
    click.echo("It is tried as soon as its turn comes.")


@operation.command("abandon")
@click.argument("operation_id", metavar="ID", type=click.UUID)
@in_one_sentence
def abandon_operation(operation_id: UUID) -> None:
    """Give a deferred operation up, unless it is carried out before that."""
    _operator().order(operation_id, "abandon")
    click.echo(f"It is given up as soon as its turn comes; `tally operation {operation_id}` tells.")


@main.command()
@in_one_sentence
def status() -> None:
    """Ask each service whether it is ready."""
    places = _places()
    reasons = {program.name: not_ready(program, places[program.name]) for program in services.SERVICES}
    for program in services.SERVICES:
        name, reason = program.name, reasons[program.name]
        where = services.address(program, places[name])
        click.echo(f"{name:<12} {where:<28} {'ready' if reason is None else f'not ready: {reason}'}")
    sys.exit(1 if any(reasons.values()) else 0)


def _places() -> services.Places:
    return services.found(services.SERVICES, os.environ, Remote(services.local_folder()).places())


def _operator() -> Operator:
    return Operator(_places(), services.local_folder(), os.environ)


@main.command()
@in_one_sentence
def env() -> None:
    """Print what a shell needs to ask the local databases: eval "$(tally env)".

    PostgreSQL's programs are on the PATH then, as the superuser (PGHOST, PGPORT, PGUSER, PGPASSWORD), and
    AUTHOR_DATABASE_URL and the like are the services' own addresses.
    """
    click.echo(exports(services.local_folder()))


@main.command()
@click.argument("service")
@in_one_sentence
def token(service: str) -> None:
    """Print an operator's token for the admin port of a local SERVICE; it is good for ten minutes."""
    click.echo(_operator().token(service))


@main.group()
def breakers() -> None:
    """Look at circuit breakers, and hold them in a state."""


@breakers.command("list")
@click.argument("service")
@in_one_sentence
def list_breakers(service: str) -> None:
    """How the breakers of SERVICE stand."""
    for one in _operator().breakers(service):
        state = one["breaker"]["state"]
        click.echo(f"{one['peer']:<12} {one['kind']:<8} {state:<14} in use {one['bulkhead_in_use']}")


@breakers.command("force")
@click.argument("service")
@click.argument("peer")
@click.argument("kind")
@click.argument("mode", type=click.Choice([mode.value for mode in Mode]))
@in_one_sentence
def force_breaker(service: str, peer: str, kind: str, mode: str) -> None:
    """Hold SERVICE's breaker for calls of KIND to PEER in MODE; auto frees it."""
    _operator().force(service, peer, kind, mode)
    click.echo(f"{service}: calls of kind {kind} to {peer} are now {mode}.")


@main.group()
def parked() -> None:
    """Messages that a service could not apply: look at them, try them again, or give them up."""


@parked.command("list")
@click.argument("service")
@in_one_sentence
def list_parked(service: str) -> None:
    """What SERVICE has parked, by consumer, the oldest first."""
    for one in (items := _operator().parked(service)):
        what = f"{one['entity']} {one['subject']}" if one["subject"] else "not an event"
        tried = f"tried {one['attempts']} times: " if one["attempts"] > 1 else ""
        click.echo(f"{one['consumer']:<20} {one['sequence']:>8}  {what}  {tried}{one['reason']}")
    if not items:
        click.echo("Nothing is parked.")


@parked.command("retry", context_settings={"ignore_unknown_options": True})
@click.argument("service")
@click.argument("consumer")
@click.argument("sequence", type=int)
@in_one_sentence
def retry_parked(service: str, consumer: str, sequence: int) -> None:
    """Apply the message of SERVICE's CONSUMER at SEQUENCE, and what waits behind it."""
    retried = _operator().retry_parked(service, consumer, sequence)
    left = f"; {retried['waiting']} still wait: {retried['reason']}" if retried["waiting"] else ""
    click.echo(f"{consumer}: applied {retried['applied']}{left}.")


@parked.command("drop", context_settings={"ignore_unknown_options": True})
@click.argument("service")
@click.argument("consumer")
@click.argument("sequence", type=int)
@in_one_sentence
def drop_parked(service: str, consumer: str, sequence: int) -> None:
    """Give up the message of SERVICE's CONSUMER at SEQUENCE, for good. What waits behind it goes on waiting."""
    _operator().drop_parked(service, consumer, sequence)
    click.echo(f"{consumer}: dropped {sequence}.")


@main.group()
def outbox() -> None:
    """Events on their way out of a service: how many wait, and publish some once more."""


@outbox.command("status")
@click.argument("service")
@in_one_sentence
def outbox_status(service: str) -> None:
    """How many events wait in SERVICE, and since when."""
    status = _operator().outbox(service)
    since = f", the oldest since {status['oldest']}" if status["oldest"] else ""
    click.echo(f"{status['rows']} events wait{since} (published from the {_SOURCES[status['mode']]}).")


@outbox.command("republish")
@click.argument("service")
@click.option("--since", required=True, callback=lambda _, __, text: _moment(text), help="2h, 30m, 7d, or an ISO time.")
@in_one_sentence
def outbox_republish(service: str, since: datetime) -> None:
    """Publish SERVICE's events once more. They keep their ids: who has applied them already applies nothing."""
    count = sum(_operator().republish(service, since))
    click.echo(f"{count} events since {since.isoformat(timespec='seconds')} are published again.")


_SOURCES = {"outbox": "outbox table", "wal": "database's log"}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _moment(text: str) -> datetime:
    """A time that long ago, or a time as ISO 8601 has it; without a zone it is the local one."""
    try:
        if text[-1:] in _UNITS:
            return datetime.now(UTC) - timedelta(**{_UNITS[text[-1]]: float(text[:-1])})
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{text} is no time: say 2h, 30m, 7d, or 2026-05-04T12:00:00+00:00.") from error


@main.group()
def directory() -> None:
    """Rebuild the directory's read view, and compare it."""


@directory.command("rebuild")
@in_one_sentence
def rebuild_directory() -> None:
    """Tell the view anew from the stream's beginning, beside the one that is read, and switch to it."""
    standing: dict[str, Any] = {}
    with click.progressbar(length=1000, label="Rebuilding") as bar:
        for standing in _operator().rebuild():
            bar.update(int(standing["ratio"] * 1000) - bar.pos)
    same = "the same as before" if standing["equal"] else "different from what was there"
    click.echo(f"{standing['sequence']} messages were read, {standing['skipped']} skipped; the view is {same}.")


@directory.command("digest")
@in_one_sentence
def digest_directory() -> None:
    """What the view holds: equal digests are equal data."""
    for name, held in _operator().digest().items():
        click.echo(f"{name:<12} {held['rows']:>10} rows  {held['digest']}")


@main.group()
def audit() -> None:
    """Who did what to which entity when, and whether somebody has tampered with it."""


@audit.command("verify")
@in_one_sentence
def verify_audit() -> None:
    """Walk the chain of all entries; exit code 1 names the first that does not fit."""
    verified: dict[str, Any] = {}
    for verified in _operator().verify_audit():
        click.echo(f"\r{verified['seq']} entries", nl=False, err=True)
    click.echo(err=True)
    if (broken := verified["broken"]) is not None:
        raise LocalError(f"The audit trail is broken at entry {broken['seq']}: {broken['why']}.")
    click.echo(f"{verified['seq']} entries are as they were written. The last one's hash is {verified['hash']}.")


@audit.command("show")
@click.argument("entity", type=click.Choice(["author", "event", "conference", "attendance", "operation"]))
@click.argument("id", type=click.UUID)
@in_one_sentence
def show_audit(entity: str, id: UUID) -> None:
    """What was done to one ENTITY."""
    for entry in _operator().audit(entity, id):
        click.echo(f"{entry['at']}  {entry['type']:<24} {entry['actor'] or '–':<16} {entry['data']}")


@main.group()
def restore() -> None:
    """A database that was restored from a backup: say so, see what became of it, go on without somebody."""


@restore.command("begin")
@click.argument("service")
@click.option("--reason", default="the operator says so", show_default=True, help="For the report.")
@in_one_sentence
def begin_restore(service: str, reason: str) -> None:
    """Tell SERVICE that its database is an old copy: it catches up before it serves again."""
    _operator().begin_restore(service, reason)
    click.echo(f"{service}: catching up. See `tally restore report {service}`.")


@restore.command("report")
@click.argument("service")
@in_one_sentence
def report_restore(service: str) -> None:
    """What the last restore of SERVICE brought back, and what it could not. Exit code 3 while it is under way."""
    status = _operator().restore(service)
    click.echo(reports.in_words(status))
    sys.exit(outcomes.NOT_YET if status["restoring"] else 0)


@restore.command("skip")
@click.argument("service")
@click.argument("what", type=click.Choice(get_args(Skippable)))
@in_one_sentence
def skip_in_restore(service: str, what: str) -> None:
    """Let SERVICE go on without the stream, or without a peer that is being restored itself."""
    _operator().skip_in_restore(service, what)
    click.echo(f"{service}: goes on without the {what}.")


@main.group()
def faults() -> None:
    """Switch faults on in a running service (started with TALLY_FAULTS=on)."""


@faults.command("list")
@click.argument("service")
@in_one_sentence
def list_faults(service: str) -> None:
    """The faults that are on in SERVICE."""
    _show_faults(_operator().faults(service))


@faults.command("set")
@click.argument("service")
@click.argument("kind", type=click.Choice([kind.value for kind in Kind]))
@click.option("--for", "expires_s", type=float, default=60.0, show_default=True, help="Seconds until it ends.")
@click.option("--rate", type=float, default=1.0, show_default=True, help="The share of requests that it hits.")
@click.option("--path", default="/", show_default=True, help="Only paths that begin with this.")
@click.option("--latency-ms", type=float, default=0.0, help="How much later, for latency.")
@click.option("--jitter-ms", type=float, default=0.0, help="Give or take this, for latency.")
@click.option("--seed", type=int, default=0, help="The same seed hits the same requests.")
@in_one_sentence
def set_fault(service: str, **fault: object) -> None:
    """Let KIND happen in SERVICE, beside the faults that are on."""
    operator = _operator()
    on = [{**one["fault"], "expires_s": max(one["left_s"], 0.1)} for one in operator.faults(service)]
    _show_faults(operator.set_faults(service, [*on, fault]))


@faults.command("clear")
@click.argument("service")
@in_one_sentence
def clear_faults(service: str) -> None:
    """End all faults of SERVICE."""
    _show_faults(_operator().set_faults(service, []))


def _show_faults(items: list[dict[str, Any]]) -> None:
    for one in items:
        fault, left_s, hits = one["fault"], one["left_s"], one["hits"]
        click.echo(f"{fault['kind']:<10} {fault['rate']:.0%} of {fault['path']}  for {left_s:.0f} s more, hit {hits}")
    if not items:
        click.echo("No faults are on.")


@main.command("reset-data")
@in_one_sentence
def reset_data() -> None:
    """Delete the local databases."""
    folder = services.local_folder()
    local.reset_data(folder)
    click.echo(f"The local data in {folder} is deleted.")


if __name__ == "__main__":
    main(prog_name="tally")
