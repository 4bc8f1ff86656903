"""Who may call: every token that must be refused is, for its own reason, and those of each accepted kind are let in."""

import asyncio
import json
import os
from base64 import urlsafe_b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context, logs
from tally.chassis.auth import Guard, GuardedSettings, guards, identified, token_source
from tally.chassis.http import Route
from tally.chassis.keys import AuthError, Keys, make_key
from tally.chassis.problems import Problem
from tally.chassis.settings import SettingsError, load
from tally.chassis.signals import Signals
from tally.chassis.tokens import LEEWAY_S, LIFETIME_S, Caller, MintedTokens, ProjectedTokens, Refused, Verifier

NOW_S = 1_800_000_000


class OwnClock:
    """Both clocks, as a test sets them."""

    def __init__(self) -> None:
        self.at_s = float(NOW_S)

    def now_ms(self) -> int:
        return int(self.at_s * 1000)

    def monotonic_s(self) -> float:
        return self.at_s


@dataclass
class Trust:
    """A verifier of the service `author`, its key pairs by algorithm, and the file with their public halves."""

    clock: OwnClock
    file: Path
    keys: dict[str, Any]
    public: dict[str, dict[str, Any]]
    verifier: Verifier

    def publish(self, *kids: str) -> None:
        self.file.write_text(json.dumps({"keys": [self.public[kid] for kid in kids]}))

    def token(self, algorithm: str = "EdDSA", *, kid: str | None = None, key: Any = None, **changed: Any) -> str:
        """A token that is right but for what is changed; None leaves a claim out."""
        claims = {
            "iss": "tally", "sub": "gateway", "aud": "author", "iat": NOW_S, "nbf": NOW_S, "exp": NOW_S + 600,
        }  # fmt: skip
        claims = {name: value for name, value in {**claims, **changed}.items() if value is not None}
        return jwt.encode(claims, key or self.keys[algorithm], algorithm, headers={"kid": kid or algorithm})

    async def refusal(self, token: str | None) -> str | None:
        """Why it is refused, or None."""
        try:
            await self.verifier.verify(None if token is None else f"Bearer {token}")
        except Refused as refused:
            return refused.reason
        return None


@pytest.fixture(scope="module")
def pairs() -> dict[str, Any]:
    return {
        "EdDSA": Ed25519PrivateKey.generate(),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
    }


@pytest.fixture
def trust(tmp_path: Path, pairs: dict[str, Any]) -> Trust:
    clock, file = OwnClock(), tmp_path / "jwks.json"
    public = {name: {**_public(name, key), "kid": name, "alg": name} for name, key in pairs.items()}
    keys = Keys(str(file), clock)
    trust = Trust(clock, file, pairs, public, Verifier(keys, "author", "tally", clock))
    trust.publish(*pairs)
    return trust


def _public(algorithm: str, key: Any) -> dict[str, Any]:
    return dict(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True))


def _part(content: bytes) -> str:
    return urlsafe_b64encode(content).rstrip(b"=").decode()


def _json(**fields: Any) -> str:
    return _part(json.dumps(fields).encode())


# --- what is let in


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_a_token_of_each_allowed_algorithm_is_accepted(trust: Trust, algorithm: str) -> None:
    caller = await trust.verifier.verify(f"Bearer {trust.token(algorithm)}")
    assert caller == Caller("gateway", NOW_S + 600)


async def test_one_of_several_audiences_is_enough(trust: Trust) -> None:
    assert await trust.refusal(trust.token(aud=["conference", "author"])) is None


async def test_clocks_may_differ_by_the_leeway_and_no_more(trust: Trust) -> None:
    assert await trust.refusal(trust.token(exp=NOW_S - LEEWAY_S + 1)) is None
    assert await trust.refusal(trust.token(exp=NOW_S - LEEWAY_S)) == "expired"
    assert await trust.refusal(trust.token(nbf=NOW_S + LEEWAY_S)) is None
    assert await trust.refusal(trust.token(nbf=NOW_S + LEEWAY_S + 1)) == "not-yet-valid"


