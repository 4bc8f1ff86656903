"""The relationship that ships, declared once: authors attend events. Everything else follows from this."""

from tally.protocol.relationship import Copy, End, Relationship

ATTENDANCE = Relationship(
    name="attendance",
    left=End(
        service="author",
        entity="author",
        plural="attendees",
        copy=Copy("author", ("full_name text",)),
    ),
    right=End(
        service="conference",
        entity="event",
        plural="events",
        seats="capacity",
        copy=Copy(
            "event",
            ("conference_id uuid", "seq bigint", "title text", "starts_at timestamptz"),
            parent=Copy("conference", ("acronym text", "name text")),
        ),
    ),
)
