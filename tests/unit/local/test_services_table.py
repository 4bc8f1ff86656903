"""The table of what `make run` starts: ports, addresses, environments."""

import os
from pathlib import Path

import pytest

from tally.local import services
from tally.local.failure import LocalError
from tally.local.services import (
    SERVICES,
    Place,
    Program,
    check_variables,
    environment,
    filled,
    found,
    own_database,
    place,
)

AUTHOR, CONFERENCE, GATEWAY = (
    next(program for program in SERVICES if program.name == name) for name in ("author", "conference", "gateway")
)


def test_the_ports_of_the_reference_deployment() -> None:
    places = place(SERVICES, {})
    assert {name: (here.port, here.admin_port) for name, here in places.items()} == {
        "author": (8070, 9070),
        "conference": (8080, 9080),
        "gateway": (8443, 9443),
        "directory": (8060, 9060),
        "notifier": (8050, 9050),
        "mail": (1025, 8025),
        "nats": (4222, 8222),
    }


def test_an_offset_shifts_every_port() -> None:
    assert {here.port - there.port for here, there in zip(
        place(SERVICES, {"TALLY_PORT_OFFSET": "100"}).values(), place(SERVICES, {}).values(), strict=True
    )} == {100}  # fmt: skip


def test_one_port_can_be_chosen_and_its_admin_port_follows() -> None:
    here = place(SERVICES, {"TALLY_LOCAL_AUTHOR_PORT": "4000", "TALLY_PORT_OFFSET": "100"})["author"]
    assert (here.port, here.admin_port) == (4000, 5000)
    here = place(SERVICES, {"TALLY_LOCAL_AUTHOR_ADMIN_PORT": "4001"})["author"]
    assert (here.port, here.admin_port) == (8070, 4001)


def test_the_stack_that_runs_is_asked_where_it_is_and_a_variable_wins() -> None:
    running = place(SERVICES, {"TALLY_PORT_OFFSET": "100", "TALLY_TLS_CERT_FILE": "x"})
    assert found(SERVICES, {}, None) == place(SERVICES, {})
    assert found(SERVICES, {}, running) == running
    chosen = found(SERVICES, {"TALLY_LOCAL_AUTHOR_PORT": "4000"}, running)
    assert (chosen["author"].port, chosen["gateway"]) == (4000, running["gateway"])
    assert found(SERVICES, {"TALLY_PORT_OFFSET": "7"}, running) == place(SERVICES, {"TALLY_PORT_OFFSET": "7"})


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("TALLY_LOCAL_AUTHOR_PORT", "many", "TALLY_LOCAL_AUTHOR_PORT is 'many': it must be a number."),
        ("TALLY_LOCAL_AUTHOR_PORT", "70000", "TALLY_LOCAL_AUTHOR_PORT comes to 70000: a port is between 1 and 65535."),
        ("TALLY_PORT_OFFSET", "-9000", "TALLY_LOCAL_AUTHOR_PORT comes to -930: a port is between 1 and 65535."),
        ("TALLY_LOCAL_AUTHOR_PORT", "8080", "Port 8080 is both the author service's and the conference service's"),
    ],
)
def test_a_port_that_cannot_be_names_its_variable(name: str, value: str, sentence: str) -> None:
    with pytest.raises(LocalError) as refused:
        place(SERVICES, {name: value})
    assert str(refused.value).startswith(sentence)


def test_a_misspelt_service_is_named() -> None:
    with pytest.raises(LocalError, match=r"^TALLY_LOCAL_AUTOR_PORT names no service: the names are author, conference"):
        check_variables(SERVICES, {"TALLY_LOCAL_AUTOR_PORT": "1"})
    check_variables(SERVICES, {"TALLY_LOCAL_AUTOR_PORT": "", "TALLY_LOCAL_FOLDER": "/x"})


@pytest.mark.parametrize("field", ["PORT", "ADMIN_PORT", "DATABASE_URL"])
def test_one_value_for_what_each_service_has_its_own_of_is_refused(field: str) -> None:
    with pytest.raises(
        LocalError, match=f"^TALLY_{field} would be the same for every service.*TALLY_LOCAL_AUTHOR_{field}"
    ):
        check_variables(SERVICES, {f"TALLY_{field}": "1"})


def test_ours_then_the_users_then_what_is_for_one_service() -> None:
    environ = {
        "TALLY_LOG_LEVEL": "debug",
        "TALLY_ACCESS_LOG": "errors",
        "TALLY_LOCAL_AUTHOR_LOG_LEVEL": "error",
        "TALLY_PORT_OFFSET": "100",
        "PATH": "/bin",
    }
    places = place(SERVICES, environ)
    author = environment(AUTHOR, places, SERVICES, environ, "postgresql://here/author")
    gateway = environment(GATEWAY, places, SERVICES, environ)
    assert (author["TALLY_LOG_LEVEL"], gateway["TALLY_LOG_LEVEL"]) == ("error", "debug")
    assert author["TALLY_ACCESS_LOG"] == "errors"
    assert author["TALLY_DATABASE_URL"] == "postgresql://here/author"
    assert author["TALLY_CONFERENCE_URL"] == gateway["TALLY_CONFERENCE_URL"] == "http://127.0.0.1:8180"
    assert (gateway["TALLY_PORT"], gateway["TALLY_ADMIN_PORT"]) == ("8543", "9543")
    assert "TALLY_DATABASE_URL" not in gateway
    assert [name for name in author if name.startswith(("TALLY_LOCAL_", "TALLY_PORT_OFFSET"))] == []
    assert author["PATH"] == "/bin"
    assert author["PYTHONPATH"].split(os.pathsep)[0] == str(services.source_tree())


