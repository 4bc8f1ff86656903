"""The relationship protocol: settlement by epoch.

Theory of operation
===================
Two services own one entity each: the *left* (author) and the *right* (event) side of a relationship.
A relation between two entities is one **operation** with two **halves**, one in each service's database.

**The commit rule.** An operation exists if and only if both halves are live. Nothing else is written to
commit it: no coordinator log, no state on a half, no mark that says "settled". Creating is one parallel
round trip (RECORD to both sides), reading is an intersection of what both sides hold live.

**Dead is for ever.** A side is *dead* for an operation when it holds a void or cancelled row for it, or
no row and the operation's time lies in a closed epoch. No message turns dead into live, so the word of
one side that it is dead is a proof, however old it is, that the operation does not exist and never will.
Everything destructive asks for that proof: a live half is voided only because the *other* side is dead.

**Epochs.** An operation's id is a UUIDv7, and its milliseconds are its time. CLOSE(T) makes a side refuse
whatever is not yet recorded with a time up to T. When both sides have closed T, the lists of what is
live up to T can only shrink, so a settler may compare them: what is on one side only is a **lone half**
(a crash or a refusal left it) and is killed; what is on both is confirmed, once, by the right side.

**Incarnations.** A database restored from a backup has forgotten things, so its proofs are worth nothing
any more. It takes a new incarnation, tells its peer (REJOIN), and copies the peer's live halves. Each
proof and each pair of acknowledgements names the incarnations it is about, and stale ones are refused.

The three decisions, each pure, in a file of its own:

* :mod:`.participant` - what a side does with a message, as a table;
* :mod:`.gateway`     - what a gateway concludes from the replies of two sides;
* :mod:`.settler`     - what follows from two closed epochs.

:mod:`.operation` makes and reads operation ids, :mod:`.relationship` declares a relationship, and
:mod:`.messages` is what travels. Nothing here does I/O, reads a clock or draws a random number: the
explorer in ``tests/model`` drives these very functions through every interleaving of small scenarios.
"""
