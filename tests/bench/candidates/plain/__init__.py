"""(c): the attendance as a competent engineer writes it in an afternoon.

Three services without protocol and coalescing. An attendance is written on both sides in parallel, each side
checks its own entity by a foreign key. Nothing is undone when one side fails, which is why Tally exists.
"""
