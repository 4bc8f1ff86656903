"""Tokens: JWTs (RFC 7519) bound to one audience, the service they are for; who makes them, and who verifies them.

Two sources make them: on Kubernetes the kubelet projects one file per audience and rotates it; elsewhere a private key
mints short-lived ones. The verifier accepts RS256, ES256 and EdDSA: never ``none``, never an HMAC that a public key
could be mistaken for the secret of.

Assumes that clocks agree to within :data:`LEEWAY_S`. Tokens are never logged, nor parts of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import jwt

from tally.chassis.body import flaw
from tally.chassis.clock import Clock
from tally.chassis.keys import ALGORITHMS, AuthError, Keys, private_key

#: Why tokens are refused: the labels of the counter.
REASONS: Final = (
    "missing", "malformed", "algorithm", "unknown-key", "signature", "issuer", "audience", "expired", "not-yet-valid",
    "caller",
)  # fmt: skip
LEEWAY_S: Final = 30
#: A minted token lives this long, and is replaced at four fifths of it, as the kubelet does.
LIFETIME_S: Final = 600
_RENEW_S: Final = LIFETIME_S * 4 // 5
#: Verified tokens that are remembered until they expire: checking a signature costs more than a small request.
_REMEMBERED_MAX: Final = 1024
_TOKEN_MAX: Final = 8192


class MintedTokens:
    """Makes tokens with a private key (PEM: Ed25519, RSA or P-256), one per audience, and renews them in time."""

    def __init__(self, key_file: str, subject: str, issuer: str, clock: Clock) -> None:
        self._key, self._algorithm, self._kid = private_key(key_file)
        self._subject = subject
        self._issuer = issuer
        self._clock = clock
        self._made: dict[str, tuple[float, str]] = {}

    def __call__(self, audience: str) -> str:
        now_s = self._clock.now_ms() / 1000
        made_s, token = self._made.get(audience, (0.0, ""))
        if not token or not 0 <= now_s - made_s < _RENEW_S:
            token = self._mint(audience, now_s)
            self._made[audience] = (now_s, token)
        return token

    def _mint(self, audience: str, now_s: float) -> str:
        claims = {
            "iss": self._issuer,
            "sub": self._subject,
            "aud": audience,
            "iat": int(now_s),
            "nbf": int(now_s),
            "exp": int(now_s) + LIFETIME_S,
        }
        return jwt.encode(claims, self._key, self._algorithm, headers={"kid": self._kid})


class ProjectedTokens:
    """Reads ``{folder}/{audience}``, a file that somebody else rotates, again whenever it has changed."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._read: dict[str, tuple[int, str]] = {}

    def __call__(self, audience: str) -> str:
        path = self._folder / audience
        try:
            changed = path.stat().st_mtime_ns
            known = self._read.get(audience)
            if known is None or known[0] != changed:
                known = self._read[audience] = (changed, path.read_text().strip())
        except OSError as error:
            raise AuthError(f"the token for {audience} can't be read from {path}: {error.strerror}") from error
        return known[1]


def expires_s(token: str) -> float:
    """When a token of ours expires (Unix seconds), by its own word; 0 where it has none."""
    try:
        claims = jwt.decode(token, options={"verify_signature": False, "verify_exp": False, "verify_aud": False})
    except jwt.PyJWTError:
        return 0.0
    expires = claims.get("exp")
    return float(expires) if isinstance(expires, int | float) else 0.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody whose token was verified."""

    subject: str
    expires_s: float
    kid: str = field(default="", compare=False)
    """The key that the token was signed with."""


class Refused(Exception):
    """The token is not accepted; ``reason`` is a metric's label, and says nothing of the token itself."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Verifier:
    """Verifies tokens for one audience."""

    def __init__(self, keys: Keys, audience: str, issuer: str, clock: Clock) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._clock = clock
        self._remembered: dict[str, Caller] = {}

    async def prepare(self) -> None:
        """So that the first caller need not wait for the keys, which may be at an address."""
        await self._keys.prepare()

    async def verify(self, authorization: str | None) -> Caller:
        """The caller behind an ``Authorization`` header. Raises :class:`Refused`."""
        token = _bearer(authorization)
        now_s = self._clock.now_ms() / 1000
        known = self._remembered.get(token)
        if known is not None and now_s < known.expires_s:
            self._keys.look_again_if_old()
            if self._keys.knows(known.kid):
                return known
        caller = await self._verify(token, now_s)
        if len(self._remembered) >= _REMEMBERED_MAX:
            self._remembered.clear()
        self._remembered[token] = caller
        return caller

    async def _verify(self, token: str, now_s: float) -> Caller:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise Refused("malformed") from None
        if header.get("alg") not in ALGORITHMS:
            raise Refused("algorithm")
        kid = header.get("kid")
        key = await self._keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise Refused("unknown-key")
        if key.algorithm_name != header["alg"]:
            raise Refused("algorithm")
        claims = self._claims(token, key)
        # Compared with our clock here, so that a test or an experiment owns it.
        expires_s, not_before_s = claims["exp"], claims.get("nbf", 0)
        if not all(isinstance(time, int | float) for time in (expires_s, not_before_s)):
            raise Refused("malformed")
        if flaw(claims["sub"]):  # it goes to the audit trail, in one transaction with what others do
            raise Refused("malformed")
        if now_s >= expires_s + LEEWAY_S:
            raise Refused("expired")
        if now_s < not_before_s - LEEWAY_S:
            raise Refused("not-yet-valid")
        return Caller(claims["sub"], expires_s, str(kid))

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=[str(key.algorithm_name)],
                audience=self._audience,
                issuer=self._issuer,
                options={
                    "require": ["exp", "sub", "aud", "iss"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except jwt.InvalidAudienceError:
            raise Refused("audience") from None
        except jwt.InvalidIssuerError:
            raise Refused("issuer") from None
        except jwt.InvalidSignatureError:
            raise Refused("signature") from None
        except jwt.PyJWTError:
            raise Refused("malformed") from None


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise Refused("missing")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_MAX:
        raise Refused("malformed")
    return token.strip()
