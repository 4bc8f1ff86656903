"""The seam between the model and the product: which functions decide, and what their callers take care of.

``Product`` holds the product's functions as they are; ``Care`` holds what no pure function can do, because it
is a matter of locks, of order, or of what a process remembers. The default of both is the protocol.
:mod:`.ablations` replaces one function or one care at a time; the product itself has no switch for that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tally.protocol import gateway, participant, settler
from tally.protocol.participant import Decision, Mark

Decide = Callable[..., Decision]


@dataclass(frozen=True)
class Product:
    """The product's functions, under the names they have there."""

    decide: Decide = participant.decide
    delete_entity: Callable[[int, Mark], Decision] = participant.delete_entity
    close_left: Callable[[Mark, int], Mark] = participant.close
    close_right: Callable[[Mark, int], Mark] = participant.close
    settle: Callable[..., tuple[Mark, list[Any]] | None] = participant.settle
    rejoin: Callable[[Mark, Any], Mark | None] = participant.rejoin
    reconcile: Callable[..., participant.Reconciliation] = participant.reconcile
    create: Callable[..., Any] = gateway.create
    cancel: Callable[..., Any] = gateway.cancel
    compare: Callable[..., settler.Comparison] = settler.compare
    all_killed: Callable[..., bool] = settler.all_killed


class Collection(Enum):
    """When a void row is dropped."""

    AT_ONCE = "as soon as its epoch is closed"
    SOME_TIME = "at any time, or never, once its epoch is closed"
    TOO_EARLY = "at any time, whatever its epoch"


class Repeats(Enum):
    """Which operation a side names when it is asked again about one that it refused as taken."""

    NOTHING = "none: only the transaction that refuses names it"
    WHAT_IS_LIVE = "the one that stood in its way, while that is live"
    WHAT_WAS_STORED = "the one that stood in its way, whatever became of it"


@dataclass(frozen=True)
class Care:
    """What the shells around the product's functions take care of."""

    close_waits: bool = True  # CLOSE waits for the RECORDs in flight: the advisory lock
    one_window: bool = True  # both sides list from the right side's mark
    forwards: bool = True  # a cancelled row is sent to the peer until it is known to know
    by_op: bool = True  # a cancel, and what a deletion tells the peer, name operations, not the pair
    collection: Collection = Collection.AT_ONCE
    restore_noticed: bool = True  # a restored database rejoins before it serves
    late_rejoins: bool = False  # REJOIN is as late as any message; else it arrives when it is asked, or never
    latest_rejoin: bool = True  # only the answer to the latest REJOIN is applied
    pins_before: bool = True  # KILL of what was never sent names the incarnation known before RECORD
    never_resends: bool = True  # a RECORD that did not leave never will
    deadline: bool = False  # a gateway may reach its deadline, and answer on one proof
    repeats: Repeats = Repeats.WHAT_IS_LIVE


def rejoin_in_order(mark: Mark, inc: Any) -> Mark | None:
    """REJOIN of an incarnation that the peer had before, or has already, is refused: None."""
    return participant.rejoin(mark, inc) if inc > mark.peer_inc else None


@dataclass(frozen=True)
class Rules:
    product: Product = field(default_factory=Product)
    care: Care = field(default_factory=Care)


PROTOCOL = Rules()
#: Gateways may reach their deadline at any moment. Promised only while no database is restored.
DEADLINE = Rules(care=Care(deadline=True))
#: Void rows stay as long as they like: after a restore, what is there and what is not differ.
LAZY = Rules(care=Care(collection=Collection.SOME_TIME))
#: REJOIN is as late as any message, and an incarnation is accepted once and in order.
LATE_REJOINS = Rules(Product(rejoin=rejoin_in_order), Care(late_rejoins=True))
