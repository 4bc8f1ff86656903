"""Chaos on one machine: real processes, real PostgreSQL, random kills and pauses under load; a judge who only reads.

    cast        who plays: the relationship that ships, or the second one that only the tests declare
    __main__    `python -m tests.chaos`: one run from start to verdict (`make chaos-local`)
    history     what is recorded: a file of JSON lines, written while it happens
    workload    the clients: create, cancel, create again, read in both directions, delete entities
    nemesis     who kills, pauses and restarts
    observe     the last look, when everything is healed and settled: both databases, both directions, every unknown
    lives       what a history proves about each operation: when it certainly lived, and who may have ended it
    verdict     how an invariant is declared, and what is said of it
    while_running, answers, at_the_end      the invariants, one function each
    checker     all of them
    check       `python -m tests.chaos.check results/….jsonl`: the verdicts of a recorded run, as often as one likes
    report      a run as Markdown

The judge knows nothing but the file, and the file holds nothing but what a client saw and what the databases held at
the end. The clients' clock is the harness's monotonic one, so "before" and "after" are those of real time.
"""
