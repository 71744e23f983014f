"""compose.yaml and what it needs: valid, complete, true to the settings, and without a secret."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import jsonschema
import psycopg
import pytest
import yaml

from indexer.embedded import pgdata
from indexer.environment import file_variable, is_secret
from indexer.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "compose.yaml"
ONE_SHOT = {"migrate", "twinspan"}  # they end by themselves


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return compose["services"]


def known_variables() -> set[str]:
    fields = Settings.model_fields.items()
    files = {file_variable(name) for name, field in fields if is_secret(field)}
    return {f"TWINSPAN_{name.upper()}" for name, _ in fields} | files


def test_it_is_what_the_compose_specification_says(compose: dict[str, Any]) -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    schema = json.loads(vendored.read_text())
    jsonschema.validators.validator_for(schema)(schema).validate(compose)
    broken = {**compose, "services": {"worker": {"image": "x", "health_check": {}}}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validators.validator_for(schema)(schema).validate(broken)


def test_every_service_is_checked_limited_pinned_and_restarted(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        assert name in ONE_SHOT or service["healthcheck"]["test"], name
        assert "restart" in service, name
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: a pinned version"
        limits = service["deploy"]["resources"]["limits"]
        assert limits.keys() == {"cpus", "memory"}, name
        assert service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        if name != "postgres":  # whose image starts as root to own its folder
            assert service["user"].split(":")[0] != "0", name
            assert service["cap_drop"] == ["ALL"], name


def test_services_wait_for_those_they_need_to_be_healthy(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            ends = other in ONE_SHOT
            wanted = "service_completed_successfully" if ends else "service_healthy"
            assert how == {"condition": wanted}, (name, other)


def test_only_loopback_is_published_and_the_servers_reach_nobody(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    assert compose["networks"]["servers"] == {"internal": True}
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published.keys() == {"postgres", "query", "prometheus", "grafana"}
    for ports in published.values():
        assert all(port.startswith("127.0.0.1:") for port in ports)
    for name, service in services.items():
        assert ("outside" in service["networks"]) == (name in published), name


def test_secrets_are_files_each_defined_and_used(
    compose: dict[str, Any], services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for service in services.values()
        for secret in service.get("secrets", [])
    }
    assert used == compose["secrets"].keys()
    made = make_secrets(tmp_path / "secrets")
    files = {Path(one["file"]).name for one in compose["secrets"].values()}
    assert made.keys() - files == {"redis_password"}, "which is part of others"
    assert files <= made.keys()
    for service in services.values():
        for variable, value in (service.get("environment") or {}).items():
            looks_secret = re.search("PASSWORD|KEY|DATABASE_URL|BROKER_URL", variable)
            assert not looks_secret or "_FILE" in variable, variable
            assert "@" not in str(value), variable


def test_secrets_are_made_once_and_are_nobody_elses(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first = make_secrets(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert make_secrets(folder) == first
    passwords = [first[name] for name in first if name.endswith("_password")]
    assert len(set(passwords)) == len(passwords)
    assert min(map(len, passwords)) >= 48
    assert urlsplit(first["worker_database_url"]).password == first["worker_password"]
    assert yaml.safe_load(first["qdrant_config"]) == {
        "service": {"api_key": first["qdrant_api_key"]}
    }
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([ROOT / "deploy/make-secrets.sh", folder], check=True)
    return {path.name: path.read_text().rstrip("\n") for path in folder.iterdir()}


def test_every_variable_that_a_service_of_ours_gets_is_a_setting(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        ours = {
            variable
            for variable in service.get("environment") or {}
            if variable.startswith("TWINSPAN_")
        }
        assert ours <= known_variables(), name
        for variable in ours & {v for v in known_variables() if v.endswith("_FILE")}:
            target = Path(service["environment"][variable])
            secrets = [
                secret if isinstance(secret, str) else secret.get("target", secret["source"])
                for secret in service["secrets"]
            ]
            assert target.parent == Path("/run/secrets")
            assert target.name in secrets, (name, variable)


def test_every_file_that_is_mounted_is_there(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), (name, source)
    for path in (ROOT / "deploy").rglob("*.yml"):
        assert yaml.safe_load(path.read_text()), path


def test_every_setting_that_is_named_somewhere_is_one() -> None:
    known = known_variables()
    named: set[str] = set()
    for path in mentioned_in():
        named.update(re.findall(r"TWINSPAN_[A-Z0-9_]*[A-Z0-9]", path.read_text()))
    tests_own = ("TWINSPAN_TEST_", "TWINSPAN_FAULTS", "TWINSPAN_DATA")
    unknown = {one for one in named - known if not (one.startswith(tests_own) or one == "TWINSPAN")}
    assert unknown == set()
    assert {"TWINSPAN_DATABASE_URL", "TWINSPAN_QDRANT_API_KEY_FILE"} <= named


def test_every_setting_is_documented() -> None:
    described = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs/settings.md").read_text(), re.M))
    assert described == Settings.model_fields.keys()


def mentioned_in() -> Iterator[Path]:
    yield COMPOSE
    yield from ROOT.glob("*.md")
    for folder, pattern in (("docs", "*.md"), ("deploy", "*")):
        yield from (path for path in (ROOT / folder).rglob(pattern) if path.is_file())


def test_no_secret_and_no_other_file_gets_into_the_image() -> None:
    lines = (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines()
    assert lines[0] == "*", "all is left out that is not named"
    dockerfile = (ROOT / "deploy/Dockerfile").read_text()
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.M)
    for name in " ".join(copied).split():
        assert f"!{name}" in lines
        assert (ROOT / name).exists()
    assert "USER 10001:10001" in dockerfile
    assert not re.search(r"(ARG|ENV).*(PASSWORD|SECRET|KEY|TOKEN)", dockerfile)


def test_the_roles_that_the_database_starts_with_may_do_nothing(
    tmp_path: Path, own_postgres_url: str
) -> None:
    """The script that PostgreSQL's image runs, with the passwords from files."""
    made = make_secrets(tmp_path / "secrets")
    parts = urlsplit(own_postgres_url)
    environment = {
        **os.environ,
        "PATH": f"{pgdata.binaries()}:{os.environ['PATH']}",
        "PGHOST": parts.hostname or "",
        "PGPORT": str(parts.port),
        "PGPASSWORD": unquote(parts.password or ""),
        "POSTGRES_USER": parts.username or "",
        "SECRETS": str(tmp_path / "secrets"),
    }
    subprocess.run([ROOT / "deploy/postgres/roles.sh"], env=environment, check=True)
    for role, database_there in (("twinspan_worker", True), ("twinspan", True)):
        password = made["owner_password" if role == "twinspan" else "worker_password"]
        url = f"postgresql://{role}:{password}@{parts.hostname}:{parts.port}/twinspan"
        with psycopg.connect(url) as connection:
            row = connection.execute(
                "SELECT has_database_privilege(current_database(), 'CREATE'), rolsuper,"
                " rolcreaterole FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
        assert row == (role == "twinspan", False, False), database_there


@pytest.fixture
def own_postgres_url(tmp_path: Path) -> Iterator[str]:
    """A server of its own: roles belong to the whole of one."""
    from indexer.embedded import postgres

    with postgres.start(tmp_path / "postgres", fsync=False) as server:
        with psycopg.connect(server.url, autocommit=True) as admin:  # whose names we need
            admin.execute("CREATE ROLE postgres SUPERUSER LOGIN PASSWORD 'of the image'")
        parts = urlsplit(server.url)
        place = f"{parts.hostname}:{parts.port}"
        url = f"postgresql://postgres:of the image@{place}/postgres".replace(" ", "%20")
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute("ALTER ROLE twinspan RENAME TO bootstrap")
            admin.execute("ALTER DATABASE twinspan RENAME TO bootstrap")
        yield url
