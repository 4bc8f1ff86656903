"""Services that are stopped, slow, wrong, silent, asked by strangers and asked too much: real processes, real sockets.

One stack serves the whole package, with the fault switch on. Each test leaves it as it found it: everything runs, no
fault is on, every breaker is closed.
"""