def test_a_service_can_use_a_database_of_its_own() -> None:
    assert own_database(AUTHOR, {})
    assert not own_database(GATEWAY, {})
    assert not own_database(AUTHOR, {"TALLY_LOCAL_AUTHOR_DATABASE_URL": "postgresql://elsewhere/author"})
    assert own_database(CONFERENCE, {"TALLY_LOCAL_AUTHOR_DATABASE_URL": "postgresql://elsewhere/author"})


def test_addresses_follow_tls_and_the_host() -> None:
    assert place(SERVICES, {"TALLY_TLS_CERT_FILE": "cert.pem"})["gateway"].url == "https://127.0.0.1:8443"
    assert place(SERVICES, {"TALLY_HOST": "0.0.0.0"})["gateway"].url == "http://127.0.0.1:8443"
    assert place(SERVICES, {})["gateway"].shown == "localhost:8443"
    assert place(SERVICES, {"TALLY_TLS_CERT_FILE": "cert.pem"})["gateway"].shown == "https://localhost:8443"


def test_an_address_has_brackets_around_ipv6_and_a_host_has_none() -> None:
    environ = {"TALLY_HOST": "::1", "TALLY_LOCAL_NATS_HOST": "::1", "TALLY_LOCAL_MAIL_HOST": "::1"}
    places = place(SERVICES, environ)
    author = environment(AUTHOR, places, SERVICES, environ)
    assert (places["gateway"].url, places["gateway"].admin_url) == ("http://[::1]:8443", "http://[::1]:9443")
    assert (places["gateway"].shown, author["TALLY_CONFERENCE_URL"]) == ("[::1]:8443", "http://[::1]:8080")
    assert (author["TALLY_STREAM_URL"], author["TALLY_MAIL_URL"]) == ("nats://[::1]:4222", "http://[::1]:8025")
    assert (author["TALLY_HOST"], author["TALLY_SMTP_HOST"]) == ("::1", "::1")
    assert place(SERVICES, {"TALLY_HOST": "::"})["gateway"].url == "http://127.0.0.1:8443"


def test_a_row_for_another_program_fills_in_its_command_and_address() -> None:
    row = Program("queue", 4000, 0, ("{bin}/cache", "-p", "{port}", "-sd", "{folder}"),
    address="cache://{host}:{port}", settings=False)  # fmt: skip
    table = (row, *SERVICES)
    places = place(table, {"TALLY_TLS_CERT_FILE": "cert.pem"})
    assert filled(row.command, places["queue"], Path("/data"))[1:] == ["-p", "4000", "-sd", "/data"]
    assert environment(GATEWAY, places, table, {})["TALLY_QUEUE_URL"] == "cache://127.0.0.1:4000"


def test_a_row_can_give_the_others_more_than_its_address() -> None:
    environ = {"TALLY_PORT_OFFSET": "100"}
    given = environment(AUTHOR, place(SERVICES, environ), SERVICES, environ)
    assert (given["TALLY_SMTP_HOST"], given["TALLY_SMTP_PORT"]) == ("127.0.0.1", "1125")
    assert given["TALLY_MAIL_URL"] == "http://127.0.0.1:8125"


def test_services_find_the_stream_where_the_embedded_broker_is_unless_told_otherwise() -> None:
    assert environment(AUTHOR, place(SERVICES, {}), SERVICES, {})["TALLY_STREAM_URL"] == "nats://127.0.0.1:4222"
    environ = {"TALLY_STREAM_URL": "nats://elsewhere:4222"}
    assert (
        environment(AUTHOR, place(SERVICES, environ), SERVICES, environ)["TALLY_STREAM_URL"] == "nats://elsewhere:4222"
    )


def test_the_broker_listens_on_the_loopback_address_whatever_the_services_do() -> None:
    places = place(SERVICES, {"TALLY_HOST": "0.0.0.0"})
    assert (places["gateway"].host, places["nats"].host) == ("0.0.0.0", "127.0.0.1")
    assert place(SERVICES, {"TALLY_LOCAL_NATS_HOST": "::1"})["nats"].host == "::1"


def test_the_folder_is_the_source_trees_unless_it_is_chosen() -> None:
    root = services.source_tree()
    assert root is not None
    assert services.local_folder({}) == root / ".tally"
    assert services.local_folder({"TALLY_LOCAL_FOLDER": "/data"}) == Path("/data")


def test_a_taken_port_says_which_variable_changes_it() -> None:
    here = {"author": Place("127.0.0.1", 1, 2)}
    with pytest.raises(
        LocalError, match=r"^Port 2 \(the author service's admin port\) is taken by .* TALLY_LOCAL_AUTHOR_ADMIN_PORT"
    ):
        services.check_ports([AUTHOR], here, taken=lambda host, port: port == 2)


@pytest.mark.parametrize("host", ["nope.invalid", "192.0.2.1"])
def test_an_address_that_is_not_this_machines_says_which_variable_changes_it(host: str) -> None:
    with pytest.raises(
        LocalError, match=rf"^The author service cannot listen at {host} \(.+\): .* TALLY_LOCAL_AUTHOR_HOST=…"
    ):
        services.check_ports([AUTHOR], place(SERVICES, {"TALLY_LOCAL_AUTHOR_HOST": host}))
