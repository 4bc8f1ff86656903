"""The judge can condemn: each invariant is violated by a history made by hand, and a clean history by none.

A test names what must be violated, and nothing else may be: so a rule that condemns too much fails as well.
"""

from pathlib import Path
from uuid import UUID

import pytest

from tally.chassis.problems import CONTENT_TYPE as PROBLEM
from tests.chaos.cast import ATTENDING, TALKING, Cast
from tests.chaos.check import main
from tests.chaos.checker import check
from tests.chaos.history import Copied, Half, History, Kind, Mailed, Phase, Recorder, Seat, Told, Trouble
from tests.chaos.tape import (
    AUTHOR,
    EVENT,
    OTHER_AUTHOR,
    OTHER_EVENT,
    WALL_MS,
    Tape,
    op_at,
)


def violated(history: History) -> set[str]:
    return {verdict.name for verdict in check(history) if verdict.violations}


def undecided(history: History) -> set[str]:
    return {verdict.name for verdict in check(history) if not verdict.decided}


# -- what is right


def a_clean_tape(cast: Cast = ATTENDING) -> Tape:
    """Created, seen, cancelled, created again; one unknown that came to be, and one that did not."""
    tape = Tape(cast=cast)
    first = tape.create((10, 20))
    tape.create((21, 24), first, status=200)
    tape.lists((25, 30), [first])
    tape.cancel((40, 50))
    tape.lists((55, 60), [])
    second = tape.create((70, 80))
    tape.refused((90, 95), f"{cast.event.entity}-not-found", event=UUID(int=7))
    tape.unknown((100, 2100), op_at(101))
    tape.status((2200, 2210), op_at(101), "refused")
    tape.lists((2300, 2310), [second])
    tape.holds(first, author="V", conference="V", told="")
    tape.holds(second)
    return tape


def test_a_clean_history_of_another_relationship_violates_nothing() -> None:
    tape = a_clean_tape(TALKING)
    tape.ends()
    tape.status((901_000, 901_010), op_at(101), "refused")
    assert (violated(tape.history), undecided(tape.history)) == (set(), set())


def test_another_relationship_is_judged_by_its_own_words() -> None:
    tape = a_clean_tape(TALKING)
    tape.request(Kind.CREATE, (96, 97), status=409, media=PROBLEM, code="session-full")
    tape.refused((98, 99), "speaker-not-found")
    assert {"only-logical-errors", "refusals-are-true"} <= violated(tape.ends())


def test_a_clean_history_violates_nothing_and_every_invariant_that_could_look_at_it_did() -> None:
    tape = a_clean_tape()
    tape.seats.append(Seat(EVENT, 5, 1))
    history = tape.ends()
    tape.status((901_000, 901_010), op_at(101), "refused")
    tape.records.append(Copied(1, "the directory's authors", 1))
    tape.records.append(Mailed(1, [str(op_at(100))], [(str(op_at(100)), "<1@x>")]))
    verdicts = check(tape.history)
    assert [str(verdict) for verdict in verdicts if verdict.violations] == []
    assert undecided(history) == set()
    assert {verdict.name for verdict in verdicts if not verdict.checked} == {
        "seats-while-running",
        "nobody-dies",
        "strangers-are-refused",
        "garble-is-refused",
    }


def test_a_history_that_ended_early_leaves_the_end_undecided_and_judges_the_rest() -> None:
    tape = a_clean_tape()
    tape.records.pop()  # the harness died while a request was in flight
    assert undecided(tape.history) == {
        "settles",
        "nothing-is-stuck",
        "nobody-dies",
        "no-lone-half",
        "rows-are-sound",
        "both-directions-agree",
        "seats-at-the-end",
        "operations-are-decided",
        "confirmed-once",
        "copies-follow",
        "mailed-once",
    }
    tape.lists((3000, 3010), [])
    assert violated(tape.history) == {"acknowledged-stays"}


# -- acknowledged stays


