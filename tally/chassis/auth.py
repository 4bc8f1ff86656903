"""Service tokens: who may call internal and admin endpoints, and how a service shows who it is.

A token is a JWT (RFC 7519) bound to one audience, the service it is for. Two sources make them: on Kubernetes
the kubelet projects one file per audience and rotates it; elsewhere a private key mints short-lived ones. The
verifier knows only public keys (a JWKS, RFC 7517, from a file or an address), keeps them through an outage, and
accepts RS256, ES256 and EdDSA: never ``none``, never an HMAC that a public key could be mistaken for the secret of.

Assumes that clocks agree to within :data:`LEEWAY_S`. Tokens are never logged, nor parts of them.
"""

from __future__ import annotations

import asyncio
import ssl
from base64 import urlsafe_b64encode
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import aiohttp
import jwt
import msgspec
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context
from tally.chassis.body import flaw
from tally.chassis.clock import Clock
from tally.chassis.http import Handler, Route
from tally.chassis.problems import Problem
from tally.chassis.settings import READABLE_FILE, ServiceSettings
from tally.chassis.signals import Signals

log = structlog.get_logger()

#: Why tokens are refused: the labels of the counter.
REASONS: Final = (
    "missing", "malformed", "algorithm", "unknown-key", "signature", "issuer", "audience", "expired", "not-yet-valid",
    "caller",
)  # fmt: skip
ALGORITHMS: Final = ("RS256", "ES256", "EdDSA")
LEEWAY_S: Final = 30
#: A minted token lives this long, and is replaced at four fifths of it, as the kubelet does.
LIFETIME_S: Final = 600
_RENEW_S: Final = LIFETIME_S * 4 // 5
#: A key that is not known may be new: the keys are fetched again, but not more often than this.
_REFRESH_MIN_S: Final = 10.0
#: As long as no key is known, nobody can be let in: they are asked for again sooner.
_REFRESH_FIRST_S: Final = 1.0
#: Keys that are known are looked at again after this long: who is not published any more is not trusted any more.
_REFRESH_AFTER_S: Final = 300.0
_FETCH_S: Final = 2.0
#: Verified tokens that are remembered until they expire: checking a signature costs more than a small request.
_REMEMBERED_MAX: Final = 1024
_TOKEN_MAX: Final = 8192


class GuardedSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of a service that has endpoints for other services, or calls theirs."""

    token_check: Annotated[
        Literal["on", "off"],
        Meta(description="Whether internal and admin endpoints ask for a token; off only for experiments."),
    ] = "on"
    token_jwks: Annotated[
        str | None, Meta(description="The public keys that tokens are checked by: a JWKS file, or its address.")
    ] = None
    token_jwks_ca_file: Annotated[
        str | None,
        Meta(description="The authorities (PEM) that the address of the keys is checked by.", extra=READABLE_FILE),
    ] = None
    token_jwks_bearer_file: Annotated[
        str | None, Meta(description="A token to show at the address of the keys.", extra=READABLE_FILE)
    ] = None
    token_issuer: Annotated[str, Meta(min_length=1, description="Who makes the tokens: their iss claim.")] = "tally"
    token_callers: Annotated[
        str, Meta(description="The subjects that may call internal endpoints, separated by commas.")
    ] = "gateway,author,conference"
    token_operators: Annotated[
        str, Meta(description="The subjects that may call admin endpoints, separated by commas.")
    ] = "operator"
    public_jwks: Annotated[
        str | None,
        Meta(description="The keys of the identity provider; with them, public writes need its bearer token."),
    ] = None
    public_issuer: Annotated[str, Meta(description="The identity provider: the iss claim of its tokens.")] = ""
    public_audience: Annotated[str, Meta(min_length=1, description="The aud claim that public tokens must have.")] = (
        "tally"
    )
    faults: Annotated[
        Literal["on", "off"], Meta(description="Whether operators may switch faults on, for experiments.")
    ] = "off"
    token_key_file: Annotated[
        str | None,
        Meta(description="The private key (PEM) that this service makes its own tokens with.", extra=READABLE_FILE),
    ] = None
    token_folder: Annotated[
        str | None, Meta(description="The folder with a token file per service to call, rotated by somebody else.")
    ] = None

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[str]:
        yield from super().conflicts(values)
        if values.get("token_check") == "on" and not values.get("token_jwks"):
            yield "TALLY_TOKEN_JWKS is not set; expected the public keys to check tokens by (or TALLY_TOKEN_CHECK=off)."
        if values.get("public_jwks") and not values.get("public_issuer"):
            yield "TALLY_PUBLIC_ISSUER is not set; expected the iss claim of the tokens that TALLY_PUBLIC_JWKS checks."
        if values.get("token_key_file") and values.get("token_folder"):
            yield "TALLY_TOKEN_KEY_FILE and TALLY_TOKEN_FOLDER are two sources of tokens: set one of them."


def token_source(settings: GuardedSettings, name: str, clock: Clock) -> Callable[[str], str] | None:
    """What the service shows when it calls others; None if it has nothing to show."""
    if settings.token_folder is not None:
        return ProjectedTokens(settings.token_folder)
    if settings.token_key_file is not None:
        return MintedTokens(settings.token_key_file, name, settings.token_issuer, clock)
    return None


def guards(settings: GuardedSettings, name: str, clock: Clock, signals: Signals) -> tuple[Guard, Guard]:
    """The guards of internal and of admin endpoints of the service ``name``, which is the audience of its tokens."""
    verifier = None
    if settings.token_check == "on" and settings.token_jwks is not None:
        keys = Keys(
            settings.token_jwks,
            clock,
            ca_file=settings.token_jwks_ca_file,
            bearer_file=settings.token_jwks_bearer_file,
        )
        verifier = Verifier(keys, name, settings.token_issuer, clock)
    signals.tokens_refused_total.initialise(reason=REASONS)
    callers, operators = settings.token_callers.split(","), settings.token_operators.split(",")
    return Guard(verifier, callers, signals), Guard(verifier, operators, signals)


class AuthError(Exception):
    """The key or token files can't be used; says which and why."""


