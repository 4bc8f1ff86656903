"""What Tally states, tried with real processes and a real PostgreSQL, over HTTP like anybody's client.

One stack serves the whole folder (:mod:`.conftest`); a test that stops, pauses or kills somebody puts things right
again before it ends. :mod:`.stage` is what tests do with the stack, :mod:`.second` runs one more process of a service.
"""
