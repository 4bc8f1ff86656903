"""What a participant does: every cell of its table against a literal one, and what surrounds the table."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.protocol.participant import (
    REFUSED,
    TABLE,
    Answer,
    Checks,
    Decision,
    Id,
    Mark,
    Message,
    Reason,
    Row,
    Snapshot,
    Status,
    close,
    decide,
    delete_entity,
    may_close,
    reconcile,
    refusal,
    rejoin,
    row_of,
    settle,
)

MARK = Mark(inc="me", peer_inc="peer", closed=100, settled=50)
FINE = Checks(entity=True)
DEAD_ROWS = (Row.VOID, Row.CANCELLED, Row.CLOSED)

# message, what is held: what is written, what is answered, why, change of seats. Written from the protocol, not
# from the code. A dash is a cell in which nothing is written.
EXPECTED = """
record   live       -  recorded  -          0
record   void       -  dead      -          0
record   cancelled  -  dead      -          0
record   closed     -  dead      too-late   0
record   open       L  recorded  -          1
resolve  live       -  recorded  -          0
resolve  void       -  dead      -          0
resolve  cancelled  -  dead      -          0
resolve  closed     -  dead      too-late   0
resolve  open       V  dead      resolved   0
kill     live       V  dead      killed    -1
kill     void       -  dead      -          0
kill     cancelled  -  dead      -          0
kill     closed     -  dead      too-late   0
kill     open       V  dead      killed     0
cancel   live       C  dead      cancelled -1
cancel   void       -  dead      -          0
cancel   cancelled  -  dead      -          0
cancel   closed     -  dead      too-late   0
cancel   open       V  dead      cancelled  0
ack      live       -  nothing   -          0
ack      void       -  nothing   -          0
ack      cancelled  V  nothing   -          0
ack      closed     -  nothing   -          0
ack      open       -  nothing   -          0
"""
CELLS = [line.split() for line in EXPECTED.split("\n") if line]


def told(message: Message, row: Row, mark: Mark = MARK, time: int = 60, checks: Checks | None = FINE) -> Decision:
    """The decision on a message that rests on the peer's word of today."""
    return decide(message, row, mark, time, checks=checks, inc=mark.peer_inc)


@pytest.mark.parametrize(("message", "row", "write", "answer", "why", "seats"), CELLS)
def test_each_cell_of_the_table(message: str, row: str, write: str, answer: str, why: str, seats: str) -> None:
    assert told(Message(message), Row(row)) == Decision(
        answer=Answer(answer),
        write=None if write == "-" else Status(write),
        why=None if why == "-" else Reason(why),
        seats=int(seats),
    )


def test_the_table_has_every_message_and_row_and_nothing_else() -> None:
    assert len(CELLS) == len(Message) * len(Row)
    assert set(TABLE) == {(message, row) for message in Message for row in Row} | {(REFUSED, Row.OPEN)}


def test_what_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(KeyError):
        decide(Message.CANCEL, Row.OPEN, MARK, 60, table={})


# -- dead is for ever


MESSAGES = st.lists(st.tuples(st.sampled_from(Message), st.booleans(), st.integers(0, 200)), max_size=12)


@settings(deadline=None)
@given(MESSAGES, st.integers(1, 200))
def test_no_message_turns_dead_into_live(messages: list[tuple[Message, bool, int]], time: int) -> None:
    """Messages, closed epochs and dropped void rows in any order: once dead was answered, it stays the answer."""
    mark, status, dead = Mark("me", "peer"), None, False
    for message, refused, closed in messages:
        row = row_of(status, time, mark.closed)
        decision = told(message, row, mark, time, Checks(entity=not refused))
        assert not (dead and decision.answer is Answer.RECORDED)
        status = decision.write or status
        dead = dead or decision.answer is Answer.DEAD
        mark = close(mark, closed)
        if status is Status.VOID and time <= mark.closed:
            status = None
        assert not (dead and status is Status.LIVE)


@settings(deadline=None)
@given(MESSAGES, st.integers(1, 200))
def test_seats_are_the_live_halves_and_each_end_of_a_settled_one_is_told_once(
    messages: list[tuple[Message, bool, int]], time: int
) -> None:
    mark, status, seats, told_of = Mark("me", "peer", settled=100), None, 0, 0
    for message, refused, _ in messages:
        decision = told(message, row_of(status, time, mark.closed), mark, time, Checks(entity=not refused))
        before, status = status, decision.write or status
        seats += decision.seats
        told_of += decision.cancelled
        assert seats == (status is Status.LIVE)
        assert decision.cancelled == (before is Status.LIVE and status is not Status.LIVE and time <= 100)
    assert told_of <= 1


