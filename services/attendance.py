"""The relationship that ships, declared once: authors attend events. Everything else follows from this."""

from tally.protocol.relationship import End, Relationship

ATTENDANCE = Relationship(
    name="attendance",
    left=End(service="author", entity="author", plural="attendees"),
    right=End(service="conference", entity="event", plural="events", seats="capacity"),
)