@pytest.mark.parametrize("answer", ["list", "get", "cancel", "create"])
def test_an_acknowledged_create_that_is_not_shown_later_is_lost(answer: str) -> None:
    tape = Tape()
    tape.create((10, 20))
    match answer:
        case "list":
            tape.lists((30, 40), [])
        case "get":
            tape.request(Kind.GET, (30, 40), code="attendance-not-found")
        case "cancel":
            tape.cancel((30, 40), code="attendance-not-found")
        case "create":
            tape.refused((30, 40), "author-not-found")
    assert "acknowledged-stays" in violated(tape.history)


def test_an_acknowledged_create_that_is_gone_at_the_end_is_lost() -> None:
    tape = Tape()
    tape.create((10, 20))
    assert violated(tape.ends()) == {"acknowledged-stays"}


def test_already_attending_is_an_acknowledgement_too() -> None:
    tape = Tape()
    tape.lost((1, 5))
    tape.create((10, 20), op_at(2), status=200)
    tape.lists((30, 40), [])
    assert violated(tape.history) == {"acknowledged-stays"}


def test_what_is_seen_then_not_seen_then_seen_flickers_even_if_somebody_cancels_meanwhile() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.lost((12, 30), Kind.CANCEL)
    tape.lists((40, 50), [])
    tape.lists((60, 70), [op])
    assert violated(tape.history) == {"acknowledged-stays"}


@pytest.mark.parametrize("end", ["cancel", "unknown cancel", "lost cancel", "concurrent cancel", "delete"])
def test_whatever_may_have_ended_it_explains_that_it_is_gone(end: str) -> None:
    tape = Tape()
    tape.create((10, 20))
    match end:
        case "cancel":
            tape.cancel((22, 24))
        case "unknown cancel":
            tape.cancel((22, 24), code="outcome-unknown")
        case "lost cancel":
            tape.lost((22, 24), Kind.CANCEL)
        case "concurrent cancel":
            tape.cancel((12, 35))
        case "delete":
            tape.delete_author((22, 24))
    tape.lists((30, 40), [])
    assert violated(tape.history) == set()


@pytest.mark.parametrize("end", ["refused cancel", "unsent cancel", "cancel before", "cancel of another pair"])
def test_what_cannot_have_ended_it_explains_nothing(end: str) -> None:
    tape = Tape()
    match end:
        case "refused cancel":
            tape.create((10, 20))
            tape.cancel((22, 24), code="service-unavailable")
        case "unsent cancel":
            tape.create((10, 20))
            tape.lost((22, 24), Kind.CANCEL, Trouble.UNSENT)
        case "cancel before":
            tape.cancel((2, 4), code="outcome-unknown")
            tape.create((10, 20))
        case "cancel of another pair":
            tape.create((10, 20))
            tape.request(Kind.CANCEL, (22, 24), status=204, names={"author": OTHER_AUTHOR, "event": EVENT})
    tape.lists((30, 40), [])
    assert violated(tape.history) == {"acknowledged-stays"}


def test_a_lost_cancel_may_sit_in_the_socket_of_a_paused_gateway_and_end_what_came_later() -> None:
    tape = Tape()
    tape.fault((5, 20_000), fault="pause")
    tape.lost((6, 10_000), Kind.CANCEL, Trouble.TIMEOUT, fault=None)
    tape.create((20_100, 20_110))
    tape.lists((30_000, 30_010), [])
    assert violated(tape.history) == set()


def test_a_degraded_list_promises_nothing() -> None:
    tape = Tape()
    tape.create((10, 20))
    tape.lists((30, 40), [], complete=False)
    tape.lists((50, 60), [op_at(45)], complete=False)
    assert violated(tape.history) == set()


# -- refused stays absent


@pytest.mark.parametrize("code", ["service-unavailable", "event-full", "contended"])
def test_a_refused_create_that_is_visible_is_found(code: str) -> None:
    tape = Tape(capacity=5)
    tape.refused((10, 20), code)
    tape.lists((30, 40), [op_at(12)])
    assert violated(tape.history) == {"refused-stays-absent"}


def test_a_refused_create_that_is_only_in_the_databases_is_found() -> None:
    tape = Tape()
    tape.refused((10, 20), "service-unavailable")
    tape.holds(op_at(12))
    assert violated(tape.ends()) == {"refused-stays-absent"}


