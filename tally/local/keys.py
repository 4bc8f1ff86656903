"""The key that the local services make their tokens with, made at the first start and kept in the folder.

On one machine the services trust each other: they share one private key, and each signs its own name.
"""

from __future__ import annotations

import os
from pathlib import Path

from tally.chassis.keys import AuthError, check_key, make_key
from tally.local.failure import LocalError


def token_variables(folder: Path) -> dict[str, str]:
    """The settings of every local service that point at the key, which is made if there is none."""
    keys = folder / "keys"
    key_file, jwks_file = keys / "service.pem", keys / "jwks.json"
    if not (key_file.exists() and jwks_file.exists()):
        keys.mkdir(parents=True, exist_ok=True)
        # Under other names first: a start that is cut off must not leave half a key.
        half_key, half_jwks = keys / "new.pem", keys / "new.json"
        make_key(half_key, half_jwks)
        os.replace(half_jwks, jwks_file)
        os.replace(half_key, key_file)
    try:
        check_key(key_file, jwks_file)
    except AuthError as error:
        # Nothing that is stored depends on it, but who deletes it is the owner: it may be a copy of another one's.
        raise LocalError(
            f"The key by which the services know each other is damaged ({error}): delete the folder {keys}, and the "
            "next start makes another."
        ) from error
    return {"TALLY_TOKEN_KEY_FILE": str(key_file), "TALLY_TOKEN_JWKS": str(jwks_file)}
