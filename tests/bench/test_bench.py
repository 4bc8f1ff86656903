"""The benchmark's own arithmetic: what it measures with must be right before what it measures is."""

import os
import time
from math import gcd

import pytest

from tests.bench import load, measure, report, slots, workload
from tests.bench.figures import TARGETS, judge, summarise
from tests.bench.rounds import Level, Sample, disagreements
from tests.bench.slots import Clock, Result, Slot

MANY_CREATES = Level("create", 64)


def result(done: int = 1000, taken: int | None = None, elapsed_s: float = 1.0, **errors: int) -> Result:
    taken = done if taken is None else taken
    return Result(taken=taken, done=done, elapsed_s=elapsed_s, p50_s=0.001, p99_s=0.002, errors=errors)


def sample(candidate: str, number: int, outcome: Result, level: Level = MANY_CREATES) -> Sample:
    return Sample(
        candidate=candidate,
        level=level,
        round=number,
        result=outcome,
        cpu_us={"gateway": 100.0, "author": 90.0, "conference": 80.0, "postgres": 500.0, "load": 70.0},
        other_cores=0.0,
        wrong=[],
    )


def test_no_pair_is_created_twice() -> None:
    assert gcd(workload.STRIDE, workload.PAIRS) == 1
    assert len({workload.created_pair(n) for n in range(50_000)}) == 50_000
    with pytest.raises(ValueError, match="used up"):
        workload.created_pair(workload.PAIRS)


def test_every_listed_event_has_its_attendees_and_no_created_pair_touches_it() -> None:
    listed = [workload.listed_pair(n) for n in range(workload.LISTED_PAIRS)]
    events = {workload.listed_event(n) for n in range(workload.LISTED_EVENTS)}
    assert len(set(listed)) == workload.LISTED_PAIRS
    assert {event for event, _ in listed} == events
    assert all(len({author for event, author in listed if event == one}) == workload.LISTED_AUTHORS for one in events)
    assert not events & {workload.created_pair(n)[0] for n in range(50_000)}


@pytest.mark.parametrize("cut", range(1, 60))
def test_a_response_is_read_however_it_is_cut(cut: int) -> None:
    response = b"HTTP/1.1 201 Created\r\nContent-Length: 5\r\nx: y\r\n\r\nhello"
    assert load.split_response(response[: min(cut, len(response) - 1)]) is None
    assert load.split_response(response) == (b"201", b"hello")


@pytest.mark.parametrize(
    "response",
    [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab"],
    ids=["no length", "two answers"],
)
def test_an_unreadable_response_is_refused(response: bytes) -> None:
    with pytest.raises(ValueError):
        load.split_response(response)


def test_a_listing_with_an_attendee_missing_is_an_error() -> None:
    body = load.ATTENDEE_MARK * workload.LISTED_AUTHORS
    assert load.fault_of_read(b"200", body) is None
    assert load.fault_of_read(b"200", body[: -len(load.ATTENDEE_MARK)]) == "19 attendees"
    assert load.fault_of_read(b"503", body) == "503"


def test_what_was_never_answered_is_counted() -> None:
    now = 0.0
    clock = Clock(Slot(work="create", clients=1, first=7, seconds=10.0), lambda: now)
    assert [clock.take(), clock.take(), clock.take()] == [7, 8, 9]
    now = 4.0
    clock.succeeded(begun=1.0)
    clock.failed("503")
    assert clock.result() == Result(
        taken=3, done=1, elapsed_s=4.0, p50_s=3.0, p99_s=3.0, errors={"503": 1, "unanswered": 1}
    )
    now = 10.0
    assert clock.take() is None


def test_quantiles_are_by_nearest_rank() -> None:
    ordered = [float(n) for n in range(1, 101)]
    assert [slots.quantile(ordered, q) for q in (0.5, 0.99)] == [51.0, 100.0]
    assert slots.quantile([], 0.5) == 0.0


def test_a_database_that_lacks_an_answered_row_is_reported() -> None:
    assert not list(disagreements("create", result(10), (0, 0), (10, 10)))
    assert list(disagreements("create", result(10), (0, 0), (10, 9)))
    assert not list(disagreements("create", result(10, taken=12), (0, 0), (10, 12)))
    assert list(disagreements("create", result(10, taken=12), (0, 0), (10, 13)))
    assert list(disagreements("read", result(10), (5, 5), (5, 6)))


def test_a_target_is_judged_by_the_medians_and_shows_the_rounds() -> None:
    samples = [sample("c", n, result(100 * n)) for n in (1, 2, 3)]
    samples += [sample("d", n, result(1000)) for n in (1, 2, 3)]
    verdict = judge(TARGETS[0], samples)
    assert (verdict.value, verdict.lowest, verdict.highest, verdict.reached) == (5.0, 1000 / 300, 10.0, True)


def test_a_target_is_not_reached_with_errors_and_not_measured_without_samples() -> None:
    plain, ours = sample("c", 1, result(10)), sample("d", 1, result(1000, taken=1001, status=1))
    assert judge(TARGETS[0], [plain, ours]).reached is False
    assert judge(TARGETS[0], [plain]).reached is None
    assert judge(TARGETS[4], [sample("d", 1, result())]).value == 270.0


def test_a_report_names_every_failure_and_fits_between_the_markers() -> None:
    samples = [sample("c", 1, result(10)), sample("d", 1, result(20, taken=21, unanswered=1))]
    figures = summarise(samples)
    one = report.Report(
        started="then",
        command="it",
        rounds=1,
        seconds=1.0,
        titles={"c": "plain", "d": "Tally"},
        machine={},
        postgres={"c": {"fsync": "on"}, "d": {"fsync": "on"}},
        figures=figures,
        verdicts=[judge(target, samples) for target in TARGETS],
        warnings=report.warnings(figures, {"c": {"fsync": "on"}, "d": {"fsync": "on"}}),
        samples=samples,
    )
    text = report.between_markers(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", report.markdown(one))
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "NOT REACHED" in text and "not measured" in text and "unanswered, 1 times" in text
    with pytest.raises(ValueError):
        report.between_markers("no markers", "text")


@pytest.mark.skipif(not measure.AVAILABLE, reason="only Linux has /proc")
def test_processor_time_of_a_child_counts_while_it_lives_and_after_it_ended() -> None:
    roots = {"tests": os.getpid()}
    before = measure.used(roots)
    child = os.fork()
    if child == 0:
        until = time.process_time() + 0.1
        while time.process_time() < until:
            pass
        os._exit(0)
    os.waitpid(child, 0)
    after = measure.used(roots)
    assert before is not None and after is not None
    assert after.since(before).tree_s["tests"] >= 0.08
    assert after.since(before).machine_s >= 0.08
