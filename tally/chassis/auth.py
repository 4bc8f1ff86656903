"""Who may call: the settings about tokens, and the guards in front of internal, admin and public endpoints.

Internal and admin endpoints ask for a service token (`tokens.py`); public writes ask for one of an identity provider
where a setting names one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import structlog
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.http import Handler, Route
from tally.chassis.keys import Keys
from tally.chassis.problems import Problem
from tally.chassis.settings import READABLE_FILE, ServiceSettings
from tally.chassis.signals import Signals
from tally.chassis.tokens import REASONS, MintedTokens, ProjectedTokens, Refused, Verifier

log = structlog.get_logger()


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
