"""From the operator's settings to connections: poolers, TLS, two logins; and nothing that repeats a password."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from django.core.exceptions import ImproperlyConfigured
from psycopg.conninfo import conninfo_to_dict

from agentbackend.databases import DatabasePlan, django_databases, plan_databases
from agentbackend.embedded_postgres.cluster import Cluster
from agentbackend.embedded_postgres.location import OWNER, RUNTIME

PASSWORD = "s3cret-pass"
DIRECT = f"postgresql://postgres:{PASSWORD}@db.abcdef.supabase.co:5432/postgres"
SESSION_POOLER = f"postgresql://postgres.abcdef:{PASSWORD}@aws-0-eu-west-1.pooler.supabase.com:5432/postgres"
TRANSACTION_POOLER = SESSION_POOLER.replace(":5432", ":6543")


def plan(url: str, owner_url: str = "") -> DatabasePlan:
    return plan_databases(url=url, owner_url=owner_url, data_dir="")


def test_with_a_database_of_the_operators_nothing_is_embedded() -> None:
    assert not plan(DIRECT).embedded


def test_the_session_pooler_gets_no_prepared_statements_and_the_direct_connection_does() -> None:
    assert plan(SESSION_POOLER).prepare_threshold is None
    assert plan(DIRECT).prepare_threshold is not None
    for entry in django_databases(plan(SESSION_POOLER)).values():
        assert entry["OPTIONS"]["prepare_threshold"] is None


@pytest.mark.parametrize("url", [TRANSACTION_POOLER, DIRECT.replace(":5432", ":6543")])
def test_the_transaction_pooler_is_refused_with_the_port_to_use(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"SUPABASE_DATABASE_URL.*transaction pooler.*5432"):
        plan(url)


def test_the_transaction_pooler_is_refused_for_the_owner_too() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"DATABASE_OWNER_URL.*transaction pooler"):
        plan(DIRECT, owner_url=TRANSACTION_POOLER)


def test_a_remote_database_is_spoken_to_under_tls_and_a_warning_says_what_is_missing() -> None:
    made = plan(DIRECT)
    assert conninfo_to_dict(made.runtime_conninfo)["sslmode"] == "require"
    assert [text.partition(":")[0] for text in made.warnings] == ["SUPABASE_DATABASE_URL"]
    assert "verify-full" in made.warnings[0]


@pytest.mark.parametrize("mode", ["disable", "prefer"])
def test_a_weaker_mode_that_the_operator_asks_for_is_kept_with_a_warning(mode: str) -> None:
    made = plan(f"{DIRECT}?sslmode={mode}")
    assert conninfo_to_dict(made.runtime_conninfo)["sslmode"] == mode
    assert mode in made.warnings[0]


def test_a_verified_server_gives_no_warning(tmp_path: Path) -> None:
    certificate = tmp_path / "root.crt"
    certificate.touch()
    made = plan(f"{DIRECT}?sslmode=verify-full&sslrootcert={certificate}")
    assert made.warnings == ()
    assert conninfo_to_dict(made.runtime_conninfo)["sslrootcert"] == str(certificate)
    assert django_databases(made)["default"]["OPTIONS"]["sslmode"] == "verify-full"


def test_a_certificate_that_is_not_there_stops_start_up(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"SUPABASE_DATABASE_URL.*sslrootcert"):
        plan(f"{DIRECT}?sslmode=verify-full&sslrootcert={tmp_path}/none.crt")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_database_on_this_machine_needs_no_tls(host: str) -> None:
    made = plan(f"postgresql://postgres:{PASSWORD}@{host}:5432/postgres")
    assert made.warnings == ()
    assert "sslmode" not in conninfo_to_dict(made.runtime_conninfo)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_both_spellings_of_the_scheme_are_taken(scheme: str) -> None:
    made = plan(f"{scheme}://someone:{PASSWORD}@localhost/service")
    assert conninfo_to_dict(made.runtime_conninfo) == {
        "user": "someone", "password": PASSWORD, "host": "localhost", "dbname": "service",
    }  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://someone:{PASSWORD}@localhost/service",
        f"someone:{PASSWORD}@localhost/service",
        f"postgresql://someone:{PASSWORD}@localhost:notaport/service",
        f"postgresql://someone:{PASSWORD}@localhost:99999/service",
        f"postgresql://someone:{PASSWORD}@/service",
        f"postgresql://someone:{PASSWORD}@localhost",
        f"postgresql://someone:{PASSWORD}%zz@localhost/service",
        f"postgresql://someone:{PASSWORD}@localhost/service?no_such_option=1",
        f"postgresql://someone:{PASSWORD}@[::1/service",
        f"host=localhost password={PASSWORD}",
    ],
)
@pytest.mark.parametrize("setting", ["SUPABASE_DATABASE_URL", "DATABASE_OWNER_URL"])
def test_a_malformed_url_stops_start_up_naming_the_setting_and_never_the_password(setting: str, url: str) -> None:
    with pytest.raises(ImproperlyConfigured) as refusal:
        plan(**({"url": url} if setting == "SUPABASE_DATABASE_URL" else {"url": DIRECT, "owner_url": url}))
    assert str(refusal.value).startswith(f"{setting}:")
    assert PASSWORD not in str(refusal.value)
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None  # a traceback would show the cause


def test_warnings_never_tell_the_password() -> None:
    assert not any(PASSWORD in text for text in plan(DIRECT, owner_url=SESSION_POOLER).warnings)


def test_migrations_use_the_owners_url_where_there_is_one() -> None:
    databases = django_databases(plan(DIRECT, owner_url=DIRECT.replace("//postgres:", "//keeper:")))
    assert (databases["owner"]["USER"], databases["default"]["USER"]) == ("keeper", "postgres")


def test_without_an_owners_url_migrations_use_the_services_login() -> None:
    databases = django_databases(plan(DIRECT))
    assert databases["owner"]["USER"] == databases["default"]["USER"] == "postgres"


def test_an_owners_url_alone_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="DATABASE_OWNER_URL"):
        plan("", owner_url=DIRECT)


def current_role(made: DatabasePlan) -> tuple[str, str]:
    """The role and the schema of a session of the runtime's."""
    with psycopg.connect(made.runtime_conninfo, autocommit=True) as connection:
        for statement in made.session_statements:
            connection.execute(statement.encode())
        row = connection.execute("SELECT current_user, current_setting('search_path')").fetchone()
    assert row is not None
    return row[0], row[1]


def test_a_single_login_that_may_takes_on_the_runtime_role(cluster: Cluster) -> None:
    made = plan(f"postgresql://postgres@/agentbackend?host={cluster.location.socket_directory}")
    assert current_role(made) == (RUNTIME, "agentbackend")


def test_a_single_login_that_may_not_keeps_its_own_role(cluster: Cluster) -> None:
    made = plan(f"postgresql://{OWNER}@/agentbackend?host={cluster.location.socket_directory}")
    assert current_role(made) == (OWNER, "agentbackend")
