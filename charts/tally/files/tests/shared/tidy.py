"""What a test makes, and takes away at its end, whatever comes of it: being told to stop is an end as well."""

import os
import signal
import sys
import time

from tally.local.ask import ask
from tally.local.services import Place

PATIENCE_S = 20.0


def place(name: str) -> Place:
    name = name.upper()
    host, port = os.environ[f"{name}_HOST"], int(os.environ[f"{name}_PORT"])
    admin_port = int(os.environ.get(f"{name}_ADMIN_PORT", port + 1000))
    return Place(host, port, admin_port, os.environ.get("SCHEME", "http"))


class Made:
    """The addresses of what was made; for a block: at its end they are deleted, the last one first."""

    def __init__(self) -> None:
        self._urls: list[str] = []

    def __enter__(self) -> "Made":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        left = [url for url in reversed(self._urls) if not _gone(url)]
        if left:
            sentence = f"could not be taken away again: {', '.join(left)}"
            sys.exit(f"{error}; {sentence}" if error is not None else sentence)

    def add(self, service: str, path: str) -> None:
        self._urls.append(f"{place(service).url}{path}")


def _gone(url: str) -> bool:
    """An attendance that is made, or whose end is not told to both sides yet, keeps what it is of for a while."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            answer = ask("DELETE", url)
        except OSError as error:
            print(f"DELETE {url}: {error}")
        else:
            if answer.status in (202, 204, 404):
                return True
            print(f"DELETE {url}: {answer.says()}")
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.5)
