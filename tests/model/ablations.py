"""One rule taken away at a time: each must show a counter-example, or the model could not have found its bug.

An ablation changes the product's functions from outside (:mod:`.mutations`) or takes one care of their
callers away. The product has no switches for this. ``BY_NAME`` holds them all, in the order in which the
protocol is best explained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from tally.protocol.participant import REFUSED, Answer, Message, Row, Step

from . import mutations
from .explorer import Outcome, explore
from .properties import Property
from .rules import LATE_REJOINS, PROTOCOL, Collection, Product, Repeats, Rules
from .scenarios import named

I1, I2, I3, I4, I5, I6, I7 = (Property[f"I{n}"] for n in range(1, 8))


@dataclass(frozen=True)
class Ablation:
    """``rule`` and what it is for; the protocol without it; where it is missed, and what then breaks.

    ``scenarios`` are looked through in this order up to the first counter-example, leaving out the properties
    to ``ignore``: those that break as well, and tell less.
    """

    rule: str
    purpose: str
    without: str
    rules: Rules
    scenarios: tuple[str, ...]
    breaks: Property
    ignore: frozenset[Property] = frozenset()

    def counter_example(self) -> Outcome | None:
        """The first counter-example in the first scenario that has one."""
        for name in self.scenarios:
            outcome = explore(named(name), self.rules, ignore=self.ignore)
            if outcome.violation is not None:
                return outcome
        return None


def _product(**functions: Callable[..., Any]) -> Rules:
    return replace(PROTOCOL, product=Product(**functions))


def _care(**cares: Any) -> Rules:
    return replace(PROTOCOL, care=replace(PROTOCOL.care, **cares))


def _late_rejoins(rejoin: Callable[..., Any]) -> Rules:
    return replace(LATE_REJOINS, product=Product(rejoin=rejoin))


#: A cell of the table that answers dead and leaves nothing behind.
ONLY_SAYS_DEAD = Step(None, Answer.DEAD)
FENCING = (Message.RESOLVE, Message.KILL, Message.CANCEL)

ABLATIONS = (
    Ablation(
        "close_gate",
        (
            "Once a side has closed a time, it refuses to record what is earlier: then the lists of two "
            "closed epochs can only shrink, and comparing them means something."
        ),
        "RECORD does not look at the epoch.",
        _product(decide=mutations.record_in_closed_epochs),
        ("1", "2"),
        I3,
    ),
    Ablation(
        "close_wait",
        (
            "CLOSE waits for the RECORDs in flight: one that has read the old mark must not commit after the "
            "list was made."
        ),
        "RECORD reads the mark, and commits later.",
        _care(close_waits=False),
        ("1",),
        I3,
    ),
    Ablation(
        "fence_absent",
        (
            "Asked about an operation that it does not have, a side leaves a void row before it says dead: a "
            "RECORD that is still on its way must find it."
        ),
        "RESOLVE, KILL and CANCEL of an absent operation answer dead and write nothing.",
        _product(decide=mutations.table({(message, Row.OPEN): ONLY_SAYS_DEAD for message in FENCING})),
        ("1", "8"),
        I7,
    ),
    Ablation(
        "durable_refusal",
        (
            "A refusal (unknown, full, taken) is a void row: asked again, the side refuses again, even if the "
            "reason is gone."
        ),
        "A refused RECORD leaves nothing.",
        _product(decide=mutations.table({(REFUSED, Row.OPEN): ONLY_SAYS_DEAD})),
        ("8c", "8"),
        I2,
        ignore=frozenset({I1, I3, I5, I7}),
    ),
    Ablation(
        "proof",
        (
            "A live half is voided only because the other side is dead for it. A gateway that gives up asks "
            "(RESOLVE); it never orders."
        ),
        "A gateway that hears nothing sends KILL.",
        _product(decide=mutations.kill_without_proof, create=mutations.kill_when_silent),
        ("1",),
        I7,
    ),
    Ablation(
        "one_live",
        "A side holds one live operation of a pair at most.",
        "RECORD does not look whether the pair is taken.",
        _product(decide=mutations.unchecked(taken=None)),
        ("2",),
        I4,
    ),
    Ablation(
        "ack_both",
        "Created is answered when both sides have recorded.",
        "One acknowledgement is enough.",
        _product(create=mutations.created_on_one_ack),
        ("1",),
        I1,
    ),
    Ablation(
        "already_both",
        "That the pair is related already is answered when both sides name the same operation.",
        "One side's word is enough.",
        _product(create=mutations.already_on_one_word),
        ("2",),
        I1,
    ),
    Ablation(
        "close_both",
        (
            "A settler compares when both sides have closed the same time: what one of them does not have yet "
            "may still arrive."
        ),
        "The left side lists without closing.",
        _product(close_left=mutations.list_without_closing),
        ("1", "9"),
        I7,
        ignore=frozenset({Property.MARKS}),
    ),
    Ablation(
        "window",
        "Both lists begin at the same mark, the right side's.",
        "The left side has a mark of its own, that follows the right one's.",
        _care(one_window=False),
        ("9",),
        I3,
    ),
    Ablation(
        "kills_first",
        ("The mark moves when every lone half of the window is known to be dead: nobody looks behind it again."),
        "SETTLE does not wait for the answers to KILL.",
        _product(all_killed=mutations.wait_for_no_kill),
        ("1",),
        I3,
    ),
    Ablation(
        "settle_cas",
        "SETTLE is a compare-and-set on the mark: of two settlers, one confirms.",
        "SETTLE applies whatever the mark says.",
        _product(settle=mutations.settle_from_any_mark),
        ("9", "3"),
        I5,
    ),
    Ablation(
        "settle_live",
        ("SETTLE confirms what is live in its own transaction: a cancel may have come between the list and now."),
        "SETTLE confirms what was listed.",
        _product(settle=mutations.settle_what_was_listed),
        ("6", "3"),
        I5,
    ),
    Ablation(
        "cancel_event",
        "What was confirmed and ends is told in the transaction that ends it.",
        "No cancelled event is written.",
        _product(decide=mutations.end_without_event, delete_entity=mutations.delete_without_event),
        ("6", "3"),
        I5,
    ),
    Ablation(
        "forward",
        "A cancelled half is kept, and sent to the peer, until the peer is known to know.",
        "Cancelled rows stay where they are.",
        _care(forwards=False),
        ("5",),
        I3,
    ),
    Ablation(
        "by_op",
        (
            "What a deletion tells the peer names operations: the pair may have been related anew when the "
            "message arrives."
        ),
        "The deletion of an entity, and a cancel, name the pair.",
        replace(_care(by_op=False), product=Product(delete_entity=mutations.delete_to_void)),
        ("6b", "4b", "4"),
        I6,
    ),
    Ablation(
        "gc_safe",
        "A void row is dropped when its epoch is closed: from then on its absence says the same.",
        "Void rows are dropped at any time.",
        _care(collection=Collection.TOO_EARLY),
        ("1", "3"),
        I7,
    ),
    Ablation(
        "seats_live",
        ("Seats are counted in the transaction that records, and a live half holds its seat, confirmed or not."),
        "RECORD does not look at the seats.",
        _product(decide=mutations.unchecked(seat=True)),
        ("7",),
        I4,
    ),
    Ablation(
        "never_resend",
        "A side that RECORD never left for counts as dead: so the gateway must not send it later.",
        "The gateway sends it after all.",
        _care(never_resends=False),
        ("18", "18b"),
        I1,
    ),
    Ablation(
        "rejoin",
        "A restored database is noticed, and rejoins its peer before it serves.",
        "It serves what the backup has.",
        _care(restore_noticed=False),
        ("11",),
        I1,
    ),
    Ablation(
        "copy_all",
        (
            "A rejoin copies all live halves of the peer: what was acknowledged and not settled yet looks "
            "like a lone half."
        ),
        "It copies what its backup had as settled.",
        _product(reconcile=mutations.copy_settled_only),
        ("11",),
        I1,
    ),
    Ablation(
        "own_dead",
        "A rejoin keeps what the restored side has as void or cancelled.",
        "The peer's live halves replace it.",
        _product(reconcile=mutations.forget_own_dead),
        ("17b", "13", "15"),
        I5,
    ),
    Ablation(
        "latest_rejoin",
        ("The restored side applies the answer to its latest REJOIN: the peer believes in that incarnation only."),
        "It applies any answer.",
        _care(latest_rejoin=False),
        ("12", "11"),
        Property.STUCK,
    ),
    Ablation(
        "ack_inc",
        (
            "Two acknowledgements make a creation when they name the same pair of incarnations: one from "
            "before a restore may be of a half that was lost."
        ),
        "Acknowledgements of any incarnations pass.",
        _product(create=mutations.created_on_any_incarnations),
        ("11", "12"),
        I1,
    ),
    Ablation(
        "proof_inc",
        (
            "A proof names the incarnation that gave it, and is refused once that is not the peer's any more: "
            "a restored database may have copied what it was dead for."
        ),
        "KILL is obeyed whichever incarnation its proof is from.",
        _product(decide=mutations.kill_on_any_proof),
        ("11", "15", "16"),
        I1,
    ),
    Ablation(
        "settle_inc",
        "SETTLE names the incarnation that was listed: after a restore the lists are of another database.",
        "SETTLE applies to any incarnation.",
        _product(settle=mutations.settle_any_incarnation),
        ("11", "16", "13"),
        I3,
    ),
    Ablation(
        "killack_inc",
        "The dead-answers that SETTLE waits for come from the incarnations that were listed.",
        "They may come from any.",
        _product(all_killed=mutations.wait_for_any_incarnation),
        ("11", "12"),
        I3,
    ),
    Ablation(
        "two_acks",
        (
            "A refusal or a cancel outlives the restore of one database if both sides had acknowledged it. At "
            "its deadline a gateway answers on one proof: true for ever, unless that database is restored "
            "from an older backup."
        ),
        "A gateway answers on one proof.",
        _care(deadline=True),
        ("11", "15", "13"),
        I2,
    ),
    Ablation(
        "pin_before",
        (
            "A KILL of what was never sent to the other side names the incarnation which that side had before "
            "RECORD was sent: a rejoin since then may have copied the operation there."
        ),
        "It names the incarnation in the reply to RECORD.",
        _care(pins_before=False),
        ("18g", "18i"),
        I1,
    ),
)

#: Not of the original matrix: found on the way, and variants that were considered.
VARIANTS = (
    Ablation(
        "taken_fresh",
        (
            "Asked again about an operation that it refused as taken, a side names the one in its way only "
            "while that is live: said in today's incarnations, an old reason passes for today's."
        ),
        "It names the one that was stored with the refusal.",
        _care(repeats=Repeats.WHAT_WAS_STORED),
        ("21", "16"),
        I1,
    ),
    Ablation(
        "rejoin_in_order",
        (
            "A side refuses the REJOIN of an incarnation that its peer had before: the request may arrive after its "
            "successor was answered and applied."
        ),
        "Whoever asks to REJOIN is the peer from now on.",
        _late_rejoins(mutations.rejoin_any),
        ("12", "11"),
        Property.STUCK,
    ),
    Ablation(
        "rejoin_once",
        (
            "A side answers the REJOIN of an incarnation once: what it records later, for gateways that know this "
            "incarnation, is not among what that copies."
        ),
        "REJOIN is answered again, with what is live by then.",
        _late_rejoins(mutations.rejoin_again),
        ("18g", "18i"),
        I1,
    ),
    Ablation(
        "cancel_fences",
        "A CANCEL of what a side does not have leaves a void row: the RECORD may still be on its way.",
        "It answers that there is nothing to cancel.",
        _product(decide=mutations.table({(Message.CANCEL, Row.OPEN): ONLY_SAYS_DEAD})),
        ("3",),
        I6,
        ignore=frozenset({I2, I5}),
    ),
)

BY_NAME = {ablation.rule: ablation for ablation in (*ABLATIONS, *VARIANTS)}
