"""Every scenario can be played by every cast: by its own services in their parts, and by nobody else."""

import pytest

from tally.local.stack import POSTGRES
from tests.chaos.cast import ATTENDING, CASTS, TALKING, Cast
from tests.chaos.nemesis import SCENARIOS, strikes_of


@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
@pytest.mark.parametrize("scenario", set(SCENARIOS) - {"none"})
def test_a_scenario_strikes_somebody_and_only_who_plays(scenario: str, cast: Cast) -> None:
    struck = {target for _, target in strikes_of(scenario, cast)}
    assert struck
    assert struck <= {POSTGRES, *(program.name for program in cast.programs)}


def test_the_second_relationship_is_struck_as_the_one_that_ships() -> None:
    parts = dict(zip(ATTENDING.owners, TALKING.owners, strict=True))
    for scenario in ("kills", "pauses", "stops", "long-pauses", "faults"):
        strikes = {(fault, parts.get(who, who)): weight for (fault, who), weight in SCENARIOS[scenario].items()}
        assert strikes_of(scenario, TALKING) == strikes
