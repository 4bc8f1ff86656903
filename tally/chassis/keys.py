"""The keys that tokens are made and checked with: a private one (PEM), and public ones as a JWKS (RFC 7517).

Public keys come from a file or an address, and are kept through an outage of it.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tally.chassis.clock import Clock

ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
#: A key that is not known may be new: the keys are fetched again, but not more often than this.
_REFRESH_MIN_S: Final = 10.0
#: As long as no key is known, nobody can be let in: they are asked for again sooner.
_REFRESH_FIRST_S: Final = 1.0
#: Keys that are known are looked at again after this long: who is not published any more is not trusted any more.
_REFRESH_AFTER_S: Final = 300.0
_FETCH_S: Final = 2.0

log = structlog.get_logger()


class AuthError(Exception):
    """The key or token files can't be used; says which and why."""


class Keys:
    """Public keys by their id, from a JWKS file or address. Known keys stay when the source is away, and go when it is
    there and does not name them any more."""

    def __init__(
        self, source: str, clock: Clock, *, ca_file: str | None = None, bearer_file: str | None = None
    ) -> None:
        self._source = source
        self._clock = clock
        self._ca_file = ca_file
        self._bearer_file = bearer_file
        self._keys: dict[str, jwt.PyJWK] = {}
        self._tried_s: float | None = None
        self._refreshing = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def get(self, kid: str) -> jwt.PyJWK | None:
        """The key, looked for at the source if it is not known; None if there is no such key."""
        self.look_again_if_old()
        if not self.knows(kid):
            await self._refresh()
        return self._keys.get(kid)

    def knows(self, kid: str) -> bool:
        """Whether the key was published when the source was last read."""
        return kid in self._keys

    def look_again_if_old(self) -> None:
        """Reads the source again if that is long ago; nobody waits for it."""
        long_ago = self._tried_s is not None and self._clock.monotonic_s() - self._tried_s >= _REFRESH_AFTER_S
        if long_ago and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._refresh())

    async def prepare(self) -> None:
        """Looks for the keys before the first caller waits for them. If they can't be had now, they are later."""
        if not self._keys:
            await self._refresh()

    async def _refresh(self) -> None:
        async with self._refreshing:
            now_s = self._clock.monotonic_s()
            pause_s = _REFRESH_MIN_S if self._keys else _REFRESH_FIRST_S
            if self._tried_s is not None and now_s - self._tried_s < pause_s:
                return
            self._tried_s = now_s
            try:
                self._keys = public_keys(await self._fetch())
            except (OSError, TimeoutError, aiohttp.ClientError, ValueError, jwt.PyJWTError) as error:
                log.warning(
                    "the token keys can't be read", source=self._source, reason=f"{type(error).__name__}: {error}"
                )

    async def _fetch(self) -> bytes:
        if not self._source.startswith(("http://", "https://")):
            return await asyncio.to_thread(Path(self._source).read_bytes)
        headers = {}
        if self._bearer_file:
            token = await asyncio.to_thread(Path(self._bearer_file).read_text)
            headers["Authorization"] = f"Bearer {token.strip()}"
        tls = ssl.create_default_context(cafile=self._ca_file) if self._source.startswith("https:") else False
        timeout = aiohttp.ClientTimeout(total=_FETCH_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(self._source, headers=headers, ssl=tls, allow_redirects=False) as response,
        ):
            response.raise_for_status()
            return await response.content.read(1_048_576)


def make_key(key_file: Path, jwks_file: Path) -> None:
    """A new Ed25519 key pair: the private key as PEM, readable by its owner only, the public one as a JWKS."""
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key_file.touch(mode=0o600)
    key_file.write_bytes(pem)
    public = jwt.algorithms.OKPAlgorithm.to_jwk(key.public_key(), as_dict=True)
    jwks = {"keys": [{**public, "kid": _thumbprint(public), "alg": "EdDSA", "use": "sig"}]}
    jwks_file.write_bytes(msgspec.json.encode(jwks))


def check_key(key_file: Path, jwks_file: Path) -> None:
    """AuthError unless tokens that are made with the one can be checked by the other."""
    _, _, kid = private_key(str(key_file))
    try:
        public = public_keys(jwks_file.read_bytes())
    except (OSError, ValueError) as error:
        raise AuthError(f"the public keys {jwks_file} can't be used: {error}") from error
    if kid not in public:
        raise AuthError(f"the token key {key_file} is none of those in {jwks_file}")


def private_key(key_file: str) -> tuple[Any, str, str]:
    try:
        key = serialization.load_pem_private_key(Path(key_file).read_bytes(), password=None)
    except (OSError, ValueError, TypeError) as error:
        raise AuthError(f"the token key {key_file} can't be used: {error}") from error
    for name in ALGORITHMS:
        algorithm = jwt.get_algorithm_by_name(name)
        try:
            public = algorithm.to_jwk(key.public_key(), as_dict=True)
        except (jwt.InvalidKeyError, AttributeError, TypeError, ValueError):
            continue
        return key, name, _thumbprint(public)
    raise AuthError(f"the token key {key_file} is of no kind that is accepted ({', '.join(ALGORITHMS)})")


def _thumbprint(public: Mapping[str, Any]) -> str:
    """RFC 7638: the key's own hash, so that the same key has the same id wherever it is read."""
    required = {name: public[name] for name in ("crv", "e", "kty", "n", "x", "y") if name in public}
    digest = sha256(msgspec.json.encode(dict(sorted(required.items())))).digest()
    return urlsafe_b64encode(digest).rstrip(b"=").decode()


def public_keys(content: bytes) -> dict[str, jwt.PyJWK]:
    """The keys of a JWKS that can be used. ValueError if there is none: such a file is damaged, and says nothing."""
    document = msgspec.json.decode(content)
    keys: dict[str, jwt.PyJWK] = {}
    listed = document.get("keys") if isinstance(document, dict) else None
    for data in listed if isinstance(listed, list) else []:
        try:
            key = jwt.PyJWK(data)
        except (jwt.PyJWTError, AttributeError, TypeError, ValueError):
            continue  # a kind of key that we don't use, or no key
        if key.key_id is not None and key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    if not keys:
        raise ValueError("there is no key in it that can be used")
    return keys