# --- showing who one is ---------------------------------------------------------------------------------------


class MintedTokens:
    """Makes tokens with a private key (PEM: Ed25519, RSA or P-256), one per audience, and renews them in time."""

    def __init__(self, key_file: str, subject: str, issuer: str, clock: Clock) -> None:
        self._key, self._algorithm, self._kid = _private_key(key_file)
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


# --- keys -----------------------------------------------------------------------------------------------------


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
                self._keys = _public_keys(await self._fetch())
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


# --- checking who somebody is ---------------------------------------------------------------------------------


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


class Guard:
    """Lets only some callers through to a handler: 401 for who can't be told, 403 for who may not."""

    def __init__(self, verifier: Verifier | None, callers: Collection[str], signals: Signals) -> None:
        self._verifier = verifier
        self._callers = frozenset(callers)
        self._signals = signals

    async def prepare(self) -> None:
        """For the start of a service: what the first caller would have to wait for otherwise."""
        if self._verifier is not None:
            await self._verifier.prepare()

    def __call__(self, handler: Handler) -> Handler:
        """The handler behind the guard. Without a verifier the guard is switched off (a setting says so)."""
        verifier = self._verifier
        if verifier is None:
            return handler

        async def guarded(request: Request) -> Response:
            try:
                caller = await verifier.verify(request.headers.get("authorization"))
            except Refused as refused:
                self._count(refused.reason)
                detail = "This endpoint is for services and operators: it needs a valid token, made for this service."
                raise Problem("unauthenticated", detail) from None
            if caller.subject not in self._callers:
                self._count("caller")
                raise Problem("forbidden", "The token is valid, but its owner may not call this endpoint.")
            return await handler(request)

        return guarded

    def _count(self, reason: str) -> None:
        self._signals.tokens_refused_total(reason).inc()
        log.info("token refused", reason=reason)


def identified(routes: Sequence[Route], settings: GuardedSettings, clock: Clock, signals: Signals) -> list[Route]:
    """Public routes whose writes need a token of the identity provider, where a setting names one.

    Who it was goes with the request: to the log, and to whatever is written in its name.
    """
    if settings.public_jwks is None:
        return list(routes)
    keys = Keys(settings.public_jwks, clock, ca_file=settings.token_jwks_ca_file)
    verifier = Verifier(keys, settings.public_audience, settings.public_issuer, clock)

    def ask(handler: Handler) -> Handler:
        async def asked(request: Request) -> Response:
            try:
                caller = await verifier.verify(request.headers.get("authorization"))
            except Refused as refused:
                signals.tokens_refused_total(refused.reason).inc()
                raise Problem("unauthenticated", "This needs a bearer token of the identity provider.") from None
            here = context.current() or context.fresh()
            with context.use(here.with_actor(caller.subject)):
                log.info("write", actor=caller.subject, method=request.method, path=request.scope["path"])
                return await handler(request)

        return asked

    return [
        route
        if route.method == "GET"
        else replace(route, handler=ask(route.handler), problems=(*route.problems, "unauthenticated"))
        for route in routes
    ]


# --- key files ------------------------------------------------------------------------------------------------


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
    _, _, kid = _private_key(str(key_file))
    try:
        public = _public_keys(jwks_file.read_bytes())
    except (OSError, ValueError) as error:
        raise AuthError(f"the public keys {jwks_file} can't be used: {error}") from error
    if kid not in public:
        raise AuthError(f"the token key {key_file} is none of those in {jwks_file}")


def _private_key(key_file: str) -> tuple[Any, str, str]:
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


def _public_keys(content: bytes) -> dict[str, jwt.PyJWK]:
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


def _bearer(authorization: str | None) -> str:
    if authorization is None:
        raise Refused("missing")
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > _TOKEN_MAX:
        raise Refused("malformed")
    return token.strip()