# --- what is refused, and why


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": NOW_S - 3600}, "expired"),
        ({"nbf": NOW_S + 3600}, "not-yet-valid"),
        ({"aud": "conference"}, "audience"),
        ({"aud": []}, "malformed"),
        ({"iss": "somebody"}, "issuer"),
        ({"exp": None}, "malformed"),
        ({"sub": None}, "malformed"),
        ({"aud": None}, "malformed"),
        ({"iss": None}, "malformed"),
        ({"exp": "tomorrow"}, "malformed"),
        ({"sub": 7}, "malformed"),
        ({"sub": "ada\0"}, "malformed"),
        ({"sub": "ada\ud800"}, "malformed"),
    ],
)
async def test_wrong_or_missing_claims_are_refused(trust: Trust, changed: dict[str, Any], reason: str) -> None:
    # (A claim of the wrong kind could not be encoded by the library: it is signed by hand.)
    header, payload, _ = trust.token().split(".")
    claims = {"iss": "tally", "sub": "gateway", "aud": "author", "exp": NOW_S + 600, **changed}
    payload = _json(**{name: value for name, value in claims.items() if value is not None})
    signature = _part(trust.keys["EdDSA"].sign(f"{header}.{payload}".encode()))
    assert await trust.refusal(f"{header}.{payload}.{signature}") == reason


async def test_no_token_is_missing_and_another_scheme_is_malformed(trust: Trust) -> None:
    assert await trust.refusal(None) == "missing"
    for header in ("", "Bearer", "Bearer ", f"Basic {trust.token()}", trust.token()):
        with pytest.raises(Refused, match="malformed"):
            await trust.verifier.verify(header)


@pytest.mark.parametrize("text", ["x", "a.b.c", "..", "é.é.é", "a" * 100, _part(b"[" * 6000) + ".e30.x", "e30.e30.x"])
async def test_what_is_no_token_is_refused_and_not_a_fault(trust: Trust, text: str) -> None:
    assert await trust.refusal(text) in ("malformed", "algorithm")


async def test_a_token_that_is_too_large_is_refused_before_it_is_looked_at(trust: Trust) -> None:
    assert await trust.refusal(trust.token(more="x" * 10_000)) == "malformed"
    assert await trust.refusal(trust.token(more="x" * 4_000)) is None


async def test_a_token_signed_by_another_key_of_the_same_name_is_forged(trust: Trust) -> None:
    assert await trust.refusal(trust.token(key=Ed25519PrivateKey.generate())) == "signature"


async def test_a_token_whose_claims_were_changed_after_it_was_signed_is_forged(trust: Trust) -> None:
    header, payload, signature = trust.token(sub="directory").split(".")
    forged = _json(iss="tally", sub="operator", aud="author", exp=NOW_S + 600)
    assert await trust.refusal(f"{header}.{payload}.{signature}") is None
    assert await trust.refusal(f"{header}.{forged}.{signature}") == "signature"


@pytest.mark.parametrize("none", ["none", "None", "NONE", ""])
async def test_a_token_that_says_it_needs_no_signature_is_refused(trust: Trust, none: str) -> None:
    claims = _json(iss="tally", sub="gateway", aud="author", exp=NOW_S + 600)
    for kid in ("EdDSA", "RS256"):
        assert await trust.refusal(f"{_json(alg=none, kid=kid)}.{claims}.") == "algorithm"


async def test_a_public_key_is_not_taken_for_a_shared_secret(trust: Trust) -> None:
    import hmac

    pem = trust.keys["RS256"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )  # fmt: skip
    signed = f"{_json(alg='HS256', kid='RS256')}.{_json(iss='tally', sub='gateway', aud='author', exp=NOW_S + 600)}"
    forged = f"{signed}.{_part(hmac.new(pem, signed.encode(), sha256).digest())}"
    assert await trust.refusal(forged) == "algorithm"


