"""A history that was written is read as it was, also after the harness crashed."""

import os
from pathlib import Path
from uuid import uuid4

import pytest

from tests.chaos.history import Completed, Database, Half, Header, Invoked, Kind, NotAHistory, Recorder, Trouble, read

HEADER = Header(seed=7, scenario="kills", seconds=1.0, clients=2, request_deadline_s=2.0, environment={"A": "b"})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    author, event, op = uuid4(), uuid4(), uuid4()
    start = Invoked(1, 10, 20, 3, "gateway", Kind.LIST_BY_EVENT, event=event)
    end = Completed(1, 30, 200, shown=[(op, author)], complete=False)
    database = Database("author", 40, 1, 2, [author], [Half(op, "L", author, event)], [], [])
    with Recorder(tmp_path / "results" / "h.jsonl", HEADER) as recorder:
        for record in (start, end, database):
            recorder.write(record)
    history = read(recorder.path)
    assert history.header == HEADER
    assert [(request.start, request.end) for request in history.requests] == [(start, end)]
    assert history.databases == {"author": database}


def test_a_request_in_flight_at_a_crash_is_in_the_file_without_an_end(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "h.jsonl", HEADER)
    recorder.write(Invoked(1, 10, 20, 3, "gateway", Kind.CREATE, author=uuid4(), event=uuid4()))
    # Read while it is open: nothing waits in a buffer.
    [request] = read(recorder.path).requests
    assert request.end is None
    recorder.close()


def test_a_last_line_that_was_cut_short_is_left_out_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    with Recorder(tmp_path / "h.jsonl", HEADER) as recorder:
        recorder.write(Completed(1, 30, trouble=Trouble.LOST))
    os.truncate(recorder.path, recorder.path.stat().st_size - 5)
    assert read(recorder.path).requests == []
    recorder.path.write_bytes(recorder.path.read_bytes() + b"\n")
    with pytest.raises(NotAHistory, match="line 2"):
        read(recorder.path)


def test_a_history_is_never_overwritten(tmp_path: Path) -> None:
    Recorder(tmp_path / "h.jsonl", HEADER).close()
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "h.jsonl", HEADER)


def test_a_file_without_a_header_is_none(tmp_path: Path) -> None:
    (tmp_path / "h.jsonl").write_bytes(b"")
    with pytest.raises(NotAHistory, match="header"):
        read(tmp_path / "h.jsonl")
