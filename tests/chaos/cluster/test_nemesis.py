"""What was begun is mended, whatever happens: with faults that are made of commands of this machine only."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import nemesis as module
from tests.chaos.cluster.nemesis import Nemesis
from tests.chaos.cluster.place import Place
from tests.chaos.cluster.schedule import Slot
from tests.chaos.history import Header, History, Recorder, read
from tests.e2e.faults import Fault


class Alone(Place):
    """A place without a cluster: it is always ready, and notes which parts would be replaced."""

    def __init__(self) -> None:
        super().__init__("nowhere", "nowhere", "none")
        self.replaced: list[str] = []

    def wait_ready(self, timeout_s: float) -> None:
        pass

    def restart(self, part: str) -> None:
        self.replaced.append(part)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CALM_S", 0.01)


def note(file: Path, word: str) -> dict[str, str]:
    return {"host": f"echo {word} >>{file}"}


def slot(file: Path, name: str, *, lasts_s: float = 0.05, overlaps: bool = False, broken: bool = False) -> Slot:
    begin = [note(file, f"begin-{name}"), *([{"host": "exit 1"}] if broken else [])]
    return Slot(Fault(name, "Nothing.", begin=begin, end=[note(file, f"end-{name}")]), lasts_s, overlaps)


async def struck(folder: Path, place: Place, slots: Iterator[Slot], seconds: float = 20) -> History:
    with Recorder(folder / "history.jsonl", Header(1, "test", seconds, 1, 2.0)) as recorder:
        until_s = asyncio.get_running_loop().time() + seconds
        await Nemesis(place, recorder, slots).run(until_s)
    return read(recorder.path)


async def test_each_fault_is_begun_mended_and_recorded_in_its_turn(tmp_path: Path) -> None:
    file = tmp_path / "said"
    history = await struck(tmp_path, Alone(), iter([slot(file, "one"), slot(file, "two")]))
    assert file.read_text().split() == ["begin-one", "end-one", "begin-two", "end-two"]
    assert [fault.fault for fault, _ in history.faults] == ["one", "two"]
    assert all(healed is not None for _, healed in history.faults)


async def test_one_that_overlaps_begins_before_the_other_ends(tmp_path: Path) -> None:
    file = tmp_path / "said"
    await struck(tmp_path, Alone(), iter([slot(file, "one", lasts_s=1.0), slot(file, "two", overlaps=True)]))
    said = file.read_text().split()
    assert said.index("begin-two") < said.index("end-one")
    assert set(said) == {"begin-one", "end-one", "begin-two", "end-two"}


async def test_a_fault_whose_step_fails_is_mended_all_the_same_and_its_pods_are_replaced(tmp_path: Path) -> None:
    file, place = tmp_path / "said", Alone()
    history = await struck(tmp_path, place, iter([slot(file, "author-bad", broken=True)]))
    assert file.read_text().split() == ["begin-author-bad", "end-author-bad"]
    assert place.replaced == ["author"]
    assert history.faults[0][1] is not None


async def test_a_run_that_is_interrupted_mends_what_it_broke(tmp_path: Path) -> None:
    file = tmp_path / "said"
    striking = asyncio.create_task(struck(tmp_path, Alone(), iter([slot(file, "long", lasts_s=600)])))
    for _ in range(1000):
        if file.exists() and file.read_text():
            break
        await asyncio.sleep(0.01)
    striking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await striking
    assert file.read_text().split() == ["begin-long", "end-long"]


async def test_nothing_is_begun_after_the_end_of_the_load(tmp_path: Path) -> None:
    file = tmp_path / "said"

    def for_ever() -> Iterator[Slot]:
        while True:
            yield slot(file, "one", lasts_s=0.3)

    history = await struck(tmp_path, Alone(), for_ever(), seconds=0.2)
    assert len(history.faults) == 1