@pytest.mark.parametrize(("said", "key"), [("RS256", "ES256"), ("EdDSA", "RS256"), ("ES256", "EdDSA")])
async def test_a_key_is_used_with_its_own_algorithm_only(trust: Trust, said: str, key: str) -> None:
    assert await trust.refusal(trust.token(said, kid=key)) == "algorithm"


@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
async def test_algorithms_that_are_not_on_the_list_are_refused_though_the_key_could(
    trust: Trust, algorithm: str
) -> None:
    assert await trust.refusal(trust.token(algorithm, kid="RS256", key=trust.keys["RS256"])) == "algorithm"


async def test_a_token_without_a_known_key_id_is_refused(trust: Trust) -> None:
    assert await trust.refusal(trust.token(kid="nobody")) == "unknown-key"
    claims = {"iss": "tally", "sub": "gateway", "aud": "author", "exp": NOW_S + 600}
    assert await trust.refusal(jwt.encode(claims, trust.keys["EdDSA"], "EdDSA")) == "unknown-key"


async def test_a_key_that_a_token_brings_along_is_not_trusted(trust: Trust) -> None:
    mine = Ed25519PrivateKey.generate()
    claims = {"iss": "tally", "sub": "gateway", "aud": "author", "exp": NOW_S + 600}
    headers = {"kid": "mine", "jwk": _public("EdDSA", mine), "jku": "http://127.0.0.1:9/jwks.json"}
    assert await trust.refusal(jwt.encode(claims, mine, "EdDSA", headers=headers)) == "unknown-key"


async def test_a_token_that_was_accepted_before_is_refused_once_it_has_expired(trust: Trust) -> None:
    token = trust.token()
    assert await trust.refusal(token) is None
    trust.clock.at_s += 600 + LEEWAY_S
    assert await trust.refusal(token) == "expired"


# --- keys


async def test_a_new_key_is_found_without_a_restart(trust: Trust) -> None:
    trust.publish("EdDSA")
    assert await trust.refusal(trust.token("EdDSA")) is None
    trust.publish("EdDSA", "ES256")
    assert await trust.refusal(trust.token("ES256")) == "unknown-key"  # it was read a moment ago
    trust.clock.at_s += 11
    assert await trust.refusal(trust.token("ES256")) is None


async def test_unknown_key_ids_do_not_make_it_read_the_keys_each_time(trust: Trust) -> None:
    await trust.refusal(trust.token("EdDSA"))
    trust.file.unlink()
    with logs.capture() as events:
        for number in range(50):
            assert await trust.refusal(trust.token(kid=f"guess-{number}")) == "unknown-key"
        trust.clock.at_s += 11
        await asyncio.gather(*(trust.refusal(trust.token(kid=f"guess-{number}")) for number in range(50)))
    assert [event["event"] for event in events] == ["the token keys can't be read"]


@pytest.mark.parametrize("damage", [None, "", "{", "[]", '{"keys": 7}', '{"keys": [{"kty": "??"}, 7]}'])
async def test_known_keys_are_kept_while_their_source_is_away_or_damaged(trust: Trust, damage: str | None) -> None:
    assert await trust.refusal(trust.token("EdDSA")) is None
    if damage is None:
        trust.file.unlink()
    else:
        trust.file.write_text(damage)
    trust.clock.at_s += 11
    assert await trust.refusal(trust.token(kid="new")) == "unknown-key"  # this made it look
    assert await trust.refusal(trust.token("EdDSA", jti="not remembered")) is None


async def test_a_key_that_is_not_published_any_more_is_not_trusted_any_more(trust: Trust) -> None:
    token = trust.token("EdDSA", exp=NOW_S + 3600)
    assert await trust.refusal(token) is None
    trust.publish("ES256")
    trust.clock.at_s += 300
    told: list[str | None] = []
    async with asyncio.timeout(10):
        while "unknown-key" not in told:  # nobody waits for the look that this asks for
            told.append(await trust.refusal(token))
            await asyncio.sleep(0)
    assert set(told[:-1]) <= {None}
    assert await trust.refusal(trust.token("ES256", exp=NOW_S + 3600)) is None


