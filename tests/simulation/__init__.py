"""The simulation: the product's gateway, participants and settlers in one process, on virtual time, under every fault.

What is real here: ``tally.gateway`` (Creator, Canceller, Reader, StatusReader over Participants and Coalescers),
``tally.halves`` (Participant over MemoryStore, Peer, Settler, Local) and ``tally.protocol`` below them. What is
the simulation's: time and the order in which things happen (:mod:`.loop`, :mod:`.clocks`), hosts whose processes
crash and start again (:mod:`.processes`), databases that fail (:mod:`.database`), and the network
(:mod:`.network`). A message travels as bytes, so the codecs run too.

**One seed, one history.** :mod:`.planner` turns a seed into a :mod:`.plan`: settings, what each client does, and
which faults there are. What the plan leaves open (how long a message takes, whether a storm hits it) is drawn from
the seed and the message's name, not from a stream (:mod:`.chance`): taking one entry out of a plan leaves
the others' luck alone, which is what lets :mod:`.shrink` find the few entries that matter.

**Two judges.** :mod:`.ledger` sees every transaction of both databases and checks what must hold at every moment
(I3 to I7, marks, seats). :mod:`.judge` compares each answer a client got with what the ledger saw while the
client waited (I1, I2, I6, I7, deadlines). After the faults :mod:`.epilogue` heals everything, lets the settlers
work until nothing changes, delivers whatever is still on its way, and asks for everything once more.

``python -m tests.simulation --seeds 2000`` runs many seeds, ``--seed 17 -v`` shows one history. Not simulated: the
restore of a database, which MemoryStore doesn't do (``tests/model`` explores it).
"""
