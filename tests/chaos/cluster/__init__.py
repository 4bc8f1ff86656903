"""Chaos on Kubernetes: a release of the chart on a kind cluster, two of each service, and the faults of k8s/faults.

    __main__    `python -m tests.chaos.cluster`: one run from start to verdict (`make chaos`)
    place       the release in a namespace of its own, and doors to it that no pod's death closes
    schedule    which fault is next, and whether it begins before the one before it is over; pure
    nemesis     applies them, and mends each, whatever happens
    canary      what the machine itself keeps from running
    run         clients and nemesis for a while, then the last look
    planted     a bug, from outside: compensation switched off. The checker must find it
    measure     what a history says about time: throughput, availability, latency; pure
    plot, page  the report: SVG, Markdown and HTML

History, clients, checker and the last look are those of `tests.chaos`. All traffic goes to addresses of the cluster's
own nodes.
"""
