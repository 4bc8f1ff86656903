"""Tokens for one service that are wrong in one way each, for whoever knocks where only services may.

Assumes the key that a local stack makes at its first start: so each token is as good as it can be, but for the one way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tally.chassis.clock import SystemClock
from tally.chassis.tokens import MintedTokens
from tally.local.keys import token_variables

ISSUER = "tally"
_AWAY_S = 7200


@dataclass(frozen=True, slots=True)
class Wrong:
    """A token (None: there is none), the status that it must get, and the label under which that is counted."""

    token: str | None
    status: int
    reason: str


class Forger:
    """Of tokens for `audience`; `other` is a service that a good token may be for instead."""

    def __init__(self, folder: Path, audience: str, other: str) -> None:
        """`folder` is the stack's."""
        self._key_file = token_variables(folder)["TALLY_TOKEN_KEY_FILE"]
        self._key: Any = serialization.load_pem_private_key(Path(self._key_file).read_bytes(), None)
        self._audience = audience
        self._other = other
        good = self.good("gateway", audience)
        self._kid = jwt.get_unverified_header(good)["kid"]
        self._claims = jwt.decode(good, options={"verify_signature": False})

    def good(self, subject: str, audience: str) -> str:
        """A token that the audience accepts as this subject's."""
        return MintedTokens(self._key_file, subject, ISSUER, SystemClock())(audience)

    def wrong(self) -> dict[str, Wrong]:
        """By what is wrong."""
        now_s = int(time.time())
        secret = "a shared secret of 32 bytes or more"
        return {
            "missing": Wrong(None, 401, "missing"),
            "no token": Wrong("x.y.z", 401, "malformed"),
            "expired": Wrong(self._signed(exp=now_s - _AWAY_S), 401, "expired"),
            "not yet valid": Wrong(self._signed(nbf=now_s + _AWAY_S), 401, "not-yet-valid"),
            "for another": Wrong(self.good("gateway", self._other), 401, "audience"),
            "of another issuer": Wrong(self._signed(iss="somebody"), 401, "issuer"),
            "forged": Wrong(self._signed(Ed25519PrivateKey.generate()), 401, "signature"),
            "of an unknown key": Wrong(self._signed(kid="nobody"), 401, "unknown-key"),
            "unsigned": Wrong(jwt.encode(self._claims, "", "none", headers={"kid": self._kid}), 401, "algorithm"),
            "signed by a secret": Wrong(self._signed(secret, "HS256"), 401, "algorithm"),
            "from a service that may not": Wrong(self.good("notifier", self._audience), 403, "caller"),
            "from an operator": Wrong(self.good("operator", self._audience), 403, "caller"),
        }

    def _signed(self, key: Any = None, algorithm: str = "EdDSA", kid: str | None = None, **changed: Any) -> str:
        headers = {"kid": kid or self._kid}
        return jwt.encode({**self._claims, **changed}, key or self._key, algorithm, headers=headers)
