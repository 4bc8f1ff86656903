"""Operation ids are UUIDv7, and their order is the order of their times."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from tally.protocol import operation

TIMES = st.integers(0, 2**48 - 1)
BITS = st.integers(0, 2**80 - 1)


def test_the_example_of_the_rfc() -> None:
    """RFC 9562, appendix A.6: Tuesday, February 22, 2022 2:22:22.00 PM GMT-05:00."""
    example = UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")
    assert operation.make(0x017F22E279B0, 0xCC3 << 64 | 0x18C4DC0C0C07398F) == example
    assert operation.time_ms(example) == 0x017F22E279B0


@settings(deadline=None)
@given(TIMES, BITS)
def test_an_id_is_a_uuid7_of_its_time(time_ms: int, bits: int) -> None:
    op = operation.make(time_ms, bits)
    assert (op.version, op.variant) == (7, RFC_4122)
    assert operation.time_ms(op) == time_ms


@settings(deadline=None)
@given(TIMES, TIMES, BITS, BITS)
def test_ids_sort_by_time(first: int, second: int, bits: int, more: int) -> None:
    if first < second:
        assert operation.make(first, bits) < operation.make(second, more)


@settings(deadline=None)
@given(TIMES, st.integers(0, 2**76 - 1), st.integers(0, 2**76 - 1))
def test_seventy_four_bits_tell_ids_of_one_time_apart(time_ms: int, bits: int, more: int) -> None:
    counted = (0xFFF << 64) | ((1 << 62) - 1)
    assert counted.bit_count() == 74
    same = bits & counted == more & counted
    assert (operation.make(time_ms, bits) == operation.make(time_ms, more)) == same


def test_every_operation_is_later_than_the_beginning() -> None:
    assert operation.time_ms(operation.make(1, 0)) > operation.BEGINNING_MS


@settings(deadline=None)
@given(TIMES, TIMES)
def test_the_next_time_is_past_every_closed_epoch_and_never_before_the_clock(now_ms: int, closed_ms: int) -> None:
    next_ms = operation.next_time_ms(now_ms, closed_ms)
    assert next_ms > closed_ms
    assert next_ms >= now_ms
    assert next_ms in (now_ms, closed_ms + 1)
