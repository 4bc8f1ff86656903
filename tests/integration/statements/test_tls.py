"""TLS is a setting of each service: clients and the services among themselves then speak it, and nothing else."""

import http.client
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tally.local.stack import LocalStack, free_ports
from tests.integration.statements.stage import Stage
from tests.support.folders import scratch_folder
from tests.support.stacks import CORE

RUNBOOK = Path(__file__).resolve().parents[3] / "docs" / "runbooks" / "TallyCertificateExpires.md"


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine's own address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tally test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "certificate.pem", folder / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[Stage, Path]]:
    with scratch_folder() as folder:
        cert_file, key_file = self_signed(folder)
        env = {
            "TALLY_TLS_CERT_FILE": str(cert_file),
            "TALLY_TLS_KEY_FILE": str(key_file),
            "TALLY_TLS_CA_FILE": str(cert_file),
        }
        with LocalStack(
            folder / ".tally", programs=CORE, ports=free_ports(CORE), env=env, supervise=False, durable=False
        ) as running:
            yield Stage(running), cert_file


def test_attendances_work_over_tls_end_to_end(secured: tuple[Stage, Path]) -> None:
    stage, _ = secured
    assert all(url.startswith("https://") for url in stage.stack.urls.values())
    event, author = stage.event(capacity=1), stage.author()
    operation = stage.created(event, author)
    assert stage.shown(event, author) == ([operation], [operation])
    # The settler calls the author service, over TLS as well.
    stage.next_settlement()
    assert stage.cancel(event, author).status == 204


def test_a_client_that_trusts_the_certificate_can_verify_it(secured: tuple[Stage, Path]) -> None:
    stage, cert_file = secured
    here = stage.stack.places["gateway"]
    context = ssl.create_default_context(cafile=str(cert_file))
    connection = http.client.HTTPSConnection("127.0.0.1", here.port, context=context, timeout=10)
    try:
        connection.request("GET", f"/event/{stage.event()}/attendance")
        assert connection.getresponse().status == 200
    finally:
        connection.close()


def test_plain_http_is_not_answered(secured: tuple[Stage, Path]) -> None:
    stage, _ = secured
    connection = http.client.HTTPConnection("127.0.0.1", stage.stack.places["gateway"].port, timeout=10)
    try:
        with pytest.raises((http.client.HTTPException, OSError)):
            connection.request("GET", "/")
            connection.getresponse()
    finally:
        connection.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="this machine has no openssl")
def test_the_runbooks_commands_tell_when_it_ends_on_disk_and_as_it_is_served(secured: tuple[Stage, Path]) -> None:
    stage, cert_file = secured
    at_the_stack = f"127.0.0.1:{stage.stack.places['gateway'].port}"
    commands = [line for line in RUNBOOK.read_text().splitlines() if line.startswith("openssl ")]
    told = [
        subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command.replace("localhost:8443", at_the_stack)],
            env={**os.environ, "TALLY_TLS_CERT_FILE": str(cert_file)},
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        ).stdout
        for command in commands
    ]
    assert len(told) == 2 and len(set(told)) == 1 and told[0].startswith("notAfter="), told
