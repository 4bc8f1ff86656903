"""Bugs to plant, each a small change of the product from outside: what the simulation must be able to find.

Each is one that somebody might make: a rule of the protocol left out, a proof not asked for, an answer given too
early. A simulation that doesn't find them proves nothing by finding nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from tally.gateway import coalescer, create, evidence, read
from tally.halves import memory
from tally.halves.memory import MemoryStore
from tally.halves.peer import Peer
from tally.halves.settler import Settler
from tally.protocol import gateway, participant
from tally.protocol import settler as settler_protocol
from tally.protocol.gateway import SILENT, UNSENT, Dead, Kill, Recorded, Refused
from tally.protocol.participant import TABLE, Answer, Checks, Message, Reason, Row, Status, Step
from tally.protocol.relationship import Side
from tests.simulation.history import Property

Planting = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True, slots=True)
class Bug:
    """``shows`` are the properties that it may be found by; the seed ``near`` is where to look first, to save time."""

    name: str
    shows: frozenset[Property]
    plant: Planting
    near: int


BUGS: dict[str, Bug] = {}


def _bug(*shows: Property, near: int = 0) -> Callable[[Planting], Planting]:
    def declare(plant: Planting) -> Planting:
        name = plant.__name__.replace("_", "-")
        BUGS[name] = Bug(name, frozenset(shows), plant, near)
        return plant

    return declare


P = Property

# -- a participant forgets


@_bug(P.I2, P.DEAD, P.I7, P.I3, near=3)
def a_refusal_leaves_no_row() -> AbstractContextManager[Any]:
    """A refusal is answered, and not written down: the same RECORD may be taken later."""
    record = MemoryStore.record

    async def forget(store: MemoryStore, items: Any, now_ms: int) -> Any:
        before = set(store.rows)
        verdicts = await record(store, items, now_ms)
        for op in [op for op, half in store.rows.items() if half.status is Status.VOID and op not in before]:
            del store.rows[op]
        return verdicts

    return patch.object(MemoryStore, "record", forget)


@_bug(P.I2, P.DEAD, P.I7, P.I3, near=18)
def an_absent_operation_is_not_fenced() -> AbstractContextManager[Any]:
    """RESOLVE answers dead of what may still be recorded."""
    return patch.dict(TABLE, {(Message.RESOLVE, Row.OPEN): Step(None, Answer.DEAD)})


@_bug(P.DEAD, P.I3, near=1)
def a_closed_epoch_is_open() -> AbstractContextManager[Any]:
    """RECORD is taken after CLOSE."""
    decide = participant.decide

    def late(message: Message, row: Row, *rest: Any, **named: Any) -> Any:
        return decide(message, Row.OPEN if (message, row) == (Message.RECORD, Row.CLOSED) else row, *rest, **named)

    return patch.object(participant, "decide", late)


@_bug(P.DEAD)
def void_rows_are_collected_early() -> AbstractContextManager[Any]:
    """Void rows go before their epoch is closed."""

    def drop(store: MemoryStore) -> None:
        for op in [op for op, half in store.rows.items() if half.status is Status.VOID]:
            del store.rows[op]

    return patch.object(MemoryStore, "_drop_void", drop)


@_bug(P.I4)
def only_confirmed_halves_hold_seats() -> AbstractContextManager[Any]:
    """A half that isn't confirmed yet doesn't count."""

    def seat(store: MemoryStore, right: Any) -> bool:
        confirmed = {event.op for event in store.outbox}
        taken = [op for op, half in store.rows.items() if half.status is Status.LIVE and half.right == right]
        return store.side is Side.LEFT or len(confirmed.intersection(taken)) < store.capacity.get(right, 10**9)

    return patch.object(MemoryStore, "_seat", seat)


@_bug(P.I4)
def a_pair_may_be_taken_twice() -> AbstractContextManager[Any]:
    """RECORD does not look for another operation of the pair."""
    return patch.object(memory, "Checks", lambda **checks: Checks(**{**checks, "taken": None}))


@_bug(P.I5)
def the_end_of_what_was_confirmed_is_not_told() -> AbstractContextManager[Any]:
    decide = participant.decide

    def silently(*arguments: Any, **named: Any) -> Any:
        return replace(decide(*arguments, **named), cancelled=False)

    return patch.object(participant, "decide", silently)


# -- the settler cuts corners


@_bug(P.I3, P.I5, near=1)
def lone_halves_are_spared() -> AbstractContextManager[Any]:
    async def spare(*_: Any) -> None: ...

    return patch.object(Settler, "_kill", spare)


@_bug(P.I3)
def cancels_are_not_forwarded() -> AbstractContextManager[Any]:
    async def nothing(*_: Any) -> int:
        return 0

    return patch.object(Settler, "_forward", nothing)


@_bug(P.I5, near=4)
def two_settlers_confirm_the_same() -> AbstractContextManager[Any]:
    """SETTLE without compare-and-set."""
    settle = participant.settle

    def anyway(mark: Any, since: int, *rest: Any) -> Any:
        done = settle(replace(mark, settled=since), since, *rest)
        return done and (replace(done[0], settled=max(mark.settled, done[0].settled)), done[1])

    return patch.object(participant, "settle", anyway)


@_bug(P.I7, P.I5)
def the_lists_are_of_different_windows() -> AbstractContextManager[Any]:
    """The left side lists from the beginning, the right side from where it is settled."""
    compare = settler_protocol.compare
    seen: set[Any] = set()

    def compared(left: Any, right: Any) -> Any:
        known = frozenset(seen)
        seen.update(left.live)
        return compare(replace(left, live=left.live | known), right)

    return patch.object(settler_protocol, "compare", compared)


@_bug(P.I3, P.I7, P.MARKS, P.DEAD)
def the_left_side_is_not_closed() -> AbstractContextManager[Any]:
    """The left side lists, and goes on recording."""
    close = MemoryStore.close

    async def only_list(store: MemoryStore, message: Any) -> Any:
        before = store.state
        closed = await close(store, message)
        if store.side is Side.LEFT:
            store.state = before
        return closed

    return patch.object(MemoryStore, "close", only_list)


# -- the gateway answers too early, or acts without proof


@_bug(P.I2, near=21)
def silence_is_taken_for_a_refusal() -> AbstractContextManager[Any]:
    decide = gateway.create

    def hasty(left: Any, right: Any, *, expired: bool) -> Any:
        if expired and SILENT in (left, right):
            return Refused(UNSENT, UNSENT)
        return decide(left, right, expired=expired)

    return patch.object(gateway, "create", hasty)


@_bug(P.I2, P.I7, near=4)
def a_timeout_kills_without_proof() -> AbstractContextManager[Any]:
    """The other side is silent: its half is undone here at once."""
    decide = gateway.create

    def undo(left: Any, right: Any, *, expired: bool) -> Any:
        match left, right:
            case (Recorded(), gateway._Silent()) if not expired:
                return Kill(Side.LEFT, left.peer_inc)
            case (gateway._Silent(), Recorded()) if not expired:
                return Kill(Side.RIGHT, right.peer_inc)
        return decide(left, right, expired=expired)

    return patch.object(gateway, "create", undo)


@_bug(P.I2, P.I7, P.I1, near=21)
def sent_is_taken_for_unsent() -> AbstractContextManager[Any]:
    """A message that left, and was not answered in time, is believed to have stayed."""
    return patch.object(evidence, "_SILENT", evidence._WITHDRAWN)


@_bug(P.I1, P.TRUE)
def one_side_is_enough_for_already() -> AbstractContextManager[Any]:
    decide = gateway.create

    def hasty(left: Any, right: Any, *, expired: bool) -> Any:
        for told in (left, right):
            if isinstance(told, Dead) and told.why is Reason.TAKEN:
                return gateway.Already(told.other)
        return decide(left, right, expired=expired)

    return patch.object(gateway, "create", hasty)


@_bug(P.I3)
def nobody_compensates() -> AbstractContextManager[Any]:
    """The gateway sends no KILL, and the settler neither."""
    decide = gateway.create
    stack = ExitStack()
    stack.enter_context(lone_halves_are_spared())

    def refuse(left: Any, right: Any, *, expired: bool) -> Any:
        send = decide(left, right, expired=expired)
        return decide(left, right, expired=True) if isinstance(send, Kill) else send

    stack.enter_context(patch.object(gateway, "create", refuse))
    return stack


@_bug(P.I6, near=116)
def a_cancel_needs_no_acknowledgement() -> AbstractContextManager[Any]:
    decide = gateway.cancel

    def done(left: Any, right: Any, *, expired: bool) -> Any:
        return Refused(None, None) if expired else decide(left, right, expired=expired)

    return patch.object(gateway, "cancel", done)


@_bug(P.I6, near=32)
def what_was_cancelled_is_tried_again() -> AbstractContextManager[Any]:
    """An operation that somebody cancelled before its create was answered counts as refused (a bug we had)."""

    def refused(creator: Any, refused: Refused, attempt: Any) -> Refused:
        return refused

    return patch.object(create.Creator, "_refused", refused)


@_bug(P.TIME, near=4)
def nobody_looks_at_the_clock() -> AbstractContextManager[Any]:
    """Whoever waits for a participant waits until it answers."""
    gather = evidence.gather
    ask = Peer._ask
    stack = ExitStack()

    async def patiently(tickets: Any, within_s: float) -> Any:
        return await gather(tickets, within_s + 10)

    async def for_ever(peer: Peer, message: str, kind: str, body: Any, decoder: Any, deadline: Any) -> Any:
        return await ask(peer, message, kind, body, decoder, None)

    for module in (create, read):
        stack.enter_context(patch.object(module, "gather", patiently))
    stack.enter_context(patch.object(Peer, "_ask", for_ever))
    return stack


# -- reads


@_bug(P.I7, near=3)
def a_read_shows_lone_halves() -> AbstractContextManager[Any]:
    """What the owner of the list holds is shown, whatever the other side says."""

    def own_only(page: Any, own: Any, peer: Any, limit: int) -> bool:
        page.items += [(op, id, b'{"id":"%s"}' % id.encode()) for op, id in zip(own.ops, own.others, strict=True)]
        page.next = own.ops[-1] if len(own.ops) > limit else None
        return page.next is None

    return patch.object(read, "_add_both", own_only)


@_bug(P.I1, P.TRUE, near=130)
def a_page_ends_where_one_side_ends() -> AbstractContextManager[Any]:
    """The next page begins after the larger of the two last operations."""

    def larger(page: Any, own: Any, peer: Any, limit: int) -> bool:
        whole = add_both(page, own, peer, limit)
        full = [listed.ops[-1] for listed in (own, peer) if len(listed.ops) > limit]
        page.next = max(full) if full else None
        return whole

    add_both = read._add_both
    return patch.object(read, "_add_both", larger)


# -- below the protocol


@_bug(P.I1, P.I2, P.I6, P.I7, P.TRUE, near=17)
def answers_of_a_batch_are_mixed_up() -> AbstractContextManager[Any]:
    deliver = coalescer.Coalescer._deliver

    def reverse(self: Any, batch: Any, outcomes: Any) -> None:
        deliver(self, batch, outcomes if not isinstance(outcomes, list) else outcomes[::-1])

    return patch.object(coalescer.Coalescer, "_deliver", reverse)


@contextmanager
def planted(name: str) -> Iterator[Bug]:
    """Run the product with one bug."""
    bug = BUGS[name]
    with bug.plant():
        yield bug