def test_a_refused_create_that_is_only_confirmed_is_found() -> None:
    tape = Tape()
    tape.refused((10, 20), "service-unavailable")
    tape.holds(op_at(12), author=None, conference=None, told="confirmed cancelled")
    assert violated(tape.ends()) == {"refused-stays-absent"}


def test_a_connection_that_was_refused_made_nothing() -> None:
    tape = Tape()
    tape.lost((10, 20), trouble=Trouble.UNSENT)
    tape.lists((30, 40), [op_at(12)])
    assert violated(tape.history) == {"refused-stays-absent"}


def test_an_unknown_create_explains_one_operation_of_its_time_and_not_two() -> None:
    tape = Tape()
    tape.lost((10, 20))
    tape.lists((30, 40), [op_at(12)])
    assert violated(tape.history) == set()
    tape.cancel((50, 60))
    tape.lists((70, 80), [op_at(13)])
    assert violated(tape.history) == {"refused-stays-absent"}


def test_an_unknown_create_does_not_explain_an_operation_of_another_time() -> None:
    tape = Tape()
    tape.unknown((10, 20))
    tape.lists((9000, 9010), [op_at(8000)])
    assert violated(tape.history) == {"refused-stays-absent"}


def test_an_operation_that_is_said_to_be_refused_and_was_seen_is_found() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.cancel((30, 40))
    tape.status((45, 49), op, "refused", complete=False)
    assert violated(tape.history) == set()
    tape.status((50, 60), op, "refused")
    assert violated(tape.history) == {"refused-stays-absent"}


# -- ended stays ended


def test_a_cancelled_operation_that_is_seen_again_is_found() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.cancel((30, 40))
    tape.lists((50, 60), [op])
    assert violated(tape.history) == {"ended-stays-ended"}


def test_a_cancel_that_ended_another_operation_of_the_pair_is_fine() -> None:
    tape = Tape()
    tape.create((10, 20))
    tape.cancel((30, 40))
    second = tape.create((35, 45))
    tape.lists((50, 60), [second])
    assert violated(tape.history) == set()


def test_an_attendance_of_a_deleted_author_that_is_seen_is_found() -> None:
    tape = Tape()
    tape.delete_author((5, 8))
    tape.create((10, 20))
    assert violated(tape.history) == {"ended-stays-ended"}


@pytest.mark.parametrize("state", ["refused", "cancelled"])
def test_an_operation_that_was_told_to_be_dead_is_not_seen_later(state: str) -> None:
    tape = Tape()
    op = op_at(12)
    tape.unknown((10, 20), op)
    tape.status((30, 40), op, state)
    tape.lists((50, 60), [op])
    assert "ended-stays-ended" in violated(tape.history)


# -- one operation per pair


def test_two_operations_of_a_pair_in_one_list_are_found() -> None:
    tape = Tape()
    one = tape.create((10, 20))
    tape.unknown((21, 22), op_at(21))
    tape.lists((30, 40), [one, op_at(21)])
    assert violated(tape.history) == {"one-operation-per-pair"}


def test_a_second_created_while_the_first_certainly_lives_is_found() -> None:
    tape = Tape()
    one = tape.create((10, 20))
    tape.create((30, 40))
    tape.lists((50, 60), [one])
    assert "one-operation-per-pair" in violated(tape.history)


def test_two_that_are_seen_in_turns_lived_at_once() -> None:
    tape = Tape()
    one, other = tape.create((10, 20)), tape.create((11, 21))
    for i in range(3):
        tape.lists((30 + 20 * i, 40 + 20 * i), [one if i % 2 else other])
    tape.lost((12, 500), Kind.CANCEL)
    assert "one-operation-per-pair" in violated(tape.history)


def test_one_operation_that_two_creates_or_two_pairs_claim_is_found() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.create((11, 21), op)
    assert violated(tape.history) == {"one-operation-per-pair"}
    tape = Tape()
    op = tape.create((10, 20))
    tape.create((11, 21), op, status=200, event=OTHER_EVENT)
    assert violated(tape.history) == {"one-operation-per-pair"}


# -- seats and refusals


