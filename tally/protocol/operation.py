"""Operation ids: UUIDv7 (RFC 9562), whose first 48 bits are the operation's time in milliseconds.

Assumes that whoever makes one supplies the clock and 74 random bits.
"""

from uuid import UUID

_VERSION = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_A = 0xFFF << 64
_RANDOM_B = (1 << 62) - 1

#: An epoch that nothing belongs to: every operation is later than this.
BEGINNING_MS = 0


def make(time_ms: int, random_bits: int) -> UUID:
    """A UUIDv7 of ``time_ms`` (Unix milliseconds, 48 bits); of the lowest 76 ``random_bits``, 74 are used."""
    random = (random_bits & _RANDOM_A) | (random_bits & _RANDOM_B)
    return UUID(int=(time_ms & 0xFFFF_FFFF_FFFF) << 80 | _VERSION | _VARIANT | random)


def time_ms(op: UUID) -> int:
    """The operation's time in Unix milliseconds: what CLOSE compares with."""
    return op.int >> 80


def next_time_ms(now_ms: int, closed_ms: int) -> int:
    """The time for a new attempt: not before the clock, and after every epoch known to be closed.

    A hybrid clock (Kulkarni et al., 2014, without its counter): a gateway whose clock is behind learns
    from a refusal how far the epochs are closed, and goes past that.
    """
    return max(now_ms, closed_ms + 1)
