"""A bug, planted from outside: the gateway does not undo at one side what the other refused, and says that it did.

The module `sitecustomize` below is put into the gateway's pods, where Python imports it at every start; the product has
no switch for it. The settler, which would undo it a few seconds later, is slowed down, so that a run without the bug
would only miss its settlement. The checker must find more than that.
"""

from __future__ import annotations

import json

from tests.chaos.cluster.place import Place
from tests.e2e.cluster import RELEASE

CAUGHT_BY = "refused-stays-absent"
"""What must be violated. A lone half would not do: an honest gateway leaves one, too, where it answers "unknown"."""

SETTLE_LAG_S = 900
_CODE = """\
from tally.gateway import create
from tally.protocol.gateway import Dead

async def undo_nothing(self, attempt, side, inc, deadline):
    attempt.note(side, Dead(inc, inc))

create.Creator._kill = undo_nothing
"""
_FOLDER = "/planted"


def plant(place: Place) -> None:
    """Into a release that is ready; it is ready again, with the bug, at the end."""
    manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "chaos-planted"},
        "data": {"sitecustomize.py": _CODE},
    }
    place.kubectl("apply", "-f", "-", stdin=json.dumps(manifest))
    container = {
        "name": "gateway",
        "env": [{"name": "PYTHONPATH", "value": _FOLDER}],
        "volumeMounts": [{"name": "planted", "mountPath": _FOLDER}],
    }
    pod = {"containers": [container], "volumes": [{"name": "planted", "configMap": {"name": "chaos-planted"}}]}
    patch = json.dumps({"spec": {"template": {"spec": pod}}})
    place.kubectl("patch", "deployment", f"{RELEASE}-gateway", "--patch", patch)
    owners = [f"deployment/{RELEASE}-{service}" for service in ("author", "conference")]
    place.kubectl("set", "env", *owners, f"TALLY_SETTLE_LAG_S={SETTLE_LAG_S}")
    place.wait_ready(240)