def test_more_lives_at_once_than_seats_are_found() -> None:
    tape = Tape(capacity=1)
    tape.create((10, 20))
    tape.create((11, 21), author=OTHER_AUTHOR)
    assert violated(tape.history) == {"seats-while-running"}


def test_one_after_the_other_needs_one_seat() -> None:
    tape = Tape(capacity=1)
    tape.create((10, 20))
    tape.cancel((30, 40))
    tape.create((50, 60), author=OTHER_AUTHOR)
    assert violated(tape.history) == set()


@pytest.mark.parametrize("code", ["author-not-found", "event-not-found", "both-not-found"])
def test_a_404_about_somebody_who_exists_is_a_lie(code: str) -> None:
    tape = Tape()
    tape.refused((10, 20), code)
    assert violated(tape.history) == {"refusals-are-true"}


def test_a_404_about_somebody_who_may_be_deleted_is_true() -> None:
    tape = Tape()
    tape.delete_author((15, 30))
    tape.refused((10, 20), "author-not-found")
    assert violated(tape.history) == set()


def test_a_409_for_an_event_without_a_capacity_is_a_lie() -> None:
    tape = Tape()
    tape.refused((10, 20), "event-full")
    assert violated(tape.history) == {"refusals-are-true"}


def test_a_refusal_of_what_lives_all_the_while_is_a_lie() -> None:
    tape = Tape(capacity=1)
    op = tape.create((10, 20))
    tape.refused((30, 40), "event-full")
    tape.lists((50, 60), [op])
    assert violated(tape.history) == {"refusals-are-true"}


# -- answers


def test_an_answer_after_its_deadline_is_late_unless_the_harness_itself_was_not_scheduled() -> None:
    tape = Tape()
    tape.unknown((10, 2520))
    assert violated(tape.history) == {"within-deadline"}
    tape.stall((100, 150))
    assert violated(tape.history) == set()


def test_no_answer_at_all_is_late_unless_the_service_was_down() -> None:
    tape = Tape()
    tape.lost((10, 5000), trouble=Trouble.TIMEOUT, fault=None)
    assert violated(tape.history) == {"within-deadline"}
    tape.fault((4000, 6000), fault="pause")
    assert violated(tape.history) == set()
    tape = Tape()
    tape.lost((10, 5000), trouble=Trouble.TIMEOUT, fault=None)
    tape.fault((4000, 6000), target="conference", fault="pause")
    assert violated(tape.history) == {"within-deadline"}


@pytest.mark.parametrize(
    ("status", "media", "code"),
    [
        (500, "application/problem+json", "internal"),
        (500, "text/plain", None),
        (503, "text/html", None),
        (404, "application/json", "author-not-found"),
        (404, "application/problem+json", "no-such-code"),
        (409, "application/problem+json", "author-not-found"),
        (302, None, None),
    ],
)
def test_an_answer_that_is_no_logical_error_is_found(status: int, media: str | None, code: str | None) -> None:
    tape = Tape()
    names = {"author": UUID(int=5), "event": EVENT}
    tape.request(Kind.GET, (10, 20), status=status, media=media, code=code, names=names)
    assert violated(tape.history) == {"only-logical-errors"}


@pytest.mark.parametrize("fault", ["crowd", "strangers", "flood"])
def test_guests_are_no_excuse_for_what_others_are_not_answered(fault: str) -> None:
    tape = Tape()
    tape.fault((5, 100), fault=fault)
    tape.lost((10, 20), Kind.GET, fault=None)
    assert violated(tape.history) == {"answers-while-up"}


@pytest.mark.parametrize("status", [200, 404])
def test_a_stranger_who_is_served_is_found(status: int) -> None:
    tape = Tape()
    tape.request(Kind.INTRUDE, (10, 11), code="unauthenticated", names={}, target="author")
    tape.request(Kind.INTRUDE, (12, 13), code="forbidden", names={}, target="author")
    tape.request(Kind.INTRUDE, (14, 15), code="overloaded", names={}, target="author")
    assert violated(tape.history) == set()
    code = None if status == 200 else "not-found"
    tape.request(Kind.INTRUDE, (16, 17), status=status, code=code, names={}, target="author")
    assert violated(tape.history) == {"strangers-are-refused"}


