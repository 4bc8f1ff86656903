"""The life of a release, in order: installed, used, upgraded under load, rolled back, removed, and found again."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from tally.local.ask import ask
from tally.local.services import Place
from tally.local.walkthrough import Demonstration
from tests.e2e.cluster import RELEASE, Cluster
from tests.e2e.inside import Inside

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
PORTS = {"author": 8070, "conference": 8080, "gateway": 8443}
VOLUMES = {
    f"persistentvolumeclaim/data-{RELEASE}-{part}-0"
    for part in ("author-database", "conference-database", "directory-database", "notifier-database", "nats", "mail")
}
#: What one test leaves for a later one to find.
KEPT: dict[str, str] = {}


@contextmanager
def places(cluster: Cluster) -> Iterator[dict[str, Place]]:
    """Where the services are for a program of this machine."""
    with ExitStack() as stack:
        ports = {name: stack.enter_context(cluster.forwarded(name, port)) for name, port in PORTS.items()}
        yield {name: Place("127.0.0.1", port, 0) for name, port in ports.items()}


def made(where: dict[str, Place], service: str, path: str, body: Any = None, method: str = "POST") -> dict[str, Any]:
    answer = ask(method, f"{where[service].url}{path}", body)
    assert answer.status == http.client.CREATED, answer.says()
    found: dict[str, Any] = answer.body
    return found


def test_the_chart_installs_from_nothing_and_everything_becomes_ready(cluster: Cluster) -> None:
    cluster.install(cluster.image)
    for deployment in cluster.get("deployments"):
        assert deployment["status"].get("readyReplicas") == deployment["spec"]["replicas"]


def test_the_walkthrough_answers_as_it_should_from_outside(cluster: Cluster) -> None:
    with places(cluster) as where:
        Demonstration(where, print).run()


def test_helm_test_finds_it_working_and_honest_about_a_service_that_is_down(cluster: Cluster) -> None:
    said = cluster.helm("test", "--timeout", "5m")
    assert said.count("Phase:          Succeeded") == 2, said


def test_strangers_reach_nothing(cluster: Cluster) -> None:
    said = Inside(cluster, "stranger", "stranger.py", labels={"app": "stranger"}).ended()
    assert len(said) == 2 * len(PORTS)
    assert not [line for line in said if line.endswith("reached")]


def test_what_is_recorded_now_is_found_later(cluster: Cluster) -> None:
    with places(cluster) as where:
        KEPT["author"] = made(where, "author", "/author", {"full_name": "Ada Lovelace"})["id"]
        conference = made(where, "conference", "/conference", {"acronym": "KEPT"})["id"]
        KEPT["event"] = made(where, "conference", "/event", {"conference_id": conference, "seq": 1})["id"]
        made(where, "gateway", f"/event/{KEPT['event']}/attendance/{KEPT['author']}")


def test_an_upgrade_with_a_migration_under_load_loses_nothing_and_fails_nobody(cluster: Cluster) -> None:
    _under_load(cluster, lambda: cluster.install(cluster.next_image))
    images = {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in cluster.get("deployments")}
    assert images == {cluster.next_image}
    assert _columns(cluster) == ["nickname"]


def test_a_rollback_under_load_loses_nothing_and_fails_nobody(cluster: Cluster) -> None:
    _under_load(cluster, lambda: cluster.helm("rollback", "1", "--wait", "--timeout", "10m"))
    images = {one["spec"]["template"]["spec"]["containers"][0]["image"] for one in cluster.get("deployments")}
    assert images == {cluster.image}
    assert _columns(cluster) == ["nickname"], "a schema does not go back"


def test_an_uninstall_leaves_the_volumes_and_nothing_else(cluster: Cluster) -> None:
    cluster.helm("uninstall", "--wait", "--timeout", "5m")
    cluster.kubectl("wait", "pods", "--all", "--for=delete", "--timeout=120s")
    assert cluster.left() == VOLUMES


def test_an_install_after_an_uninstall_finds_the_data(cluster: Cluster) -> None:
    cluster.install(cluster.image)
    with places(cluster) as where:
        answer = ask("GET", f"{where['gateway'].url}/event/{KEPT['event']}/attendance")
        assert [one["full_name"] for one in answer.body["attendees"]] == ["Ada Lovelace"], answer.says()


def _under_load(cluster: Cluster, change: Callable[[], object]) -> None:
    load = Inside(cluster, "load", "load.py")
    load.wait_for("loading")
    change()
    load.stop()
    summary = json.loads(load.ended()[-1])
    print(json.dumps(summary, indent=2))
    assert summary["strange"] == [], "only success, or 503 with Retry-After"
    assert summary["wrong"] == [], "what was answered is true"
    assert summary["answers"]["POST 201"] > 100


def _columns(cluster: Cluster) -> list[str]:
    """The columns that the upgrade's migration brings."""
    sql = "SELECT column_name FROM information_schema.columns WHERE table_name = 'author' AND column_name = 'nickname'"
    pod, address = f"{RELEASE}-author-database-0", ("-h", "/var/run/postgresql", "-U", "tally", "-d", "author")
    said = cluster.kubectl("exec", pod, "-c", "postgres", "--", "psql", *address, "-tAc", sql)
    return said.split()
