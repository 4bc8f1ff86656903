"""Rules parse and use what is declared; each alert has a runbook and promtool tests, which run where promtool is."""

from __future__ import annotations

import re
import shutil
import subprocess

import promql_parser
import pytest
import yaml

from tally.chassis.signals import Signals
from tests.documents.command_line import is_command
from tests.observability.promql import joined_with_ours, selectors
from tests.observability.rules import ALERTS, FILES, FOLDER, RECORDED, ROOT, RULES, Rule

RUNBOOKS = ROOT / "docs" / "runbooks"
TESTS = sorted((FOLDER / "tests").glob("*.yaml"))
TARGET = frozenset({"namespace", "job", "instance"})
_SUFFIXES = re.compile(r"_(bucket|count|sum)$")


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule.name}-{n}" for n, rule in enumerate(RULES)])
def test_a_rule_parses_and_uses_what_is_declared(rule: Rule) -> None:
    assert promql_parser.parse(rule.expr) is not None
    declared = {metric.name: frozenset(metric.labels) for metric in Signals.catalogue()} | {"up": frozenset()}
    for selector in selectors(rule.expr):
        if selector.name not in RECORDED:
            labels = declared[selector.name if selector.name in declared else _SUFFIXES.sub("", selector.name)]
            more = TARGET | ({"le"} if selector.name.endswith("_bucket") else set())
            assert selector.labels <= labels | more, selector


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule.name}-{n}" for n, rule in enumerate(RULES)])
def test_of_names_that_others_have_too_a_rule_takes_our_own_processes(rule: Rule) -> None:
    assert joined_with_ours(rule.expr)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.is_alert], ids=lambda rule: rule.name)
def test_an_alert_says_what_it_means_how_urgent_it_is_and_where_to_read_on(rule: Rule) -> None:
    assert rule.name.startswith("Tally")
    assert rule.labels["severity"] in ("page", "ticket")
    assert rule.annotations.keys() == {"summary", "description", "runbook_url"}
    assert rule.annotations["runbook_url"] == f"docs/runbooks/{rule.name}.md"
    # A sum that drops the namespace would mix deployments.
    for aggregated in re.findall(r"by \(([^)]*)\)", rule.expr):
        assert "namespace" in aggregated.split(", "), rule.name


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert {file.stem for file in RUNBOOKS.glob("Tally*.md")} == ALERTS


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_a_runbook_says_what_it_means_how_to_confirm_it_and_what_to_do(name: str) -> None:
    text = (RUNBOOKS / f"{name}.md").read_text()
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    assert headings == [name, "What it means", "Confirm", "Do"]
    assert "```sh" in text
    for command in re.findall(r"^tally (.+)$", text, re.MULTILINE):
        assert is_command(command), command
    for query in re.findall(r"^promtool query instant \S+ '(.+)'$", text, re.MULTILINE):
        assert selectors(query)
    for metric in re.findall(r"\b(tally_[a-z_]+|http_(?:server|client)_[a-z_]+)", text):
        assert _SUFFIXES.sub("", metric) in {_SUFFIXES.sub("", one.name) for one in Signals.catalogue()}, metric


def test_the_index_lists_every_runbook() -> None:
    assert set(re.findall(r"\((Tally\w+)\.md\)", (RUNBOOKS / "README.md").read_text())) == ALERTS


def test_each_alert_is_tested_firing_and_not_firing() -> None:
    told: dict[str, list[bool]] = {}
    for file in TESTS:
        for test in yaml.safe_load(file.read_text())["tests"]:
            for case in test.get("alert_rule_test", []):
                told.setdefault(case["alertname"], []).append(bool(case.get("exp_alerts")))
    assert {name for name, fired in told.items() if True in fired and False in fired} == ALERTS


def test_each_severity_of_an_alert_is_tested_firing() -> None:
    fired = {
        (case["alertname"], alert["exp_labels"]["severity"], alert["exp_labels"].get("burn"))
        for file in TESTS
        for test in yaml.safe_load(file.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
        for alert in case.get("exp_alerts") or []
    }
    assert fired == {(rule.name, rule.labels["severity"], rule.labels.get("burn")) for rule in RULES if rule.is_alert}


def test_promtool_agrees() -> None:
    """Without promtool (it comes with Prometheus) the rules have been parsed above, and `make alerts` says so."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("there is no promtool: the alerts' own tests were not run (`make alerts` runs them where it is)")
    _run(promtool, "check", "rules", *map(str, FILES))
    _run(promtool, "test", "rules", *(str(file.relative_to(FOLDER / "tests")) for file in TESTS))


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=FOLDER / "tests", capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
