"""The model: every interleaving of small scenarios, with the product's own functions making every decision.

What is the product's here, called as the services call it:

* ``tally.protocol.participant`` decides what a side does with a message, a deletion, CLOSE, SETTLE, a rejoin;
* ``tally.protocol.gateway``     concludes from evidence what to answer, or what to send;
* ``tally.protocol.settler``     compares two closed epochs.

What is the model's own: the space of states (:mod:`.world`), the network (:mod:`.network`), who acts
(:mod:`.processes`), backups and restores (:mod:`.restores`), the order in which things happen
(:mod:`.explorer`), what must hold (:mod:`.properties`), and the scenarios. :mod:`.participants` applies the
product's decisions to a side. :mod:`.rules` is the seam between the two, and :mod:`.ablations` uses it to take
one rule away at a time (:mod:`.mutations`): each must then show a counter-example, or the model could not have
found the bug that the rule is there to prevent. :mod:`.report` writes them down.

One step is one local transaction. Messages are a set that only grows: once sent, a message may be delivered
never, once or many times, at any later moment, which is loss, duplication, delay and reordering. A process
that crashes takes no further step; since every prefix is explored, every crash point is. What somebody heard
stays known for ever, so evidence may be arbitrarily old. Times are small integers, an operation is its own
time, and a settler may close any of a scenario's times at any moment: that covers every skew of clocks.

Three shortcuts keep the space small. The first two only add behaviour, the third removes none:

* whatever a side would answer if it were asked now is known at once: knowing more never disables a step;
* a RESOLVE (a gateway's time-out) and a KILL that a known proof justifies may be delivered at any time;
* messages that can have no effect any more are forgotten.

:mod:`.events` is a model of its own: how events leave an outbox, and how a shadow copy follows them.

``python -m tests.model`` explores all of it; see ``--help``.
"""