async def test_a_look_at_known_keys_that_fails_takes_none_away_and_is_not_repeated_at_once(trust: Trust) -> None:
    token = trust.token("EdDSA", exp=NOW_S + 3600)
    assert await trust.refusal(token) is None
    trust.file.unlink()
    trust.clock.at_s += 300
    with logs.capture() as events:
        async with asyncio.timeout(10):
            while not events:
                assert await trust.refusal(token) is None
                await asyncio.sleep(0)
        assert [await trust.refusal(token) for _ in range(3)] == [None] * 3
    assert [event["event"] for event in events] == ["the token keys can't be read"]


async def test_a_source_that_comes_up_later_is_found(trust: Trust) -> None:
    trust.file.unlink()
    assert await trust.refusal(trust.token()) == "unknown-key"
    trust.publish("EdDSA")
    trust.clock.at_s += 11
    assert await trust.refusal(trust.token()) is None


async def test_keys_are_there_before_the_first_caller_and_a_start_without_them_goes_on(trust: Trust) -> None:
    trust.file.unlink()
    await trust.verifier.prepare()
    trust.publish("EdDSA")
    trust.clock.at_s += 1
    await trust.verifier.prepare()
    trust.file.unlink()
    assert await trust.refusal(trust.token()) is None


# --- showing who one is


def _made(tmp_path: Path) -> tuple[Path, Path]:
    key, jwks = tmp_path / "service.pem", tmp_path / "public.json"
    make_key(key, jwks)
    return key, jwks


async def test_what_a_made_key_signs_its_published_half_verifies(tmp_path: Path) -> None:
    key, jwks = _made(tmp_path)
    clock = OwnClock()
    tokens = MintedTokens(str(key), "gateway", "tally", clock)
    verifier = Verifier(Keys(str(jwks), clock), "author", "tally", clock)
    assert (await verifier.verify(f"Bearer {tokens('author')}")).subject == "gateway"
    with pytest.raises(Refused, match="audience"):
        await verifier.verify(f"Bearer {tokens('conference')}")


def test_a_made_private_key_is_readable_by_its_owner_only_and_is_not_published(tmp_path: Path) -> None:
    key, jwks = _made(tmp_path)
    assert key.stat().st_mode & 0o777 == 0o600
    (published,) = json.loads(jwks.read_text())["keys"]
    assert "d" not in published


def test_a_minted_token_is_used_again_and_renewed_before_it_expires(tmp_path: Path) -> None:
    clock = OwnClock()
    tokens = MintedTokens(str(_made(tmp_path)[0]), "gateway", "tally", clock)
    first = tokens("author")
    clock.at_s += LIFETIME_S * 0.79
    assert tokens("author") == first
    clock.at_s += LIFETIME_S * 0.02
    second = tokens("author")
    assert second != first
    claims = jwt.decode(second, options={"verify_signature": False})
    assert claims["exp"] == int(clock.at_s) + LIFETIME_S


def test_a_wall_clock_that_jumps_back_makes_a_new_token(tmp_path: Path) -> None:
    clock = OwnClock()
    tokens = MintedTokens(str(_made(tmp_path)[0]), "gateway", "tally", clock)
    first = tokens("author")
    clock.at_s -= 3600
    assert tokens("author") != first


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_other_kinds_of_private_keys_can_mint(tmp_path: Path, pairs: dict[str, Any], algorithm: str) -> None:
    pem = pairs[algorithm].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(pem)
    token = MintedTokens(str(tmp_path / "key.pem"), "gateway", "tally", OwnClock())("author")
    assert jwt.get_unverified_header(token)["alg"] == algorithm


