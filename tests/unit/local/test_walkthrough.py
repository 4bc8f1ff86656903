"""The walkthrough against an API in memory: as lines pasted into a shell, and as `tally demo`."""

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from tally.cli import main
from tally.local.failure import LocalError
from tally.local.processes import free_port
from tally.local.run import welcome
from tally.local.services import SERVICES, Place, Places, place
from tally.local.stack import LocalStack, free_ports
from tally.local.walkthrough import NEEDED, Demonstration, lines_to_paste


class Api(ThreadingHTTPServer):
    """As much of the three services as the walkthrough touches, on one port."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.entities: dict[str, dict[str, Any]] = {}
        self.pairs: set[tuple[str, str]] = set()
        self.broken = False

    @property
    def places(self) -> Places:
        here = Place("127.0.0.1", self.server_port, self.server_port)
        return {name: here for name in NEEDED}


class Handler(BaseHTTPRequestHandler):
    server: Api

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        if match := re.fullmatch("/event/(.*)/attendance/(.*)", self.path):
            event, author = match.groups()
            if author not in self.server.entities:
                return self._answer(404, {"code": "author-not-found", "detail": f"There is no author {author}."})
            again = (event, author) in self.server.pairs
            self.server.pairs |= {(event, author)} - ({(event, author)} if self.server.broken else set())
            return self._answer(200 if again else 201, {"event": event, "author": author}, location=self.path)
        entity = {"id": str(uuid4()), **body}
        self.server.entities[entity["id"]] = entity
        return self._answer(201, entity, location=f"{self.path}/{entity['id']}")

    def do_GET(self) -> None:
        if match := re.fullmatch("/event/(.*)/attendance/(.*)", self.path):
            return self._answer(200 if match.groups() in self.server.pairs else 404, {"code": "attendance-not-found"})
        if match := re.fullmatch("/operation/(.*)", self.path):
            return self._answer(
                200, {"id": match[1], "state": "done", "halves": {"author": "live", "conference": "live"}}
            )
        if match := re.fullmatch("/author/(.*)/co-attendee", self.path):
            events = {event for event, author in self.server.pairs if author == match[1]}
            others = {author for event, author in self.server.pairs if event in events} - {match[1]}
            return self._answer(200, {"items": [{"id": one} for one in others]})
        if self.path == "/mail":
            return self._answer(200, {"items": []})
        [(kind, id)] = re.findall("/(event|author)/(.*)/attendance", self.path)
        ids = [pair[kind == "event"] for pair in self.server.pairs if pair[kind == "author"] == id]
        key = "attendees" if kind == "event" else "events"
        return self._answer(200, {key: [self.server.entities[one] for one in ids], "next": None, "complete": True})

    def do_DELETE(self) -> None:
        _, _, event, _, author = self.path.split("/")
        self.server.pairs.discard((event, author))
        self._answer(204, None)

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, body: object, **headers: str) -> None:
        content = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines are for people who have curl")
@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_the_lines_work_when_pasted(api: Api, shell: str) -> None:
    lines = lines_to_paste(api.places).replace("sleep 4", "sleep 0")
    done = subprocess.run([shell, "-eu"], input=lines, capture_output=True, text=True, check=True)
    [event], authors = {event for event, _ in api.pairs}, {author for _, author in api.pairs}
    assert done.stdout.count("201 Created") == len(authors) == 2
    assert done.stdout.count(event) >= 2
    assert all(done.stdout.count(author) >= 2 for author in authors)
    assert done.stdout.endswith("}\n"), "the prompt stands on a line of its own"


def test_the_path_to_paste_may_have_blanks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tally.local.run.BIN", Path("/here and there/bin"))
    databases = {f"{one.variable}DATABASE_URL": "postgresql://elsewhere/one" for one in SERVICES if one.migrate}
    [line] = re.findall("export PATH=.*", welcome(LocalStack(tmp_path, env=databases)))
    done = subprocess.run(["bash", "-c", f"{line}; echo $PATH"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("/here and there/bin:/")


def test_the_readme_has_the_same_lines() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    assert f"```sh\n{lines_to_paste(place(SERVICES, {}))}\n```" in readme


def test_the_demonstration_shows_every_line_and_answer(api: Api) -> None:
    said: list[str] = []
    Demonstration(api.places, said.append).run()
    shown = "\n".join(said)
    assert f'$ curl -i localhost:{api.server_port}/author -d \'{{"full_name":"Alan Turing"}}\'' in shown
    assert f"$ curl -i -X DELETE localhost:{api.server_port}/event/" in shown
    assert '"code": "author-not-found"' in shown
    assert "Location: /event/" in shown
    assert said[-1].strip() == "All 16 steps answered as they should."


def test_the_demonstration_fails_when_an_answer_is_not_true(api: Api) -> None:
    api.broken = True
    with pytest.raises(
        LocalError, match=r"^Step 5 is not as it should be: the author should be there, and the answer was 200"
    ):
        Demonstration(api.places, lambda text: None).run()


def test_the_demonstration_can_be_repeated(api: Api) -> None:
    for _ in range(2):
        Demonstration(api.places, lambda text: None).run()


def test_without_a_stack_every_command_is_one_sentence() -> None:
    environment = {"TALLY_LOCAL_AUTHOR_PORT": str(free_port()), "TALLY_LOCAL_GATEWAY_PORT": str(free_port())}
    for command in (["demo"], ["operation", str(uuid4())]):
        result = CliRunner(env=environment).invoke(main, command)
        assert result.exit_code == 1
        assert re.fullmatch(
            r"tally: The (author|gateway) service is not there at http://127\.0\.0\.1:\d+ \(.*\): start Tally with "
            r"`make run` in another terminal and try again\.\n",
            result.stderr,
        )


def test_status_says_who_is_ready(api: Api) -> None:
    names = [program.name for program in SERVICES]
    environment = {f"TALLY_LOCAL_{name.upper()}_PORT": str(port) for name, port in free_ports(SERVICES).items()}
    result = CliRunner(env=environment).invoke(main, ["status"])
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == names
    schemes = {line.split()[0]: line.split()[1].partition(":")[0] for line in result.stdout.splitlines()}
    assert (schemes["author"], schemes["nats"], schemes["mail"]) == ("http", "nats", "smtp")
    assert "not ready: it does not answer on its admin port" in result.stdout
