"""An event of which more attend than one transaction ends: its deletion is accepted, and both sides come to agree."""

from uuid import UUID

from tally.halves.deletions import AT_ONCE_MAX
from tally.local.ask import ask
from tests.integration.statements.stage import RECOVERY_TIMEOUT_S, Stage, until

MANY = AT_ONCE_MAX + 1

_NUMBERS = f"FROM generate_series(1, {MANY}) i"
_AUTHOR = "('0000a070-0000-4000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"
_OP = "('018bcfe5-6800-7000-8000-' || lpad(to_hex(i), 12, '0'))::uuid"


def test_an_event_of_which_very_many_attend_is_deleted_and_their_authors_are_told(stage: Stage) -> None:
    event = stage.event()
    halves = (
        f"INSERT INTO attendance_half (op, author, event, st) SELECT {_OP}, {_AUTHOR}, '{UUID(event)}', 'L' {_NUMBERS}"
    )
    stage.next_settlement()  # so that these are attendances of long ago
    stage.stack.postgres.execute(f"INSERT INTO author (id, full_name) SELECT {_AUTHOR}, 'A' {_NUMBERS}", "author")
    for service in ("author", "conference"):
        stage.stack.postgres.execute(halves, service)

    url = f"{stage.stack.urls['conference']}/event/{event}"
    assert ask("DELETE", url).status == 202
    until(lambda: ask("GET", url).status == 404, "the event is gone", RECOVERY_TIMEOUT_S)
    stage.next_settlement()
    live = f"SELECT count(*) FROM attendance_half WHERE st = 'L' AND event = '{UUID(event)}'"
    assert [stage.stack.postgres.execute(live, service) for service in ("author", "conference")] == [["0"], ["0"]]