@pytest.mark.parametrize("end", ["done", "two answers", "open"])
def test_what_is_no_request_and_is_not_refused_once_and_closed_is_found(end: str) -> None:
    tape = Tape()
    tape.request(Kind.GARBLE, (10, 11), code="bad-request", names={})
    assert violated(tape.history) == set()
    match end:
        case "done":
            tape.request(Kind.GARBLE, (12, 13), status=200, names={})
        case "two answers":
            tape.request(Kind.GARBLE, (12, 13), code="bad-request", names={}, reason="2 answers")
        case "open":
            tape.request(Kind.GARBLE, (12, 13), trouble=Trouble.TIMEOUT, reason="it was not closed", names={})
    assert violated(tape.history) == {"garble-is-refused"}


def test_a_connection_that_is_lost_while_nobody_touched_the_service_is_found() -> None:
    tape = Tape()
    tape.fault((10, 20), target="author")
    tape.lost((12, 14), fault=None)
    assert violated(tape.history) == {"answers-while-up"}
    tape.fault((13, 20))
    assert violated(tape.history) == set()


# -- the end


@pytest.mark.parametrize("code", ["service-unavailable", "outcome-unknown", "contended"])
def test_a_pair_that_is_stuck_when_all_is_healed_is_found(code: str) -> None:
    tape = Tape()
    tape.ends()
    tape.refused((901_000, 901_010), code)
    assert violated(tape.history) == {"nothing-is-stuck"}


def test_a_service_that_was_found_dead_is_found() -> None:
    tape = Tape()
    tape.fault((10, 20), target="conference", fault="died")
    assert violated(tape.ends()) == {"nobody-dies"}


def test_a_settlement_that_did_not_come_is_found() -> None:
    assert violated(Tape().ends(reached=False)) == {"settles"}


@pytest.mark.parametrize(("author", "conference"), [("L", None), ("L", "V"), (None, "L"), ("V", "L")])
def test_a_lone_half_is_found(author: str | None, conference: str | None) -> None:
    tape = Tape()
    tape.unknown((10, 20), op_at(12))
    tape.holds(op_at(12), author=author, conference=conference, told="confirmed" if conference == "L" else "")
    tape.ends()
    tape.status((901_000, 901_001), op_at(12), "refused")
    assert violated(tape.history) == {"no-lone-half"}


def test_a_cancel_that_was_never_forwarded_is_found() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.cancel((30, 40))
    tape.holds(op, author="V", conference="C", told="")
    assert violated(tape.ends()) == {"no-lone-half"}


def test_halves_of_different_pairs_are_found() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.author_halves.append(Half(op, "L", AUTHOR, EVENT))
    tape.conference_halves.append(Half(op, "L", OTHER_AUTHOR, EVENT))
    tape.outbox.append(Told(1, "confirmed", op, AUTHOR, EVENT))
    assert "no-lone-half" in violated(tape.ends())


def test_two_live_halves_of_a_pair_are_found() -> None:
    tape = Tape()
    one, other = tape.create((10, 20)), op_at(50)
    tape.unknown((49, 60), other)
    tape.holds(one)
    tape.holds(other)
    tape.ends()
    tape.status((901_000, 901_001), other, "done")
    assert violated(tape.history) == {"rows-are-sound", "one-operation-per-pair"}


def test_a_live_half_of_an_entity_that_is_gone_is_found() -> None:
    tape = Tape()
    gone = UUID(int=0xDEAD)
    op = tape.create((10, 20), event=gone)
    tape.author_halves.append(Half(op, "L", AUTHOR, gone))
    tape.conference_halves.append(Half(op, "L", AUTHOR, gone))
    tape.outbox.append(Told(1, "confirmed", op, AUTHOR, gone))
    assert "rows-are-sound" in violated(tape.ends())


def test_a_direction_that_does_not_show_what_is_live_is_found() -> None:
    tape = Tape()
    tape.unknown((10, 20), op_at(12))
    tape.holds(op_at(12))
    tape.ends(shown=[])
    tape.status((901_000, 901_001), op_at(12), "done")
    assert violated(tape.history) == {"both-directions-agree"}


