"""TLS to a Redis: who is trusted, who is not, and what is said then.

The embedded server may be built without TLS, so an end of TLS stands before it, with certificates of an authority of its own.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest
import redis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agui_pipelines.drivers.redis import RedisWire
from agui_pipelines.errors import ConnectionFailedError, SpecError
from agui_pipelines.keyspace import Span, cut, write_catalogue
from agui_pipelines.records import Kind
from agui_pipelines.sources import open_source
from agui_pipelines.spec import RedisConfig, RedisKeysConfig
from agui_pipelines.stores import open_store

MEGABYTE = 1024 * 1024
CANARY = "c4n4ry-passw0rd"

Issue = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``ca.pem``, and for each of ``server``, ``elsewhere`` and ``client`` a certificate and a key."""
    folder = tmp_path_factory.mktemp("tls")
    authority, key = _certificate("authority", None, None)
    (folder / "ca.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    for name, address in {"server": "127.0.0.1", "elsewhere": "192.0.2.1", "client": "192.0.2.2"}.items():
        issued, own = _certificate(name, (authority, key), address)
        (folder / f"{name}.pem").write_bytes(issued.public_bytes(serialization.Encoding.PEM))
        (folder / f"{name}.key").write_bytes(
            own.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
    return folder


def _certificate(
    name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None, address: str | None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signer, signing_key = (issuer[0].subject, issuer[1]) if issuer else (subject, key)
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
        .add_extension(_usage(signs=issuer is None), critical=True)
    )
    if address:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(signing_key, hashes.SHA256()), key


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


@contextmanager
def tls_before(redis_url: str, folder: Path, name: str = "server", *, mutual: bool = False) -> Iterator[str]:
    """``host:port/database`` of an end of TLS before the server. `mutual`: it wants a certificate from its clients."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / f"{name}.pem", folder / f"{name}.key")
    if mutual:
        context.load_verify_locations(folder / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    parts = urlsplit(redis_url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(parts.hostname, parts.port)
        await asyncio.gather(pump(reader, downstream), pump(upstream, writer))

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # refused handshakes are what some tests are about
    server = loop.run_until_complete(asyncio.start_server(relay, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}{parts.path}"
    finally:
        asyncio.run_coroutine_threadsafe(_stopped(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _stopped(server: asyncio.Server) -> None:
    server.close()
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def wire_to(url: str, **options: object) -> closing[RedisWire]:
    config = {"type": "redis", "connection_url": url, "redis_options": options}
    return closing(RedisWire(RedisConfig.model_validate(config)))


@pytest.mark.parametrize("scheme", ["rediss", "redis"])
def test_a_source_is_read_over_tls_with_an_authority_of_its_own(redis_url: str, folder: Path, scheme: str) -> None:
    """The file counts from the folder of the migration file."""
    values = {f"k{i:04}": b'{"a":"%b"}' % (b"x" * (i % 7 * 10_000)) for i in range(1000)}
    values["large"] = b'{"a":"%b"}' % (b"x" * (20 * MEGABYTE))
    with redis.Redis.from_url(redis_url) as client:
        client.mset(values)
    options = {"tls_ca_file": "ca.pem", "enable_tls": scheme == "redis"}
    with tls_before(redis_url, folder) as place:
        config = {"type": "redis_keys", "connection_url": f"{scheme}://{place}", "redis_options": options}
        with closing(open_source(RedisKeysConfig.model_validate(config), folder)) as source:
            file = BytesIO()
            write_catalogue(source.keys(), file)
            span = Span(cut(file, 1)[0], pq.ParquetFile(file))
            rows = [row for batch in source.read(Kind.STATE, span, pytest.fail) for row in batch.to_pylist()]
    assert {row["state_id"]: row["data"] for row in rows} == values


def test_a_store_is_written_over_tls(redis_url: str, folder: Path) -> None:
    with tls_before(redis_url, folder) as place:
        options = {"tls_ca_file": "ca.pem"}
        config = {"type": "redis", "connection_url": f"rediss://{place}", "redis_options": options}
        with closing(open_store(RedisConfig.model_validate(config), folder)) as store:
            store.set_state("s", b'{"a":"%b"}' % (b"x" * (20 * MEGABYTE)))
            assert len(store.get_state("s") or b"") == 20 * MEGABYTE + 8


def test_a_certificate_of_an_unknown_authority_is_not_accepted(redis_url: str, folder: Path) -> None:
    with (
        tls_before(redis_url, folder) as place,
        wire_to(f"rediss://:{CANARY}@{place}") as wire,
        pytest.raises(
            ConnectionFailedError, match=r"certificate is not accepted.*redis_options\.tls_ca_file"
        ) as caught,
    ):
        wire.call("PING")
    assert not caught.value.transient
    assert CANARY not in str(caught.value)


def test_a_certificate_for_another_host_is_not_accepted_unless_any_is(redis_url: str, folder: Path) -> None:
    with tls_before(redis_url, folder, "elsewhere") as place:
        with (
            wire_to(f"rediss://{place}", tls_ca_file=str(folder / "ca.pem")) as wire,
            pytest.raises(ConnectionFailedError, match="certificate is not accepted"),
        ):
            wire.call("PING")
        with wire_to(f"rediss://{place}", tls_insecure=True) as wire:
            assert wire.call("PING") == b"PONG"


def test_a_server_that_wants_a_certificate_gets_the_one_that_is_named(redis_url: str, folder: Path) -> None:
    ours = {"tls_cert_file": str(folder / "client.pem"), "tls_key_file": str(folder / "client.key")}
    trusted = {"tls_ca_file": str(folder / "ca.pem")}
    with tls_before(redis_url, folder, mutual=True) as place:
        with wire_to(f"rediss://{place}", **trusted, **ours) as wire:
            assert wire.call("PING") == b"PONG"
        with (
            wire_to(f"rediss://{place}", **trusted) as wire,
            pytest.raises(ConnectionFailedError, match=r"redis_options\.tls_cert_file") as caught,
        ):
            wire.call("PING")
    assert not caught.value.transient


def test_user_and_password_of_the_options_win_over_those_of_the_url(redis_url: str, folder: Path) -> None:
    with redis.Redis.from_url(redis_url) as client, tls_before(redis_url, folder) as place:
        client.execute_command(
            "ACL", "SETUSER", "reader", "on", f">{CANARY}", "~*", "+@read", "+@connection", "+acl|whoami"
        )
        try:
            options = {"tls_ca_file": str(folder / "ca.pem"), "username": "reader", "password": CANARY}
            with wire_to(f"rediss://somebody:else@{place}", **options) as wire:
                assert wire.call("ACL", "WHOAMI") == b"reader"
                assert wire.url == f"rediss://reader@{place}"
        finally:
            client.execute_command("ACL", "DELUSER", "reader")


@pytest.mark.parametrize("at_once", [False, True], ids=["while_we_speak", "before_we_speak"])
def test_an_alert_that_ends_the_session_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    """OpenSSL says why it refuses a client before it hangs up, which may be before we have sent our first command."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    def refuse() -> None:
        client, _ = listener.accept()
        with client, pytest.raises(ssl.SSLError):
            context.wrap_socket(client, server_side=True)
        hung_up.set()

    def log_in(wire: RedisWire) -> None:
        logged_in(wire)
        assert not at_once or hung_up.wait(10)

    hung_up = threading.Event()
    logged_in = RedisWire._log_in
    monkeypatch.setattr(RedisWire, "_log_in", log_in)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse)
        thread.start()
        url = f"rediss://127.0.0.1:{listener.getsockname()[1]}/0"
        with (
            wire_to(url, tls_ca_file=str(folder / "ca.pem")) as wire,
            pytest.raises(ConnectionFailedError, match=r"redis_options\.tls_cert_file") as caught,
        ):
            wire.call("PING")
        thread.join(10)
    assert not caught.value.transient


@pytest.mark.parametrize("option", ["tls_ca_file", "tls_cert_file", "tls_key_file"])
def test_a_file_that_is_missing_is_named(folder: Path, option: str) -> None:
    files = {"tls_cert_file": str(folder / "client.pem"), option: str(folder / "missing.pem")}
    with wire_to("rediss://127.0.0.1:1/0", **files) as wire, pytest.raises(SpecError, match=r"missing\.pem") as caught:
        wire.call("PING")
    assert option in str(caught.value)


def test_a_file_that_holds_no_certificate_is_told(folder: Path) -> None:
    (folder / "empty.pem").write_text("nothing")
    with (
        wire_to("rediss://127.0.0.1:1/0", tls_ca_file=str(folder / "empty.pem")) as wire,
        pytest.raises(SpecError, match="no certificate"),
    ):
        wire.call("PING")


@pytest.mark.parametrize("options", [{"tls_ca_file": "ca.pem"}, {"tls_insecure": True}, {"tls_key_file": "k"}])
def test_options_of_tls_without_tls_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(SpecError, match="without TLS"):
        wire_to("redis://127.0.0.1:6379/0", **options)


def test_a_key_without_certificate_is_refused() -> None:
    with pytest.raises(SpecError, match="tls_cert_file"):
        wire_to("rediss://127.0.0.1:6379/0", tls_key_file="k")