# -- proofs


@pytest.mark.parametrize("row", Row)
@pytest.mark.parametrize("message", [Message.KILL, Message.ACK])
def test_the_word_of_another_incarnation_changes_nothing(message: Message, row: Row) -> None:
    assert decide(message, row, MARK, 60, inc="somebody before") == Decision(Answer.STALE)
    assert decide(message, row, MARK, 60) == Decision(Answer.STALE)


@pytest.mark.parametrize("message", [Message.RECORD, Message.RESOLVE, Message.CANCEL])
def test_only_kill_and_ack_rest_on_the_peers_word(message: Message) -> None:
    assert decide(message, Row.LIVE, MARK, 60, inc="somebody").answer is not Answer.STALE


# -- refusals


@pytest.mark.parametrize(
    ("checks", "why", "other"),
    [
        (Checks(entity=False), Reason.NOT_FOUND, None),
        (Checks(entity=True, taken="other"), Reason.TAKEN, "other"),
        (Checks(entity=True, seat=False), Reason.FULL, None),
        (Checks(entity=True, early=True), Reason.TOO_EARLY, None),
        # The pair that has a seat already is told so, not that there are none left.
        (Checks(entity=True, taken="other", seat=False), Reason.TAKEN, "other"),
        (Checks(entity=False, taken="other", seat=False), Reason.NOT_FOUND, None),
        (Checks(entity=False, early=True), Reason.TOO_EARLY, None),
    ],
)
def test_a_refusal_is_a_void_row_that_says_why(checks: Checks, why: Reason, other: str | None) -> None:
    assert refusal(checks) == (why, other)
    decision = decide(Message.RECORD, Row.OPEN, MARK, 160, checks=checks)
    assert decision == Decision(Answer.DEAD, Status.VOID, why, other)


def test_nothing_stands_in_the_way_of_a_free_pair() -> None:
    assert refusal(Checks(entity=True)) is None


@pytest.mark.parametrize("row", [Row.LIVE, *DEAD_ROWS])
def test_what_is_decided_already_needs_no_checks(row: Row) -> None:
    nothing_fits = Checks(entity=False, taken="other", seat=False, early=True)
    assert told(Message.RECORD, row, checks=nothing_fits) == told(Message.RECORD, row, checks=None)


def test_an_open_record_is_not_decided_without_its_checks() -> None:
    with pytest.raises(ValueError, match="checks"):
        decide(Message.RECORD, Row.OPEN, MARK, 160)


# -- rows and epochs


@pytest.mark.parametrize("status", Status)
def test_a_row_says_what_is_held_whatever_the_epoch(status: Status) -> None:
    names = {Status.LIVE: Row.LIVE, Status.VOID: Row.VOID, Status.CANCELLED: Row.CANCELLED}
    assert row_of(status, 1, 100) is row_of(status, 101, 100) is names[status]


@pytest.mark.parametrize(("time", "row"), [(99, Row.CLOSED), (100, Row.CLOSED), (101, Row.OPEN)])
def test_without_a_row_the_epoch_decides_and_its_last_millisecond_is_closed(time: int, row: Row) -> None:
    assert row_of(None, time, closed=100) is row


@settings(deadline=None)
@given(st.lists(st.integers(0, 1000), max_size=6))
def test_a_closed_epoch_does_not_open_again(times: list[int]) -> None:
    mark = MARK
    for time in times:
        after = close(mark, time)
        assert after == replace(mark, closed=max(mark.closed, time))
        mark = after


@pytest.mark.parametrize(("time", "may"), [(999, True), (1000, True), (1001, False)])
def test_a_settler_whose_clock_is_ahead_may_not_close(time: int, may: bool) -> None:
    assert may_close(time, now=2000, lag=2000) is may


# -- the end of what was confirmed


@pytest.mark.parametrize(("time", "cancelled"), [(50, True), (51, False)])
@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
def test_what_was_settled_is_told_when_it_ends(message: Message, time: int, cancelled: bool) -> None:
    assert told(message, Row.LIVE, time=time).cancelled is cancelled
    assert told(message, Row.OPEN, time=time).cancelled is False