def test_a_direction_that_nobody_could_read_is_found() -> None:
    tape = Tape()
    tape.ends()
    tape.request(Kind.LIST_BY_EVENT, (902_000, 902_010), code="service-unavailable", names={"event": EVENT})
    assert violated(tape.history) == {"both-directions-agree", "nothing-is-stuck"}


def test_seats_that_are_miscounted_or_overbooked_are_found() -> None:
    tape = Tape(capacity=3)
    tape.seats.append(Seat(EVENT, 3, 1))
    assert violated(tape.ends()) == {"seats-at-the-end"}
    tape = Tape(capacity=0)
    tape.unknown((10, 20), op_at(12))
    tape.holds(op_at(12))
    tape.seats.append(Seat(EVENT, 0, 1))
    tape.ends(shown=[op_at(12)])
    tape.status((901_000, 901_001), op_at(12), "done")
    assert "seats-at-the-end" in violated(tape.history)


@pytest.mark.parametrize("state", ["done", "undecided", "unknown", None])
def test_an_unknown_operation_whose_address_does_not_tell_the_truth_is_found(state: str | None) -> None:
    tape = Tape()
    tape.unknown((10, 20), op_at(12))
    tape.holds(op_at(12), author="V", conference=None, told="")
    tape.ends()
    if state is not None:
        tape.status((901_000, 901_001), op_at(12), state)
    assert "operations-are-decided" in violated(tape.history)


@pytest.mark.parametrize("told", ["", "cancelled", "confirmed confirmed", "confirmed cancelled"])
def test_a_live_operation_that_is_not_confirmed_exactly_once_is_found(told: str) -> None:
    tape = Tape()
    tape.holds(tape.create((10, 20)), told=told)
    assert violated(tape.ends()) == {"confirmed-once"}


@pytest.mark.parametrize("told", ["confirmed", "cancelled", "cancelled confirmed", "confirmed cancelled cancelled"])
def test_a_dead_operation_that_was_confirmed_and_not_then_cancelled_is_found(told: str) -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.cancel((30, 40))
    tape.holds(op, author="V", conference="V", told=told)
    assert violated(tape.ends()) == {"confirmed-once"}


# -- the command


def written(tape: Tape, path: Path) -> Path:
    with Recorder(path, tape.history.header) as recorder:
        for record in tape.records[1:]:
            recorder.write(record)
    return path


def test_the_command_says_by_its_exit_code_what_the_file_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clean = a_clean_tape()
    clean.ends()
    clean.status((901_000, 901_001), op_at(101), "refused")
    assert main([str(written(clean, tmp_path / "clean.jsonl"))]) == 0
    assert main([str(written(a_clean_tape(), tmp_path / "cut.jsonl"))]) == 2
    clean.lists((950_000, 950_001), [])
    assert main([str(written(clean, tmp_path / "lost.jsonl"))]) == 1
    assert "VIOLATED  acknowledged-stays" in capsys.readouterr().out
    assert main([str(tmp_path / "nowhere.jsonl")]) == 2


def test_a_phase_can_be_looked_up() -> None:
    tape = a_clean_tape()
    tape.records.append(Phase("load-ended", 5, WALL_MS))
    assert tape.history.phase("load-ended") is not None
    assert tape.history.phase("observed") is None


@pytest.mark.parametrize(
    ("record", "broken"),
    [
        (Copied(1, "the directory's authors", 1, missing=["x"]), "copies-follow"),
        (Copied(1, "the directory's authors", 1, surplus=["x"]), "copies-follow"),
        (Mailed(1, ["op"], []), "mailed-once"),
        (Mailed(1, ["op"], [("op", "<1@x>"), ("op", "<2@x>")]), "mailed-once"),
    ],
)
def test_what_does_not_follow_the_owners_is_found(record: Copied | Mailed, broken: str) -> None:
    tape = a_clean_tape()
    tape.ends()
    tape.status((901_000, 901_010), op_at(101), "refused")
    tape.records.append(record)
    assert [verdict.name for verdict in check(tape.history) if verdict.violations] == [broken]
