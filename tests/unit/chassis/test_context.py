"""What a request brings along, and what of it is believed."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tally.chassis import context
from tally.chassis.context import Context, arrived
from tally.resilience.deadline import Deadline

NOW_S, LIMIT_S = 1000.0, 2.0
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def arriving(*headers: tuple[str, str]) -> Context:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return arrived(raw, NOW_S, LIMIT_S, Random(7).getrandbits)


def left_s(found: Context) -> float:
    assert found.deadline is not None
    return found.deadline.left_s(NOW_S)


def test_a_request_without_headers_gets_ids_of_its_own_and_the_services_deadline() -> None:
    found = arriving(("Host", "localhost"))
    assert (len(found.request_id), len(found.trace_id), len(found.span_id)) == (32, 32, 16)
    assert found.parent_id == ""
    assert found.sampled is None
    assert left_s(found) == LIMIT_S


def test_a_valid_traceparent_is_continued_below_the_callers_span() -> None:
    found = arriving(("traceparent", TRACEPARENT))
    assert (found.trace_id, found.parent_id, found.sampled) == (TRACE, PARENT, True)
    assert found.span_id != PARENT
    assert found.traceparent == f"00-{TRACE}-{found.span_id}-01"


def test_the_unsampled_flag_is_passed_on() -> None:
    found = arriving(("traceparent", f"00-{TRACE}-{PARENT}-00"))
    assert found.sampled is False
    assert found.traceparent.endswith("-00")


def test_only_the_sampled_bit_of_the_flags_counts() -> None:
    assert arriving(("traceparent", f"00-{TRACE}-{PARENT}-03")).sampled is True
    assert arriving(("traceparent", f"00-{TRACE}-{PARENT}-02")).sampled is False


@pytest.mark.parametrize(
    "broken",
    [
        "",
        "garbage",
        TRACEPARENT[:-1],
        TRACEPARENT.upper(),
        f" {TRACEPARENT}",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"01-{TRACE}-{PARENT}-01.more",
        f"00-{TRACE}-{PARENT}-0x",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        # Three dashes, but not where they belong.
        f"0-0{TRACE}-{PARENT}-01",
        f"00a{TRACE[:-3]}---a{PARENT}a01",
        "00-٣" + TRACEPARENT[4:],
    ],
)
def test_an_invalid_traceparent_is_as_good_as_none(broken: str) -> None:
    found = arrived([(b"traceparent", broken.encode())], NOW_S, LIMIT_S)
    assert found.trace_id != TRACE
    assert found.parent_id == ""


def test_a_later_version_may_say_more() -> None:
    assert arriving(("traceparent", f"01-{TRACE}-{PARENT}-01-what-comes-then")).trace_id == TRACE


def test_two_traceparents_contradict_each_other() -> None:
    assert arriving(("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT)).parent_id == ""


def test_tracestate_is_passed_on_whole() -> None:
    found = arriving(("traceparent", TRACEPARENT), ("tracestate", "congo=t61rcWkgMzE"), ("tracestate", "rojo=00f067"))
    assert found.outgoing()["tracestate"] == "congo=t61rcWkgMzE,rojo=00f067"


@pytest.mark.parametrize(
    "broken", ["no-value", "a=b=c\n", "A=b", ",".join(f"k{n}=v" for n in range(33)), "a=" + "x" * 600]
)
def test_an_invalid_tracestate_is_dropped_and_the_trace_kept(broken: str) -> None:
    found = arriving(("traceparent", TRACEPARENT), ("tracestate", broken))
    assert (found.trace_id, found.tracestate) == (TRACE, "")


def test_tracestate_without_a_trace_means_nothing() -> None:
    assert arriving(("tracestate", "congo=t61rcWkgMzE")).tracestate == ""


def test_a_request_id_of_visible_ascii_is_kept() -> None:
    assert arriving(("X-Request-Id", "order-7/retry:2")).request_id == "order-7/retry:2"


@pytest.mark.parametrize("broken", ["", " ", "a b", "tab\t", "line\nbreak", "é", "x" * 129, "\x00"])
def test_another_request_id_is_replaced(broken: str) -> None:
    assert len(arriving(("X-Request-Id", broken)).request_id) == 32


def test_a_caller_may_shorten_the_deadline_but_not_lengthen_it() -> None:
    assert left_s(arriving(("X-Deadline-Ms", "500"))) == pytest.approx(0.5)
    assert left_s(arriving(("X-Deadline-Ms", "60000"))) == LIMIT_S


def test_a_deadline_of_zero_has_passed() -> None:
    assert left_s(arriving(("X-Deadline-Ms", "0"))) == 0.0


@pytest.mark.parametrize("broken", ["", "soon", "-1", "1.5", "1e3", "٣", "9" * 40])
def test_a_deadline_that_is_no_number_is_ignored(broken: str) -> None:
    found = arrived([(b"x-deadline-ms", broken.encode())], NOW_S, LIMIT_S)
    assert left_s(found) == LIMIT_S


@given(
    st.lists(
        st.tuples(st.sampled_from([b"traceparent", b"tracestate", b"x-request-id", b"x-deadline-ms"]), st.binary())
    )
)
def test_no_header_can_break_a_request(headers: list[tuple[bytes, bytes]]) -> None:
    found = arrived(headers, NOW_S, LIMIT_S)
    assert 0.0 <= left_s(found) <= LIMIT_S
    "".join(found.outgoing().values()).encode("ascii")


def test_a_hostile_tracestate_is_refused_in_linear_time() -> None:
    # A single expression for the list would try every way to split these blanks.
    hostile = ",".join(["a=b" + " " * 30] * 15) + "\x7f"
    assert arriving(("traceparent", TRACEPARENT), ("tracestate", hostile)).tracestate == ""


def test_what_is_sent_is_what_arrives() -> None:
    sent = arriving(("traceparent", TRACEPARENT), ("X-Request-Id", "r1"))
    received = arriving(*sent.outgoing().items())
    assert (received.trace_id, received.parent_id, received.request_id, received.sampled) == (
        sent.trace_id,
        sent.span_id,
        "r1",
        True,
    )


def test_the_current_context_ends_with_its_block() -> None:
    assert context.current() is None
    outer, inner = context.fresh(), context.fresh()
    with context.use(outer):
        with context.use(inner):
            assert context.current() is inner
        assert context.current() is outer
    assert context.current() is None


def test_the_deadline_of_the_running_request_is_at_hand() -> None:
    assert context.deadline() is None
    deadline = Deadline(5.0)
    with context.use(context.fresh(deadline)):
        assert context.deadline() == deadline


def test_a_stored_traceparent_can_be_linked_to() -> None:
    found = context.linked(TRACEPARENT)
    assert found is not None
    assert (found.trace_id, found.span_id, found.sampled) == (TRACE, PARENT, True)


@pytest.mark.parametrize("nothing", [None, "", "garbage", "\ud800"])
def test_what_is_no_traceparent_links_to_nothing(nothing: str | None) -> None:
    assert context.linked(nothing) is None


def test_the_ids_come_from_the_given_randomness() -> None:
    def ids(bits: Callable[[int], int]) -> tuple[str, str, str]:
        found = context.fresh(bits=bits)
        return found.request_id, found.trace_id, found.span_id

    assert ids(Random(1).getrandbits) == ids(Random(1).getrandbits) != ids(Random(2).getrandbits)


def test_the_repr_tells_which_request_it_is() -> None:
    assert repr(arriving(("traceparent", TRACEPARENT), ("X-Request-Id", "r1"))).startswith(
        "<Context request=r1 trace=4bf92f35"
    )
