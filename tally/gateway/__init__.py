"""The gateway of a relationship: creates, cancels and reads it at two participants, and owns nothing.

:mod:`.coalescer` carries many operations in one call, :mod:`.evidence` gathers what the participants say,
:mod:`.create`, :mod:`.cancel`, :mod:`.read` and :mod:`.status` are what a caller can ask for, and
:mod:`.routes` is their HTTP. Any number of gateways may run.
"""
