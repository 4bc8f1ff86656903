"""The planted bug fits the gateway of today, and does what its name says."""

import inspect
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

from tally.gateway.create import Creator
from tally.protocol.gateway import Dead, Recorded, Refused, create
from tests.chaos.check import exit_code
from tests.chaos.checker import check
from tests.chaos.cluster.planted import _CODE, CAUGHT_BY
from tests.chaos.tape import Tape


def test_it_replaces_what_undoes_a_half_in_every_process_that_finds_it(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_CODE)
    look = "from tally.gateway.create import Creator; print(Creator._kill.__name__)"
    environment = {"PYTHONPATH": f"{tmp_path}:{Path.cwd()}"}
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "undo_nothing"


def test_it_has_the_parameters_of_what_it_replaces() -> None:
    assert list(inspect.signature(Creator._kill).parameters) == ["self", "attempt", "side", "inc", "deadline"]


def test_with_it_a_refusal_is_told_though_one_half_is_live() -> None:
    inc, peer = uuid4(), uuid4()
    refused = Dead(peer, inc)
    assert not isinstance(create(Recorded(inc, peer), refused, expired=False), Refused)
    assert isinstance(create(Dead(peer, peer), refused, expired=False), Refused)


def test_the_checker_finds_a_half_that_was_not_undone() -> None:
    tape = Tape()
    op = tape.create((10, 20))
    tape.holds(op)
    lone = tape.create((30, 40), status=409)
    tape.holds(lone, conference=None, told="")
    verdicts = check(tape.ends())
    assert exit_code(verdicts) == 1
    assert CAUGHT_BY in {verdict.name for verdict in verdicts if verdict.violations}
