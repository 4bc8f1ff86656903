"""The arithmetic of the part about events: latencies, medians, its tables, and the moment of a mail's acceptance."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from tests.bench import report as candidates_report
from tests.bench.events import figures, mails, report
from tests.bench.events.figures import Mailed, Relayed, Way, latencies, mail_waits, summarise
from tests.bench.events.mails import AUTHORS, EVENTS, Arrivals, Creates, People
from tests.bench.events.relays import line, relayed
from tests.bench.measure import Used


def slot(way: Way, number: int = 1, *, elapsed_s: float = 1.0, wrong: tuple[str, ...] = ()) -> Relayed:
    return Relayed(
        way=way,
        work="steady",
        round=number,
        events=100,
        elapsed_s=elapsed_s,
        p50_s=0.010 * number,
        p99_s=0.020,
        cpu_us={"author": 100.0, "its database": 50.0, "nats": 25.0, "others": 400.0},
        other_cores=0.0,
        wrong=list(wrong),
    )


def post(*, created: int = 100, mailed: int = 100, p99_s: float = 4.0, **errors: int) -> Mailed:
    return Mailed(
        rate=200.0,
        asked=created,
        created=created,
        errors=errors,
        behind_s=0.0,
        mailed=mailed,
        p50_s=2.0,
        p99_s=p99_s,
        longest_s=4.5,
        limit_s=5.0,
        cpu_us={"notifier": 800.0},
    )


def test_a_latency_is_from_the_commit_to_the_stream_and_never_less_than_nothing() -> None:
    committed = {"a": 10.0, "b": 11.0, "c": 12.0}
    assert latencies(committed, [("b", 11.5), ("a", 10.25), ("c", 11.9)]) == ([0.0, 0.25, 0.5], [])


def test_an_event_that_is_missing_or_twice_in_the_stream_is_told() -> None:
    waits, wrong = latencies({"a": 1.0, "b": 1.0, "c": 1.0}, [("a", 2.0), ("a", 2.0), ("of others", 2.0)])
    assert waits == [1.0, 1.0]
    assert wrong == ["2 of 3 events are not in the stream", "1 events are in the stream more than once"]


def test_a_slot_s_processor_time_is_for_each_event_and_without_who_only_looks_on() -> None:
    used = Used({"author": 0.2, "idle": 9.0, "harness": 9.0}, machine_s=18.5)
    one = relayed("wal", "backlog", 1, {"a": 1.0, "b": 1.0}, [("a", 1.5), ("b", 3.0)], used)
    assert (one.events, one.elapsed_s, one.per_second) == (2, 2.0, 1.0)
    assert one.cpu_us == {"author": pytest.approx(100_000)}
    assert one.other_cores == pytest.approx(0.15)
    assert "1 events/s" in line(one)


def test_a_slot_of_which_nothing_arrived_is_wrong_and_no_error() -> None:
    one = relayed("wal", "backlog", 1, {"a": 1.0}, [], None)
    assert (one.per_second, one.wrong) == (0.0, ["1 of 1 events are not in the stream"])


def test_processes_of_one_group_are_summed() -> None:
    assert figures.by_group({"its database#7": 1.0, "its database#8": 2.0, "nats#nats": 4.0, "harness": 8.0}) == {
        "its database": 3.0,
        "nats": 4.0,
        "harness": 8.0,
    }


def test_figures_are_medians_over_the_rounds() -> None:
    [outbox, wal] = summarise([slot("outbox", 1), slot("wal"), slot("outbox", 2, elapsed_s=2.0), slot("outbox", 3)])
    assert (outbox.way, outbox.p50_ms, outbox.per_second, outbox.publishing_us) == ("outbox", 20.0, 100.0, 175.0)
    assert wal.way == "wal"


def test_no_pair_is_created_twice_and_neighbours_are_of_different_authors() -> None:
    pairs = [mails.pair(n) for n in range(AUTHORS * EVENTS)]
    assert len(set(pairs)) == AUTHORS * EVENTS
    assert len({author for _, author in pairs[:AUTHORS]}) == AUTHORS
    with pytest.raises(ValueError, match="used up"):
        mails.pair(AUTHORS * EVENTS)
    assert People().path(0).startswith("/event/")


def test_a_mail_s_wait_is_from_the_answer_and_a_create_without_a_mail_has_none() -> None:
    assert mail_waits({"a": 1.0, "b": 1.0, "c": 5.0}, {"b": 3.5, "c": 4.9, "other": 9.0}) == [0.0, 2.5]


def test_the_promise_is_kept_only_if_every_create_succeeded_and_every_mail_came_in_time() -> None:
    assert post().kept
    assert not post(p99_s=5.1).kept
    assert not post(mailed=99).kept
    assert not post(status=1).kept
    assert not post(created=0, mailed=0).kept


def test_what_creates_came_to_counts_those_that_failed_and_those_without_a_mail() -> None:
    creates = Creates("http://nowhere", People(), 200.0)
    creates.answered = {"a": 1.0, "b": 2.0}
    creates.errors["503"] += 1
    outcome = mails.mailed(creates, {"a": 4.0}, 200.0, Used({"notifier": 0.001, "harness": 1.0}, 2.0))
    assert (outcome.asked, outcome.created, outcome.mailed, outcome.missing) == (3, 2, 1, 1)
    assert (outcome.p99_s, outcome.longest_s, outcome.errors) == (3.0, 3.0, {"503": 1})
    assert outcome.cpu_us == {"notifier": pytest.approx(500.0)}
    assert outcome.limit_s == mails.settlement_lag_s() + 3.0 == 5.0


def test_a_mail_is_accepted_when_its_file_is_in_place_and_counts_once(tmp_path: Path) -> None:
    operation, arrivals = str(uuid4()), Arrivals(tmp_path)
    unfinished = tmp_path / "1.part"
    unfinished.write_text(
        f"To: a@example.org\r\nX-Tally-Operation: {operation}\r\n\r\nX-Tally-Operation: {uuid4()}\r\n"
    )
    arrivals.look()
    assert arrivals.accepted == {}
    os.rename(unfinished, tmp_path / "1.eml")
    (tmp_path / "2.eml").write_text("To: a@example.org\r\n\r\nOf no operation.\r\n")
    moment_s = (tmp_path / "1.eml").stat().st_ctime
    arrivals.look()
    arrivals.look()
    assert arrivals.accepted == {operation: moment_s}
    (tmp_path / "3.eml").write_text(f"X-Tally-Operation: {operation}\r\n\r\nAgain.\r\n")
    arrivals.look()
    assert arrivals.accepted == {operation: moment_s}


def test_a_report_shows_both_ways_and_names_every_failure_between_markers_of_its_own() -> None:
    samples = [slot("outbox"), slot("wal", wrong=("1 of 100 events are not in the stream",))]
    told = report.Report(
        started="then",
        command="it",
        plan="a plan",
        machine={"processor": "one"},
        relays=summarise(samples),
        mails=post(mailed=99),
        samples=samples,
    )
    document = f"{candidates_report.BEGIN}\nkept\n{candidates_report.END}\n{report.BEGIN}\nold\n{report.END}\nafter\n"
    text = candidates_report.between_markers(document, report.markdown(told), report.BEGIN, report.END)
    assert "kept" in text and "old" not in text and text.endswith("after\n")
    assert "wal / outbox" in text and "NOT REACHED" in text and "175" in text
    assert "wal, steady: 1 of 100 events are not in the stream" in text and "1 mails were not seen" in text
    assert report.wrong(told)


def test_a_run_without_faults_has_nothing_to_warn_of() -> None:
    samples = [slot("outbox"), slot("wal")]
    told = report.Report(
        started="then", command="it", plan="", machine={}, relays=summarise(samples), mails=post(), samples=samples
    )
    assert (report.warnings(told), report.wrong(told)) == ([], False)
    assert "| reached" in report.markdown(told)
