"""TLS and secrets from files: what the settings can express is what connections do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from qdrant_rest import QdrantRest

from indexer import database, settings
from indexer.errors import DatabaseUnavailable, SettingsError, StoreUnavailable, UsageError
from indexer.settings import Settings
from indexer.stores.connect import connect
from workers import watch
from workers.app import make_app

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Signed by itself, for 127.0.0.1."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    made += ["-subj", "/CN=twinspan test", "-addext", "subjectAltName=IP:127.0.0.1"]
    made += ["-out", str(certificate), "-keyout", str(key)]
    subprocess.run(made, check=True, capture_output=True)
    key.chmod(0o600)
    return certificate, key


def test_qdrant_over_tls_is_trusted_by_the_authority_that_is_named(
    certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    with QdrantRest(certificate=certificate) as server:
        told = Settings.model_validate({"qdrant_url": server.url, "ca_file": certificate[0]})
        with contextlib.closing(connect(told)) as store:
            assert store.collections() == []
        untold = Settings.model_validate({"qdrant_url": server.url})
        with (
            contextlib.closing(connect(untold)) as store,
            pytest.raises(StoreUnavailable, match=r"(?i)certificate"),
        ):
            store.collections()
    nowhere = told.model_copy(update={"ca_file": tmp_path / "none.pem"})
    with pytest.raises(UsageError, match=r"ca_file .*none\.pem"):
        connect(nowhere)


class TlsProxy:
    """Speaks TLS as PostgreSQL's protocol begins it, and passes all of it on in the clear: neither
    the embedded server nor every installed one is built with TLS."""

    def __init__(self, behind: tuple[str, int], certificate: tuple[Path, Path]) -> None:
        self._behind = behind
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(*certificate)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.encrypted = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            assert client.recv(8, socket.MSG_WAITALL) == SSL_REQUEST
            client.sendall(b"S")
            with (
                self._context.wrap_socket(client, server_side=True) as secure,
                socket.create_connection(self._behind) as server,
            ):
                self.encrypted += 1
                back = threading.Thread(target=_pump, args=(server, secure), daemon=True)
                back.start()
                _pump(secure, server)
                server.shutdown(socket.SHUT_RDWR)
                back.join(5)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)


def test_postgresql_over_tls_is_checked_as_its_address_says(
    postgres_url: str, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    parts = urlsplit(postgres_url)
    proxy = TlsProxy((parts.hostname or "", parts.port or 0), certificate)
    place = f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{proxy.port}"
    other = tmp_path / "other.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other"]
    made += ["-out", str(other), "-keyout", str(tmp_path / "other.key")]
    subprocess.run(made, check=True, capture_output=True)

    def ask(authority: Path) -> object:
        query = f"sslmode=verify-full&sslrootcert={authority}&gssencmode=disable"
        engine = watch.engine(parts._replace(netloc=place, query=query).geturl())
        try:
            with database.begin(engine) as connection:
                return connection.scalar(sa.text("SELECT 1"))
        finally:
            engine.dispose()

    try:
        assert ask(certificate[0]) == 1
        assert proxy.encrypted == 1
        with pytest.raises(DatabaseUnavailable, match="certificate verify failed"):
            ask(other)
    finally:
        proxy.close()


@pytest.mark.parametrize(
    ("url", "ca", "wanted"),
    [
        ("redis://h/0", True, None),
        ("rediss://h/0", False, {"ssl_cert_reqs": ssl.CERT_REQUIRED}),
        (
            "rediss://h/0",
            True,
            {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": "/ca.pem"},
        ),
        ("rediss://h/0?ssl_cert_reqs=none", True, None),
        ("amqp://h//", True, None),
        ("amqps://h//", True, {"cert_reqs": ssl.CERT_REQUIRED, "ca_certs": "/ca.pem"}),
    ],
)
def test_brokers_over_tls_are_checked_unless_the_address_says_otherwise(
    url: str, ca: bool, wanted: object
) -> None:
    given = {"broker_url": url, "database_url": "postgresql://h/d", "qdrant_url": "http://h:1"}
    known = Settings.model_validate(given | ({"ca_file": "/ca.pem"} if ca else {}))
    assert known.broker_tls == wanted
    app = make_app(known)
    assert app.conf.broker_use_ssl == wanted
    connection = app.connection_for_write()
    assert bool(connection.ssl) == (url.partition("://")[0] in {"rediss", "amqps"})


def test_a_secret_is_read_from_the_file_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "url"
    secret.write_text("postgresql://u:canary@h/d\n")
    (tmp_path / "twinspan.toml").write_text('database_url = "postgresql://toml/d"\n')
    monkeypatch.setenv("TWINSPAN_DATABASE_URL_FILE", str(secret))
    known = settings.load()
    assert known.database_url is not None
    assert known.database_url.get_secret_value() == "postgresql://u:canary@h/d"
    assert "canary" not in repr(known)
    monkeypatch.setenv("TWINSPAN_DATABASE_URL", "postgresql://env/d")
    with pytest.raises(SettingsError, match="both set"):
        settings.load()


@pytest.mark.parametrize("variable", ["TWINSPAN_DATABASE_URL_FILE", "TWINSPAN_QDRANT_URL_FILE"])
def test_a_file_that_cannot_be_read_or_is_for_no_secret_is_an_error(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, str(tmp_path / "none"))
    with pytest.raises(SettingsError, match=f"{variable}.*(cannot be read|is no setting)"):
        settings.load()
