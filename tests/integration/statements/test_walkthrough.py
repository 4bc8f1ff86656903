"""The walkthrough, typed as in the README, on this stack's ports: no header, no flag."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.integration.statements.stage import Stage

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


class Terminal:
    """Runs lines as a person would, with the ports of a stack in the place of the default ones."""

    def __init__(self, stage: Stage, **variables: str) -> None:
        places = stage.stack.places
        self._ports = {8070: "author", 8080: "conference", 8443: "gateway"}
        self._real = {f"localhost:{port}": f"localhost:{places[name].port}" for port, name in self._ports.items()}
        self.variables = variables

    def type(self, line: str) -> tuple[int, dict[str, str], Any]:
        """Status, headers (with lower-case names) and JSON of one curl line with -i."""
        for typed, real in self._real.items():
            line = line.replace(typed, real)
        done = subprocess.run(
            ["/bin/sh", "-c", line], capture_output=True, text=True, check=True, timeout=20, env=self.variables
        )
        head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
        first, *rest = head.split("\n")
        headers = {name.lower(): value for name, _, value in (header.partition(": ") for header in rest)}
        return int(first.split()[1]), headers, json.loads(body) if body else None


def test_the_walkthrough_works_as_it_is_typed(stage: Stage) -> None:
    terminal = Terminal(stage, PATH="/usr/local/bin:/usr/bin:/bin")
    status, headers, author = terminal.type("""curl -i localhost:8070/author -d '{"full_name":"Alan Turing"}'""")
    assert (status, author["full_name"]) == (201, "Alan Turing")
    assert headers["location"] == f"/author/{author['id']}"
    status, _, conference = terminal.type("""curl -i localhost:8080/conference -d '{"acronym":"SWAT"}'""")
    assert status == 201
    status, _, event = terminal.type(
        f"""curl -i localhost:8080/event -d '{{"conference_id":"{conference["id"]}","seq":1}}'"""
    )
    assert status == 201

    terminal.variables |= {"EVENT": event["id"], "AUTHOR": author["id"]}
    create = "curl -i -X POST localhost:8443/event/$EVENT/attendance/$AUTHOR"
    status, headers, attendance = terminal.type(create)
    assert status == 201
    assert headers["location"] == f"/event/{event['id']}/attendance/{author['id']}"
    assert (attendance["event"], attendance["author"]) == (event["id"], author["id"])
    assert terminal.type(create)[0] == 200

    status, _, by_event = terminal.type("curl -i localhost:8443/event/$EVENT/attendance")
    assert status == 200
    assert [(one["full_name"], one["operation"]) for one in by_event["attendees"]] == [
        ("Alan Turing", attendance["operation"])
    ]
    status, _, by_author = terminal.type("curl -i localhost:8443/author/$AUTHOR/attendance")
    assert status == 200
    [attended] = by_author["events"]
    assert (attended["id"], attended["conference"]["acronym"]) == (event["id"], "SWAT")
    assert by_event["complete"] is by_author["complete"] is True
