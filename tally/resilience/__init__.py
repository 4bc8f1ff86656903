"""What keeps a fault in one service from becoming a fault of another. One duty per file:

deadline   when nobody waits any more          retry     may a failed call be tried again, and when
budget     how many retries are too many       breaker   stop calling a peer that fails or drags
bulkhead   how many calls at once per peer     limiter   how many requests this server takes at once
hedge      a second read after the p95         policy    all of it around one outgoing call
window     counts over the last calls/seconds  circuit   aiobreaker without its clock
verdict    what a call can come to             observer  who is told of events

The decisions are pure: clock and randomness are arguments, so a simulator can own them. Only `bulkhead`,
`policy` and the runner in `hedge` await. Nothing here knows HTTP, metrics or logging: events leave through
`observer.Observer`. Everything assumes one event loop and no other thread.
"""