@pytest.mark.parametrize(("time", "cancelled"), [(50, True), (51, False)])
def test_a_deleted_entity_leaves_cancelled_halves_that_are_forwarded(time: int, cancelled: bool) -> None:
    expected = Decision(Answer.DEAD, Status.CANCELLED, Reason.DELETED, seats=-1, cancelled=cancelled)
    assert delete_entity(time, MARK) == expected


# -- settle


def test_settle_confirms_what_is_still_live_in_the_order_given_and_moves_the_mark() -> None:
    settled = settle(MARK, 50, 90, ["c", "a", "b"], "me", {"a", "c", "elsewhere"})
    assert settled == (replace(MARK, settled=90), ["c", "a"])


@pytest.mark.parametrize(
    ("since", "time", "inc"),
    [(40, 90, "me"), (60, 90, "me"), (50, 90, "me before"), (50, 50, "me"), (50, 40, "me")],
    ids=["another was faster", "mark went back", "another incarnation", "nothing new", "backwards"],
)
def test_settle_applies_once_to_the_incarnation_that_was_listed(since: int, time: int, inc: str) -> None:
    assert settle(MARK, since, time, ["a"], inc, {"a"}) is None


def test_the_second_of_two_settlers_confirms_nothing() -> None:
    first = settle(MARK, 50, 90, ["a"], "me", {"a"})
    assert first is not None
    assert settle(first[0], 50, 95, ["a"], "me", {"a"}) is None


# -- restores


def test_a_rejoin_changes_whom_the_intact_side_believes_and_nothing_else() -> None:
    assert rejoin(MARK, "new") == replace(MARK, peer_inc="new")


def test_a_restored_side_copies_keeps_its_dead_drops_what_the_peer_lacks_and_becomes_somebody_new() -> None:
    restored = replace(MARK, restoring=True)
    rows: dict[Id, Status] = {
        "kept": Status.LIVE,
        "unknown to the peer": Status.LIVE,
        "confirmed, unknown to the peer": Status.LIVE,
        "void here": Status.VOID,
        "cancelled here": Status.CANCELLED,
    }
    live: dict[Id, int] = dict.fromkeys(["kept", "void here", "cancelled here", "new", "new, entity lost"], 120)
    times: dict[Id, int] = {op: 70 for op in rows} | live | {"confirmed, unknown to the peer": 50}
    outcome = reconcile(
        restored, rows, times, {"new, entity lost"}, Snapshot(live, closed=130, inc="peer now"), "me now"
    )
    assert outcome.mark == Mark("me now", "peer now", closed=130, settled=50, restoring=False)
    assert outcome.copy == {"kept", "new"}
    assert outcome.orphan == {"new, entity lost"}
    assert outcome.drop == {"unknown to the peer", "confirmed, unknown to the peer"}
    assert outcome.cancelled == {"confirmed, unknown to the peer"}


def test_a_restored_side_keeps_an_epoch_that_it_had_closed_further_than_its_peer() -> None:
    outcome = reconcile(MARK, {}, {}, (), Snapshot({}, closed=10, inc="peer"), "me now")
    assert outcome.mark.closed == 100


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(1, 9), st.sampled_from(Status)),
    st.sets(st.integers(1, 9)),
    st.sets(st.integers(1, 9)),
    st.integers(0, 9),
    st.integers(0, 9),
)
def test_after_reconciling_every_half_is_live_on_both_sides_or_dead_here(
    rows: dict[int, Status], live: set[int], lost: set[int], closed: int, settled: int
) -> None:
    mark = Mark("old", "peer", closed, settled, restoring=True)
    times: dict[Id, int] = {op: op for op in {*rows, *live}}
    held: dict[Id, Status] = {op: status for op, status in rows.items()}
    outcome = reconcile(mark, held, times, lost, Snapshot({op: op for op in live}, 9, "peer"), "new")
    dead = {op for op, status in rows.items() if status is not Status.LIVE}
    assert outcome.copy | outcome.orphan == live - dead
    assert not outcome.copy & lost and outcome.orphan <= lost
    assert (set(rows) | outcome.copy) - dead - outcome.drop == outcome.copy | (outcome.orphan & set(rows))
    assert outcome.cancelled == {op for op in outcome.drop if times[op] <= settled}
