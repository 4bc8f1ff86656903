from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.cluster import Cluster, CommandFailed, connect


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """The cluster, with an empty namespace; it is emptied at the end, too."""
    try:
        cluster = connect()
        _empty(cluster)
        cluster.kubectl("create", "namespace", cluster.namespace)
        level = "pod-security.kubernetes.io/enforce=restricted"
        cluster.kubectl("label", "namespace", cluster.namespace, level)
    except CommandFailed as error:
        pytest.fail(str(error), pytrace=False)
    yield cluster
    _empty(cluster)


def _empty(cluster: Cluster) -> None:
    if cluster.kubectl("get", "namespace", cluster.namespace, "--ignore-not-found").strip():
        cluster.helm("uninstall", "--ignore-not-found", "--wait", "--timeout", "3m")
        cluster.kubectl("delete", "namespace", cluster.namespace, "--timeout=180s")
