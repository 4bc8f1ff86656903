"""Settings are valid or they are not there, and whoever gets them wrong is told everything at once."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from asyncpg import connect_utils
from msgspec import Meta

from tally.chassis.database_url import DatabaseUrl, addresses
from tally.chassis.settings import (
    SECRET,
    ServiceSettings,
    SettingsError,
    describe,
    load,
    redacted,
    variable,
)


class Settings(ServiceSettings, frozen=True, kw_only=True):
    port: Annotated[int, Meta(ge=0, le=65535, description="The public port.")] = 8070
    database_url: DatabaseUrl
    pool_max: Annotated[int, Meta(ge=1, le=100, description="Connections at most.")] = 10
    peer_url: Annotated[str, Meta(pattern="^https?://", description="The peer.")] | None = None
    eager: Annotated[bool, Meta(description="Do it at once.")] = False


GOOD = {"TALLY_DATABASE_URL": "postgresql://tally:hunter2@db/tally"}


def sentences(environ: dict[str, str]) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(Settings, environ)
    return caught.value.sentences


def test_what_is_not_set_has_its_default() -> None:
    settings = load(Settings, GOOD)
    assert (settings.host, settings.port, settings.admin_port) == ("127.0.0.1", 8070, 9070)
    assert (settings.request_deadline_s, settings.body_max_bytes) == (2.0, 1_048_576)
    assert settings.tls_cert_file is None


def test_text_becomes_the_type_of_the_field() -> None:
    environ = {"TALLY_PORT": "81", "TALLY_REQUEST_DEADLINE_S": "0.5", "TALLY_EAGER": "true", "HOME": "/"}
    settings = load(Settings, GOOD | environ)
    assert (settings.port, settings.request_deadline_s, settings.eager) == (81, 0.5, True)


@pytest.mark.parametrize(
    ("port", "admin", "expected"),
    [("9000", "", 10000), ("9000", "0", 10000), ("9000", "9001", 9001), ("0", "", 0)],
)
def test_the_admin_port_is_the_public_port_plus_1000_unless_it_is_set(port: str, admin: str, expected: int) -> None:
    settings = load(Settings, GOOD | {"TALLY_PORT": port, "TALLY_ADMIN_PORT": admin})
    assert settings.admin_port == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("TALLY_PORT", "abc", "must be a whole number from 0 to 65535, got 'abc'"),
        ("TALLY_PORT", "99999", "must be a whole number from 0 to 65535, got '99999'"),
        ("TALLY_PORT", "-1", "must be a whole number from 0 to 65535"),
        ("TALLY_PORT", "80.5", "must be a whole number"),
        ("TALLY_LOG_FORMAT", "xml", "must be auto, json or pretty, got 'xml'"),
        ("TALLY_ACCESS_LOG", "none", "must be errors or all"),
        ("TALLY_REQUEST_DEADLINE_S", "0", "must be a number above 0 up to 60"),
        ("TALLY_REQUEST_DEADLINE_S", "nan", "must be a number above 0 up to 60"),
        ("TALLY_SHUTDOWN_GRACE_S", "inf", "must be a number from 0 to 600"),
        ("TALLY_BODY_MAX_BYTES", "1", "must be a whole number from 1024 to 67108864"),
        ("TALLY_EAGER", "maybe", "must be true or false"),
        ("TALLY_PEER_URL", "ftp://x", "must be text matching ^https?://"),
        ("TALLY_TLS_CA_FILE", "/nowhere/ca.pem", "names a file that cannot be read: /nowhere/ca.pem (No such file"),
    ],
)
def test_a_bad_value_is_named_with_what_was_expected(name: str, value: str, expected: str) -> None:
    [sentence] = sentences(GOOD | {name: value})
    assert sentence.startswith(f"{name} {expected}")
    assert sentence.endswith(".")


@pytest.mark.parametrize("environ", [{}, {"TALLY_DATABASE_URL": ""}])
def test_what_must_be_set_and_is_not_is_named(environ: dict[str, str]) -> None:
    assert sentences(environ) == ("TALLY_DATABASE_URL is not set; expected text matching ^postgres(ql)?://.",)


def test_all_that_is_wrong_is_said_at_once() -> None:
    environ = {"TALLY_PORT": "abc", "TALLY_POOL_MAX": "0", "TALLY_TLS_KEY_FILE": __file__, "TALLY_LOG_LEVL": "info"}
    found = sentences(environ)
    named = [re.findall("TALLY_[A-Z_]+", sentence)[0] for sentence in found]
    assert named == [
        "TALLY_PORT",
        "TALLY_DATABASE_URL",
        "TALLY_POOL_MAX",
        "TALLY_TLS_CERT_FILE",
        "TALLY_LOG_LEVL",
    ]
    with pytest.raises(SettingsError, match="\n".join(map(re.escape, found))):
        load(Settings, environ)


def test_a_long_value_is_shortened_in_the_error() -> None:
    [sentence] = sentences(GOOD | {"TALLY_PORT": "9" * 5000})
    assert len(sentence) < 200


# --- what goes together -------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", ["TALLY_TLS_CERT_FILE", "TALLY_TLS_KEY_FILE"])
def test_a_certificate_without_its_key_or_the_reverse_names_both(one: str) -> None:
    [sentence] = sentences(GOOD | {one: __file__})
    assert "TALLY_TLS_CERT_FILE" in sentence
    assert "TALLY_TLS_KEY_FILE" in sentence


def test_certificate_and_key_together_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "cert.pem").write_text("c")
    files = {name: str(tmp_path / "cert.pem") for name in ("TALLY_TLS_CERT_FILE", "TALLY_TLS_KEY_FILE")}
    assert load(Settings, GOOD | files).tls_key_file == str(tmp_path / "cert.pem")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    [sentence] = sentences(GOOD | {"TALLY_TLS_CA_FILE": str(tmp_path)})
    assert "Is a directory" in sentence


def test_a_port_that_leaves_no_room_for_the_admin_port_is_said_so() -> None:
    [sentence] = sentences(GOOD | {"TALLY_PORT": "65000"})
    assert sentence.startswith("TALLY_ADMIN_PORT must be set")
    assert load(Settings, GOOD | {"TALLY_PORT": "65000", "TALLY_ADMIN_PORT": "9"}).admin_port == 9


def test_both_ports_the_same_is_refused() -> None:
    [sentence] = sentences(GOOD | {"TALLY_PORT": "8070", "TALLY_ADMIN_PORT": "8070"})
    assert sentence == "TALLY_ADMIN_PORT must differ from TALLY_PORT, and both are 8070."


# --- misspellings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("TALLY_DATABSE_URL", "TALLY_DATABASE_URL"),
        ("TALLY_PORTS", "TALLY_PORT"),
        ("TALLY_REQUEST_DEADLINE", "TALLY_REQUEST_DEADLINE_S"),
        ("TALLY_REQUEST_DEADLINE_MS", "TALLY_REQUEST_DEADLINE_S"),
    ],
)
def test_a_misspelling_names_what_was_meant(wrong: str, meant: str) -> None:
    assert sentences(GOOD | {wrong: "1"}) == (f"{wrong} is not a setting; did you mean {meant}?",)


@pytest.mark.parametrize("other", ["TALLY_AUTHOR_URL", "TALLY_SETTLE_LAG_S", "TALLY_HOME", "TALLY_", "PORTS"])
def test_what_is_meant_for_somebody_else_is_ignored(other: str) -> None:
    load(Settings, GOOD | {other: "x"})


def test_what_another_knows_is_no_misspelling() -> None:
    environ = GOOD | {"TALLY_POOL_MAXI": "1"}
    with pytest.raises(SettingsError, match="TALLY_POOL_MAX"):
        load(Settings, environ)
    load(Settings, environ, elsewhere={"TALLY_POOL_MAXI"})


# --- secrets and documentation ------------------------------------------------------------------------------


def test_a_secret_is_shown_nowhere() -> None:
    settings = load(Settings, GOOD)
    assert "hunter2" not in f"{settings} {settings!r} {redacted(settings)} {describe(Settings)}"
    assert redacted(settings)["database_url"] == "***"
    assert redacted(settings)["pool_max"] == 10
    assert settings.database_url == GOOD["TALLY_DATABASE_URL"]


def test_a_bad_secret_is_not_quoted() -> None:
    class Token(ServiceSettings, frozen=True, kw_only=True):
        port: int = 1
        token: Annotated[str, Meta(min_length=20, extra=SECRET)]

    with pytest.raises(SettingsError) as caught:
        load(Token, {"TALLY_TOKEN": "hunter2"})
    assert "TALLY_TOKEN must be text" in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nonsense", "must be text matching ^postgres(ql)?://"),
        ("http://x/y", "must be text matching ^postgres(ql)?://"),
        ("postgresql://u:hunter2@db:xx/d", "has a port that is no number from 1 to 65535"),
        ("postgresql://u:hunter2@db:0/d", "has a port that is no number from 1 to 65535"),
        ("postgresql://u:hunter2@db:99999/d", "has a port that is no number from 1 to 65535"),
        ("postgresql://u:hunter2@one,two:xx/d", "has a port that is no number from 1 to 65535"),
        ("postgresql://u:hunter2/@db/d", "(a special character of the password must be percent-encoded)"),
        ("postgresql://u:hunter2@2@db/d", "(a special character of the password must be percent-encoded)"),
        ("postgresql://u:hunter2@one,/d", "has a host that is none"),
        ("postgresql://u:hunter2@[::1/d", "is no address"),
        ("postgresql://u:hunter2@/d?host", "what follows its ? must be name=value"),
        ("postgresql://u:hunter2@/d?host=a,b&port=1,2,3", "has 2 hosts and 3 ports"),
        ("postgresql://u:hunter2@/d?host=a&port=xx", "has a port that is no number"),
        ("postgresql://u:hunter2@db/d?sslmode=hunter2", "has an sslmode that is none of disable, allow"),
    ],
)
def test_an_address_of_no_database_is_refused_by_name_and_not_quoted(url: str, expected: str) -> None:
    [sentence] = sentences({"TALLY_DATABASE_URL": url})
    assert sentence.startswith("TALLY_DATABASE_URL ")
    assert expected in sentence
    assert "hunter2" not in sentence


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql://u:p@db/d", ["db:5432"]),
        ("postgres://u:p@db:5433/d?sslmode=require", ["db:5433"]),
        ("postgresql://u:p%2F@[::1]:5433/d", ["[::1]:5433"]),
        ("postgresql://u@one:1,two/d?target_session_attrs=read-write", ["one:1", "two:5432"]),
        ("postgresql://u@/d?host=/run/postgresql", ["/run/postgresql"]),
        ("postgresql://u@/d?host=/run/postgresql&port=5433", ["/run/postgresql"]),
        ("postgresql://u@%2Frun%2Fpostgresql/d", ["/run/postgresql"]),
        ("postgresql://u@/d?host=one,two&port=1,2", ["one:1", "two:2"]),
        ("postgresql:///d", []),
    ],
)
def test_servers_sockets_and_several_of_them_are_addresses_to_asyncpg_too(url: str, expected: list[str]) -> None:
    assert load(Settings, {"TALLY_DATABASE_URL": url}).database_url == url
    assert addresses(url) == expected
    parse: Any = connect_utils._parse_connect_dsn_and_args
    read, _ = parse(**{**dict.fromkeys(inspect.signature(parse).parameters), "dsn": url})
    known = [str(Path(one).parent) if isinstance(one, str) else f"{one[0]}:{one[1]}" for one in read]
    assert known == [one.replace("[", "").replace("]", "") for one in expected] or not expected


def test_every_setting_of_the_base_is_described_in_a_sentence() -> None:
    docs = describe(Settings)
    assert [doc.variable for doc in docs] == [variable(name) for name in Settings.__struct_fields__]
    for doc in docs:
        assert re.fullmatch(r"[A-Z].*\.", doc.description), doc
        assert doc.type, doc
    by_name = {doc.variable: doc for doc in docs}
    assert by_name["TALLY_PORT"].default == "8070"
    assert by_name["TALLY_DATABASE_URL"].default is None
    assert by_name["TALLY_TLS_CA_FILE"].default == ""
    assert by_name["TALLY_LOG_FORMAT"].type == "auto, json or pretty"


def test_settings_are_frozen() -> None:
    settings = load(Settings, GOOD)
    with pytest.raises(AttributeError):
        settings.port = 1  # type: ignore[misc]
    assert msgspec.structs.replace(settings, pool_max=5).pool_max == 5
