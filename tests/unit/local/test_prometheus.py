"""Prometheus beside the local stack: what it scrapes, and that it is only there when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tally.cli import main
from tally.local.prometheus import MISSING, PROMETHEUS, configuration
from tally.local.services import SCRAPED, SERVICES, Program, environment, place
from tally.local.stack import free_ports

TABLE = (*SERVICES, PROMETHEUS)


def test_it_is_told_where_the_metrics_of_our_services_are_and_of_no_others() -> None:
    environ = {"TALLY_LOCAL_GATEWAY_ADMIN_PORT": "9999", "TALLY_LOCAL_AUTHOR_TLS_CERT_FILE": "cert.pem"}
    given = environment(PROMETHEUS, place(TABLE, environ), TABLE, environ)[SCRAPED]
    scraped = dict(one.split("=") for one in given.split())
    assert scraped.keys() == {program.name for program in SERVICES if program.settings}
    assert scraped["gateway"] == "http://127.0.0.1:9999"
    assert scraped["author"] == "https://127.0.0.1:9070"


def test_a_job_is_a_service_with_the_rules_loaded() -> None:
    written = configuration({"author": "https://127.0.0.1:9070", "gateway": "http://127.0.0.1:9443"}, interval="2s")
    author, gateway = written["scrape_configs"]
    assert (author["job_name"], author["scheme"]) == ("author", "https")
    assert gateway["static_configs"] == [{"targets": ["127.0.0.1:9443"], "labels": {"namespace": "local"}}]
    assert written["rule_files"][0].endswith("observability/alerts/*.yaml")


def test_it_has_one_port() -> None:
    here = place(TABLE, {})["prometheus"]
    assert here.port == here.admin_port == 9090
    assert free_ports(TABLE).keys() == {program.name for program in TABLE}


def test_services_are_not_told() -> None:
    assert SCRAPED not in environment(SERVICES[0], place(TABLE, {}), TABLE, {})


@pytest.mark.parametrize(
    ("observe", "there", "started", "said"),
    [("1", True, True, ""), ("1", False, False, MISSING), ("0", True, False, ""), ("", True, False, "")],
)
def test_it_is_started_if_it_is_asked_for_and_there(
    observe: str, there: bool, started: bool, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran: list[Program] = []

    def run(folder: Path, *, programs: tuple[Program, ...], **options: object) -> int:
        ran.extend(programs)
        return 0

    monkeypatch.setattr("tally.cli.local.run", run)
    monkeypatch.setattr("tally.cli.prometheus.found", lambda: "/usr/bin/prometheus" if there else None)
    monkeypatch.setenv("OBSERVE", observe)
    done = CliRunner().invoke(main, ["run", "--folder", str(tmp_path)])
    assert done.exit_code == 0
    assert (PROMETHEUS in ran) is started
    assert done.stderr.strip() == (f"tally: {said}" if said else "")