@pytest.mark.parametrize("content", [b"", b"no key", None])
def test_a_key_that_cannot_be_used_is_said_so_without_quoting_it(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(AuthError, match=r"the token key .* can't be used"):
        MintedTokens(str(tmp_path / "key.pem"), "gateway", "tally", OwnClock())


def test_a_projected_token_is_read_again_when_it_rotates(tmp_path: Path) -> None:
    # As the kubelet does it: the file is a link into a folder that is replaced.
    for number, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "author").write_text(f"{name}\n")
        os.utime(tmp_path / name / "author", (NOW_S + number, NOW_S + number))
    (tmp_path / "data").symlink_to("first")
    (tmp_path / "author").symlink_to("data/author")
    tokens = ProjectedTokens(str(tmp_path))
    assert tokens("author") == "first"
    (tmp_path / "new").symlink_to("second")
    (tmp_path / "new").rename(tmp_path / "data")
    assert tokens("author") == "second"


def test_a_projected_token_that_is_not_there_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(AuthError, match=f"{tmp_path}/author: No such file"):
        ProjectedTokens(str(tmp_path))("author")


# --- guards


def asked(token: str | None = None, method: str = "POST") -> Request:
    headers = [] if token is None else [(b"authorization", f"Bearer {token}".encode())]
    return Request({"type": "http", "method": method, "path": "/x", "headers": headers, "query_string": b""})


class Handler:
    """Notes that it was reached."""

    def __init__(self) -> None:
        self.reached = 0

    async def __call__(self, request: Request) -> Response:
        self.reached += 1
        return Response(status_code=204)


def counted(signals: Signals, reason: str) -> float:
    return signals.registry.get_sample_value("tally_tokens_refused_total", {"reason": reason}) or 0.0


async def refused(handler: Callable[[Request], Awaitable[Response]], request: Request) -> Problem:
    with pytest.raises(Problem) as raised:
        await handler(request)
    return raised.value


async def test_who_cannot_be_told_is_401_and_who_may_not_is_403_both_counted_and_nothing_is_done(trust: Trust) -> None:
    signals, handler = Signals("author"), Handler()
    guarded = Guard(trust.verifier, ["gateway", "conference"], signals)(handler)
    assert (await guarded(asked(trust.token()))).status_code == 204
    for token, status, code, reason in [
        (None, 401, "unauthenticated", "missing"),
        (trust.token(aud="conference"), 401, "unauthenticated", "audience"),
        (trust.token(key=Ed25519PrivateKey.generate()), 401, "unauthenticated", "signature"),
        (trust.token(sub="notifier"), 403, "forbidden", "caller"),
    ]:
        with logs.capture() as events:
            problem = await refused(guarded, asked(token))
        assert (problem.status, problem.code, counted(signals, reason)) == (status, code, 1.0)
        assert [event["reason"] for event in events if event["event"] == "token refused"] == [reason]
        assert token is None or token not in json.dumps(events)
    assert handler.reached == 1


async def test_operators_may_not_call_internal_endpoints_nor_services_the_admin_ones(tmp_path: Path) -> None:
    key, jwks = _made(tmp_path)
    clock, handler = OwnClock(), Handler()
    internal, admin = guards(GuardedSettings(port=0, token_jwks=str(jwks)), "author", clock, Signals("author"))
    for name, allowed, forbidden in (("operator", admin, internal), ("gateway", internal, admin)):
        token = MintedTokens(str(key), name, "tally", clock)("author")
        assert (await allowed(handler)(asked(token))).status_code == 204
        assert (await refused(forbidden(handler), asked(token))).status == 403


async def test_every_reason_of_the_counter_is_there_before_anything_was_refused(tmp_path: Path) -> None:
    signals = Signals("author")
    guards(GuardedSettings(port=0, token_jwks=str(_made(tmp_path)[1])), "author", OwnClock(), signals)
    shown = signals.exposition("")[0].decode()
    assert shown.count("tally_tokens_refused_total{") == 10


