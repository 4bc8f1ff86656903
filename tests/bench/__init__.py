"""The benchmark behind `make bench`: four ways to write an attendance into two databases.

candidates/   the four: two plain inserts (a), the same in batches (b), a plain gateway (c), Tally (d)
load.py       the load process: a closed loop over keep-alive connections
measure.py    what the kernel says about processor time
rounds.py     who runs when, and whether the databases agree with what was answered
figures.py    medians, and whether Tally keeps its promises
events/       the other part: what telling others costs, and how long it takes
report.py     the terminal's table, the JSON file, docs/performance.md

Assumes a POSIX machine and the `embedded` and `test` requirements. Everything listens on 127.0.0.1 only.
"""
