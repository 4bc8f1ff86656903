"""What telling others costs, and how long it takes: `python -m tests.bench --events`.

ground.py     a whole stack, and what is asked of its database, its broker and its processes
relays.py     the relay's two ways out of the database, in turn: a backlog, and a steady stream of changes
mails.py      from a create's answer to its mail's acceptance
figures.py    what was measured: latencies, medians, and whether the promise is kept
report.py     the tables, for the terminal and docs/performance.md
run.py        the plan, and the run
"""