async def test_guards_can_be_switched_off_by_a_setting_only() -> None:
    settings = load(GuardedSettings, {"TALLY_PORT": "0", "TALLY_TOKEN_CHECK": "off"})
    internal, _ = guards(settings, "author", OwnClock(), Signals("author"))
    assert (await internal(Handler())(asked())).status_code == 204
    with pytest.raises(SettingsError, match="TALLY_TOKEN_JWKS"):
        load(GuardedSettings, {"TALLY_PORT": "0"})


def test_a_service_takes_its_tokens_from_where_its_settings_say(tmp_path: Path) -> None:
    clock = OwnClock()
    check: dict[str, Any] = {"port": 0, "token_check": "off"}
    key, _ = _made(tmp_path)
    assert token_source(GuardedSettings(**check), "gateway", clock) is None
    minted = token_source(GuardedSettings(**check, token_key_file=str(key)), "gateway", clock)
    assert isinstance(minted, MintedTokens)
    projected = token_source(GuardedSettings(**check, token_folder=str(tmp_path)), "gateway", clock)
    assert isinstance(projected, ProjectedTokens)
    both = {"TALLY_PORT": "0", "TALLY_TOKEN_CHECK": "off", "TALLY_TOKEN_KEY_FILE": str(key), "TALLY_TOKEN_FOLDER": "/"}
    with pytest.raises(SettingsError, match="TALLY_TOKEN_KEY_FILE and TALLY_TOKEN_FOLDER"):
        load(GuardedSettings, both)


# --- the public's identity provider


def public_routes(trust: Trust, handler: Handler, signals: Signals, **more: Any) -> dict[str, Route]:
    settings = GuardedSettings(port=0, token_check="off", **more)
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE")
    routes = [Route(method, "/x", handler, "X", tags=()) for method in methods]
    return {route.method: route for route in identified(routes, settings, trust.clock, signals)}


def provided(trust: Trust) -> dict[str, Any]:
    return {"public_jwks": str(trust.file), "public_issuer": "https://id.example", "public_audience": "tally"}


async def test_with_an_identity_provider_writes_need_its_token_and_reads_do_not(trust: Trust) -> None:
    signals, handler = Signals("author"), Handler()
    routes = public_routes(trust, handler, signals, **provided(trust))
    await routes["GET"].handler(asked(method="GET"))
    assert handler.reached == 1
    good = trust.token(iss="https://id.example", sub="jane", aud="tally")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert (await refused(routes[method].handler, asked(method=method))).code == "unauthenticated"
        assert (await refused(routes[method].handler, asked(trust.token(), method))).status == 401  # a service's own
        assert "unauthenticated" in routes[method].problems
        await routes[method].handler(asked(good, method))
    assert handler.reached == 5
    assert (counted(signals, "missing"), counted(signals, "issuer")) == (4.0, 4.0)


async def test_who_wrote_is_in_the_log_and_in_the_context_and_the_token_is_not(trust: Trust) -> None:
    actors = []

    async def note(request: Request) -> Response:
        here = context.current()
        actors.append(here.actor if here else None)
        return Response()

    settings = GuardedSettings(port=0, token_check="off", **provided(trust))
    (route,) = identified([Route("POST", "/x", note, "X")], settings, trust.clock, Signals("author"))
    token = trust.token(iss="https://id.example", sub="jane", aud="tally")
    with logs.capture() as events:
        await route.handler(asked(token))
    assert actors == ["jane"]
    (written,) = (event for event in events if event["event"] == "write")
    assert (written["actor"], written["method"], written["path"]) == ("jane", "POST", "/x")
    assert token not in json.dumps(events)
    assert context.current() is None


async def test_without_an_identity_provider_writes_are_open(trust: Trust) -> None:
    handler = Handler()
    await public_routes(trust, handler, Signals("author"))["POST"].handler(asked())
    assert handler.reached == 1


def test_an_identity_provider_needs_a_name() -> None:
    given = {"TALLY_PORT": "0", "TALLY_TOKEN_CHECK": "off", "TALLY_PUBLIC_JWKS": "/dev/null"}
    with pytest.raises(SettingsError, match="TALLY_PUBLIC_ISSUER"):
        load(GuardedSettings, given)
