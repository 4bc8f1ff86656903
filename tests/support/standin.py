"""A stand-in for a service, for tests of what starts, watches and stops services.

`python -m tests.support.standin serve` listens on TALLY_PORT and TALLY_ADMIN_PORT as a service does; `migrate` notes
each run in its database, so that a test sees whether data survived. TALLY_STANDIN changes its behaviour:

    not-ready       /readyz says 503, and why
    fails           exits at once with a traceback
    deaf            ignores SIGTERM
    bad-migration   `migrate` fails

GET / answers its TALLY_ environment, GET /log?text makes it log, POST /crash makes it die with exit code 3.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import asyncpg

BEHAVIOUR = os.environ.get("TALLY_STANDIN", "")


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that gave up on a paused process is no news."""


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        match self.path.partition("?"):
            case "/readyz", _, _:
                ready = BEHAVIOUR != "not-ready"
                self._answer(200 if ready else 503, {"detail": "ready" if ready else "its database is away"})
            case "/log", _, text:
                log("said", text=text)
                self._answer(200, {})
            case _:
                ours = {name: value for name, value in os.environ.items() if name.startswith("TALLY_")}
                self._answer(200, {"pid": os.getpid(), "environment": ours})

    def do_POST(self) -> None:
        os._exit(3)

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def log(event: str, **fields: object) -> None:
    line = {"timestamp": "2026-11-22T21:47:21.183Z", "level": "info", "service": "standin", "event": event, **fields}
    print(json.dumps(line), file=sys.stderr, flush=True)


def serve() -> None:
    if BEHAVIOUR == "fails":
        raise SystemExit("TALLY_STANDIN is not a good idea.")
    # Not a handler that sets an event: it could strike while the event's own lock is held.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    for variable in ("TALLY_PORT", "TALLY_ADMIN_PORT"):
        server = Server((os.environ["TALLY_HOST"], int(os.environ[variable])), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
    log("started", pid=os.getpid())
    while signal.sigwait({signal.SIGTERM}) and BEHAVIOUR == "deaf":
        pass
    log("stopped")


async def migrate() -> None:
    if BEHAVIOUR == "bad-migration":
        raise SystemExit("0002_second.sql was changed after it was applied.")
    connection = await asyncpg.connect(os.environ["TALLY_DATABASE_URL"])
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS migration (at timestamptz NOT NULL DEFAULT now())")
        await connection.execute("INSERT INTO migration DEFAULT VALUES")
    finally:
        await connection.close()


if __name__ == "__main__":
    if sys.argv[1:] == ["migrate"]:
        asyncio.run(migrate())
    else:
        serve()
