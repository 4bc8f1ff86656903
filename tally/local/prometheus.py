"""Prometheus beside the local stack, for `make run OBSERVE=1`: scrapes every service, with our rules loaded.

`python -m tally.local.prometheus HOST PORT FOLDER` writes its configuration into FOLDER and becomes Prometheus. Assumes
that the machine has it (nobody packages it for Python), and TALLY_SCRAPED, from the table: `author=http://… gateway=…`.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tally.local.services import SCRAPED, Program, source_tree

MISSING = (
    "Prometheus is not on this machine, so nothing is scraped (Debian: `apt-get install prometheus`; macOS: "
    "`brew install prometheus`)."
)
INTERVAL = "TALLY_INTERVAL"
"""TALLY_LOCAL_PROMETHEUS_INTERVAL outside: how often it scrapes."""

PROMETHEUS = Program(
    "prometheus",
    9090,
    3,
    ("{python}", "-m", "tally.local.prometheus", "{host}", "{port}", "{folder}"),
    ready="/-/ready",
    settings=False,
    admin_offset=0,
)


def found() -> str | None:
    """Where Prometheus is, if it is."""
    return shutil.which("prometheus")


def configuration(scraped: Mapping[str, str], *, interval: str = "5s") -> dict[str, Any]:
    """The scraping of these services: admin addresses by name. The name is the job."""
    root = source_tree()
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": [] if root is None else [str(root / "observability" / "alerts" / "*.yaml")],
        "scrape_configs": [
            {
                "job_name": name,
                "scheme": urlsplit(url).scheme,
                # Our own services on this machine, where a certificate's name cannot match.
                "tls_config": {"insecure_skip_verify": True},
                "static_configs": [{"targets": [urlsplit(url).netloc], "labels": {"namespace": "local"}}],
            }
            for name, url in scraped.items()
        ],
    }


def main() -> None:
    host, port, given = sys.argv[1:]
    program, folder = found(), Path(given)
    if program is None:
        sys.exit(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    scraped = dict(one.split("=", 1) for one in os.environ[SCRAPED].split())
    file = folder / "prometheus.json"
    # (What is JSON is YAML.)
    file.write_text(json.dumps(configuration(scraped, interval=os.environ.get(INTERVAL, "5s")), indent=1))
    options = {
        "config.file": file,
        "storage.tsdb.path": folder / "data",
        "storage.tsdb.retention.time": "1d",
        "web.listen-address": f"{host}:{port}",
        "enable-feature": "exemplar-storage",
        "log.level": "warn",
    }
    os.execv(program, [program, *(f"--{name}={value}" for name, value in options.items())])


if __name__ == "__main__":
    main()
