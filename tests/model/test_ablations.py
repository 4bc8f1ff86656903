"""The check can fail: each rule taken away shows a counter-example, of the kind that the rule is there to prevent."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from tally.protocol.participant import TABLE

from .ablations import ABLATIONS, BY_NAME
from .explorer import Outcome
from .report import anomalies
from .rules import PROTOCOL

ANOMALIES = Path(__file__).parents[2] / "docs" / "anomalies.md"


@cache
def found(rule: str) -> Outcome | None:
    """The counter-example to the protocol without ``rule``, explored once."""
    return BY_NAME[rule].counter_example()


@pytest.mark.parametrize("rule", BY_NAME)
def test_without_the_rule_its_property_breaks(rule: str) -> None:
    outcome = found(rule)
    assert outcome is not None, f"nothing breaks without {rule}: the rule is not needed, or the model can't see why"
    assert outcome.violation is not None
    assert outcome.violation.property is BY_NAME[rule].breaks
    assert outcome.trace, "a counter-example has steps"


def test_no_ablation_is_the_protocol_itself() -> None:
    assert all(ablation.rules != PROTOCOL for ablation in BY_NAME.values())


def test_every_rule_of_the_protocol_is_taken_away_once() -> None:
    assert len(ABLATIONS) == 29
    assert len(BY_NAME) == len({ablation.rule for ablation in BY_NAME.values()}) == 33


def test_an_ablation_leaves_the_product_as_it_was() -> None:
    before = dict(TABLE)
    found("close_gate"), found("fence_absent"), found("durable_refusal")
    assert before == TABLE


def test_the_document_of_anomalies_is_what_the_model_finds() -> None:
    """If the change is wanted: ``python -m tests.model --traces docs/anomalies.md``, and review the difference."""
    outcomes = [(ablation, outcome) for rule, ablation in BY_NAME.items() if (outcome := found(rule)) is not None]
    assert anomalies(outcomes) == ANOMALIES.read_text(encoding="utf-8")
