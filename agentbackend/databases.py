"""Which database the service uses, under which roles, and how connections to it are made.

Two roles: the owner migrates, the runtime role reads and writes rows. The embedded database has a login for each. A database of the
operator's is reached by `SUPABASE_DATABASE_URL`; migrations use `DATABASE_OWNER_URL` when it is given, else the same login, which
then takes on the runtime role for everything but migrations. Where that role cannot be had, one role does both, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from agentbackend.embedded_postgres.location import DATABASE, OWNER, RUNTIME, default_location

SCHEMA = "agentbackend"
RUNTIME_ROLE = RUNTIME
PREPARE_AFTER_EXECUTIONS = 5
TRANSACTION_POOLER_PORT = "6543"
_POOLER_SUFFIX = ".pooler.supabase.com"
_SUPABASE_SUFFIXES = (_POOLER_SUFFIX, ".supabase.co")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_SEARCH_PATH = f"SET search_path TO {SCHEMA}"
# From PostgreSQL 16 on a member may lack the right to take on the role (whoever makes a role is such a member).
MAY_ASSUME = "CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END"
# Never fails: without the role, or without the right to it, the session keeps the login's own role.
_ASSUME_RUNTIME_ROLE = (
    f"SELECT set_config('role', '{RUNTIME_ROLE}', false) FROM pg_roles "  # noqa: S608 - constants
    f"WHERE rolname = '{RUNTIME_ROLE}' AND pg_has_role(session_user, oid, {MAY_ASSUME})"
)


@dataclass(frozen=True, slots=True)
class DatabasePlan:
    """How to reach the database: libpq connection strings, and SQL for each new connection of the runtime's."""

    embedded: bool
    runtime_conninfo: str
    owner_conninfo: str
    session_statements: tuple[str, ...]
    prepare_threshold: int | None
    warnings: tuple[str, ...] = ()

    @property
    def runtime_login(self) -> str:
        """The name of the runtime's login inside the database; empty when libpq chooses it."""
        fields = conninfo_to_dict(self.runtime_conninfo)
        user = str(fields.get("user") or "")
        return user.partition(".")[0] if _is_pooler(fields) else user  # the pooler wants `name.project`


def plan_databases(*, url: str, owner_url: str, data_dir: str) -> DatabasePlan:
    """Decide from the settings; raises ImproperlyConfigured naming the setting, never with a password."""
    if not url:
        if owner_url:
            raise ImproperlyConfigured("DATABASE_OWNER_URL: is of no use without SUPABASE_DATABASE_URL.")
        return _embedded_plan(data_dir)
    runtime, warnings = _conninfo("SUPABASE_DATABASE_URL", url)
    owner, owner_warnings = _conninfo("DATABASE_OWNER_URL", owner_url) if owner_url else (runtime, [])
    pooled = _is_pooler(conninfo_to_dict(runtime))
    return DatabasePlan(
        embedded=False,
        runtime_conninfo=runtime,
        owner_conninfo=owner,
        session_statements=(_SEARCH_PATH, _ASSUME_RUNTIME_ROLE),
        prepare_threshold=None if pooled else PREPARE_AFTER_EXECUTIONS,
        warnings=tuple(dict.fromkeys([*warnings, *owner_warnings])),
    )


def django_databases(plan: DatabasePlan) -> dict[str, dict[str, Any]]:
    """Django's DATABASES: `default` is the runtime's, `owner` is for migrations."""
    return {"default": _django_entry(plan.runtime_conninfo, plan), "owner": _django_entry(plan.owner_conninfo, plan)}


def _embedded_plan(data_dir: str) -> DatabasePlan:
    location = default_location(data_dir)
    socket = str(location.socket_directory)
    return DatabasePlan(
        embedded=True,
        runtime_conninfo=make_conninfo(host=socket, dbname=DATABASE, user=RUNTIME),
        owner_conninfo=make_conninfo(host=socket, dbname=DATABASE, user=OWNER),
        session_statements=(_SEARCH_PATH,),
        prepare_threshold=PREPARE_AFTER_EXECUTIONS,
        warnings=tuple(
            f"AGENTBACKEND_DATA_DIR: {folder} is left aside: no PostgreSQL of its version is installed. A database of version "
            f"{location.binaries.major} is used instead."
            for folder in location.left_aside
        ),
    )


def _conninfo(setting: str, url: str) -> tuple[str, list[str]]:
    """A checked connection string, and what an operator should know about it."""
    if not url.startswith(("postgres://", "postgresql://")):
        raise ImproperlyConfigured(f"{setting}: must begin with postgresql://.")
    try:
        fields = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    except ProgrammingError:  # its text quotes the URL, and the password with it
        raise ImproperlyConfigured(
            f"{setting}: is no connection URL (postgresql://user:password@host:5432/name). Characters like @ / # % in a password "
            "are written as %40 %2F %23 %25."
        ) from None
    for name, meaning in (("host", "host"), ("dbname", "database")):
        if not fields.get(name):
            raise ImproperlyConfigured(f"{setting}: names no {meaning}.")
    for port in fields.get("port", "5432").split(","):
        if port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ImproperlyConfigured(f"{setting}: {port!r} is no port.")
    _refuse_transaction_pooler(setting, fields)
    return _with_tls(setting, url, fields)


def _refuse_transaction_pooler(setting: str, fields: dict[str, str]) -> None:
    if fields.get("port") == TRANSACTION_POOLER_PORT and fields["host"].endswith(_SUPABASE_SUFFIXES):
        raise ImproperlyConfigured(
            f"{setting}: port {TRANSACTION_POOLER_PORT} is Supabase's transaction pooler, which keeps no session (search path, role, "
            "LISTEN, advisory locks). Use port 5432: the session pooler, or the direct connection."
        )


def _with_tls(setting: str, url: str, fields: dict[str, str]) -> tuple[str, list[str]]:
    certificate = fields.get("sslrootcert", "")
    if certificate and certificate != "system" and not Path(certificate).is_file():
        raise ImproperlyConfigured(f"{setting}: there is no certificate file {certificate!r} (sslrootcert).")
    if all(host in _LOOPBACK or host.startswith("/") for host in fields["host"].split(",")):
        return make_conninfo(url), []
    # With sslrootcert=system libpq takes no weaker mode than verify-full.
    mode = fields.get("sslmode", "verify-full" if certificate == "system" else "require")
    if mode in ("verify-full", "verify-ca"):
        return make_conninfo(url, sslmode=mode), []
    return make_conninfo(url, sslmode=mode), [
        f"{setting}: sslmode={mode} does not check whom the service talks to; use sslmode=verify-full with sslrootcert."
    ]


def _is_pooler(fields: dict[str, Any]) -> bool:
    return str(fields.get("host") or "").endswith(_POOLER_SUFFIX)


def _django_entry(conninfo: str, plan: DatabasePlan) -> dict[str, Any]:
    fields = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": fields.pop("host", ""),
        "PORT": fields.pop("port", ""),
        "NAME": fields.pop("dbname", ""),
        "USER": fields.pop("user", ""),
        "PASSWORD": fields.pop("password", ""),
        # The console opens a connection a request: pools and long-lived connections would pin one to each of Django's threads.
        "CONN_MAX_AGE": 0,
        "OPTIONS": {**fields, "prepare_threshold": plan.prepare_threshold},
        "TEST": {"MIGRATE": False},
    }
