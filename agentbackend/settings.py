"""All settings of the service, read from the environment, then from `.env`, then from `.local/development.env`.

`SCHEME` is the one list of what can be set, with types and defaults; `.env.example` documents each entry. A value that cannot
be read stops start-up here and names the setting. What only makes serving unsafe is collected in `CONFIGURATION_PROBLEMS`,
which `serve` and the ASGI application refuse to start with, so that `manage.py shell` and `migrate` still work.
"""

from __future__ import annotations

import math
import warnings
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from agentbackend.console import UNFOLD as UNFOLD
from agentbackend.content_policy import STRICT_POLICY
from agentbackend.databases import DatabasePlan, django_databases, plan_databases
from agentbackend.foundation.keyring import KeyRing, KeyRingError
from agentbackend.structured_logging import configure_logging

BASE_DIR = Path(__file__).resolve().parent.parent

SCHEME: dict[str, tuple[type, Any]] = {
    # the database
    "SUPABASE_DATABASE_URL": (str, ""),
    "DATABASE_OWNER_URL": (str, ""),
    "AGENTBACKEND_DATA_DIR": (str, ""),
    "DATABASE_POOL_SIZE": (int, 10),
    "MIGRATE_ON_START": (bool, True),
    # the model
    "OPENAI_API_KEY": (str, ""),
    "OPENAI_BASE_URL": (str, ""),
    "OPENAI_MODEL": (str, "gpt-4.1-mini"),
    "SUMMARY_MODEL": (str, ""),
    "MODEL_CONNECT_TIMEOUT_SECONDS": (float, 10.0),
    "MODEL_FIRST_TOKEN_TIMEOUT_SECONDS": (float, 60.0),
    "MODEL_IDLE_TIMEOUT_SECONDS": (float, 60.0),
    # runs
    "MAX_ITERATIONS_PER_TURN": (int, 10),
    "MAX_CONCURRENT_RUNS": (int, 500),
    "MAX_RUN_BYTES": (int, 4 * 1024 * 1024),
    "MAX_RUN_SECONDS": (int, 900),
    "MAX_RUN_CRASHES": (int, 5),
    "APPROVAL_EXPIRES_SECONDS": (int, 7 * 24 * 3600),
    "RUN_LEASE_SECONDS": (float, 12.0),
    "RUN_HEARTBEAT_SECONDS": (float, 3.0),
    "WRITER_GROUP_GAP_MS": (float, 8.0),
    "STREAM_HEARTBEAT_SECONDS": (float, 15.0),
    "SHUTDOWN_GRACE_SECONDS": (float, 20.0),
    "WORKER_IN_PROCESS": (bool, True),
    "WORKER_CONCURRENCY": (int, 10),
    "EVENT_RETENTION_DAYS": (int, 0),
    # tools
    "TOOL_MODULES": (str, ""),
    "FOUR_EYES": (str, ""),
    "MCP_CONFORMANCE_FIXTURES": (str, ""),
    "MOCK_WEATHER_TOOL_API_KEY": (str, ""),
    "A2A_MAX_HOPS": (int, 5),
    "A2A_PUBLIC_URL": (str, ""),
    "A2A_TCK_AGENT": (bool, False),
    "DISALLOWED_KEYWORDS": (str, ""),
    "OUTBOUND_ALLOWED_HOSTS": (str, ""),
    "OUTBOUND_PROXY": (str, ""),
    "OUTBOUND_CA_FILE": (str, ""),
    # who may call
    "GATEWAY_SIGNING_KEYS": (str, ""),
    "GATEWAY_UNSIGNED_FROM": (str, "127.0.0.1,::1"),
    "SUPABASE_URL": (str, ""),
    "SUPABASE_JWT_SECRET": (str, ""),
    # keys and the web
    "DJANGO_SECRET_KEY": (str, ""),
    "VAULT_KEYS": (str, ""),
    "LEDGER_SIGNING_KEYS": (str, ""),
    "A2A_SIGNING_KEYS": (str, ""),
    "DJANGO_DEBUG": (bool, False),
    "DJANGO_ALLOWED_HOSTS": (str, ""),
    "PORT": (int, 8000),
    "A2A_MOCK_PORT": (int, 8001),
    "BIND_ADDRESS": (str, "127.0.0.1"),
    "TLS_CERT_FILE": (str, ""),
    "TLS_KEY_FILE": (str, ""),
    "TLS_CLIENT_CA_FILE": (str, ""),
    # around
    "REDIS_URL": (str, ""),
    "LOG_LEVEL": (str, "INFO"),
    "METRICS_TOKEN": (str, ""),
    "METRICS_ALLOWED_FROM": (str, "127.0.0.1,::1"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": (str, ""),
    "OTEL_EXPORTER_OTLP_PROTOCOL": (str, ""),
    "OTEL_SERVICE_NAME": (str, "agentbackend"),
}

_env = environ.Env()
_ENV_FILE = BASE_DIR / ".env"
_DEVELOPMENT_FILE = BASE_DIR / ".local" / "development.env"  # written by `make run`: keys for this machine only
_reads_files = not _env.bool("AGENTBACKEND_IGNORE_ENV_FILES", default=False)
if _reads_files and _ENV_FILE.is_file():
    environ.Env.read_env(str(_ENV_FILE))
_set_by_operator = {name for name in SCHEME if _env.str(name, default="").strip()}
if _reads_files and _DEVELOPMENT_FILE.is_file():
    environ.Env.read_env(str(_DEVELOPMENT_FILE))


def _read(name: str) -> Any:
    """The value of a setting; raises ImproperlyConfigured naming it when it has the wrong type."""
    kind, default = SCHEME[name]
    raw = _env.str(name, default="").strip()
    if not raw:
        return default
    if kind is bool:
        lowered = raw.lower()
        if lowered not in {"1", "0", "true", "false", "yes", "no", "on", "off"}:
            raise ImproperlyConfigured(f"{name}: expected true or false, got {raw!r}.")
        return lowered in {"1", "true", "yes", "on"}
    if kind is str:
        return raw
    try:
        value = kind(raw)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: expected a number, got {raw!r}.") from error
    if not math.isfinite(value):
        raise ImproperlyConfigured(f"{name}: expected a number, got {raw!r}.")
    if value < 0:
        raise ImproperlyConfigured(f"{name}: must not be negative, got {raw!r}.")
    return value


def _at_least(lowest: Any, name: str) -> Any:
    value = _read(name)
    if value < lowest:
        raise ImproperlyConfigured(f"{name}: must be at least {lowest}, got {value}.")
    return value


def _address(name: str, *schemes: str) -> str:
    """An address with one of these schemes and a host, or nothing."""
    value: str = _read(name)
    if not value:
        return value
    try:
        parts = urlsplit(value)
        is_usable = parts.scheme in schemes and bool(parts.hostname or (parts.scheme == "unix" and parts.path))
    except ValueError:
        is_usable = False
    if not is_usable:  # never quoted: a password may stand in it
        raise ImproperlyConfigured(
            f"{name}: expected an address that begins with {' or '.join(f'{s}://' for s in schemes)}."
        )
    return value


def _file(name: str) -> str:
    """The name of a file that is there, or nothing."""
    value: str = _read(name)
    if value and not Path(value).is_file():
        raise ImproperlyConfigured(f"{name}: there is no file {value!r}.")
    return value


def _list(name: str) -> list[str]:
    return [item.strip() for item in _read(name).split(",") if item.strip()]


def _networks(name: str) -> list[IPv4Network | IPv6Network]:
    try:
        return [ip_network(entry, strict=False) for entry in _list(name)]
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}.") from error


def _key_ring(name: str, minimum_bytes: int = 32) -> KeyRing:
    try:
        return KeyRing.parse(_read(name), minimum_bytes=minimum_bytes)
    except KeyRingError as error:
        raise ImproperlyConfigured(f"{name}: {error}") from error


DEBUG: bool = _read("DJANGO_DEBUG")

# --- the database
DATABASE_PLAN: DatabasePlan = plan_databases(
    url=_read("SUPABASE_DATABASE_URL"),
    owner_url=_read("DATABASE_OWNER_URL"),
    data_dir=_read("AGENTBACKEND_DATA_DIR"),
)
AGENTBACKEND_DATA_DIR: str = _read("AGENTBACKEND_DATA_DIR")
DATABASES = django_databases(DATABASE_PLAN)
DATABASE_POOL_SIZE: int = _at_least(2, "DATABASE_POOL_SIZE")
MIGRATE_ON_START: bool = _read("MIGRATE_ON_START")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- the model
OPENAI_API_KEY: str = _read("OPENAI_API_KEY")
OPENAI_BASE_URL: str = _address("OPENAI_BASE_URL", "http", "https")
OPENAI_MODEL: str = _read("OPENAI_MODEL")
MODEL_IS_DEMO: bool = not OPENAI_API_KEY and not OPENAI_BASE_URL
SUMMARY_MODEL: str = _read("SUMMARY_MODEL")
MODEL_CONNECT_TIMEOUT_SECONDS: float = _at_least(0.1, "MODEL_CONNECT_TIMEOUT_SECONDS")
MODEL_FIRST_TOKEN_TIMEOUT_SECONDS: float = _at_least(0.1, "MODEL_FIRST_TOKEN_TIMEOUT_SECONDS")
MODEL_IDLE_TIMEOUT_SECONDS: float = _at_least(0.1, "MODEL_IDLE_TIMEOUT_SECONDS")

# --- runs
MAX_ITERATIONS_PER_TURN: int = _at_least(1, "MAX_ITERATIONS_PER_TURN")
MAX_CONCURRENT_RUNS: int = _at_least(1, "MAX_CONCURRENT_RUNS")
MAX_RUN_BYTES: int = _at_least(1024, "MAX_RUN_BYTES")
MAX_RUN_SECONDS: int = _at_least(1, "MAX_RUN_SECONDS")
MAX_RUN_CRASHES: int = _read("MAX_RUN_CRASHES")
APPROVAL_EXPIRES_SECONDS: int = _at_least(1, "APPROVAL_EXPIRES_SECONDS")
RUN_LEASE_SECONDS: float = _at_least(1.0, "RUN_LEASE_SECONDS")
RUN_HEARTBEAT_SECONDS: float = _at_least(0.1, "RUN_HEARTBEAT_SECONDS")
WRITER_GROUP_GAP_MS: float = _read("WRITER_GROUP_GAP_MS")
STREAM_HEARTBEAT_SECONDS: float = _at_least(0.1, "STREAM_HEARTBEAT_SECONDS")
SHUTDOWN_GRACE_SECONDS: float = _read("SHUTDOWN_GRACE_SECONDS")
WORKER_IN_PROCESS: bool = _read("WORKER_IN_PROCESS")
WORKER_CONCURRENCY: int = _at_least(1, "WORKER_CONCURRENCY")
EVENT_RETENTION_DAYS: int = _read("EVENT_RETENTION_DAYS")
if RUN_HEARTBEAT_SECONDS * 2 > RUN_LEASE_SECONDS:
    raise ImproperlyConfigured("RUN_HEARTBEAT_SECONDS: must be at most half of RUN_LEASE_SECONDS.")

# --- tools
TOOL_CREDENTIALS_FROM_ENVIRONMENT = _env.ENVIRON
TOOL_MODULES: list[str] = _list("TOOL_MODULES")
FOUR_EYES: list[str] = _list("FOUR_EYES")
if unknown_groups := set(FOUR_EYES) - {
    "tools", "roles", "servers", "credentials", "agents", "guardrails", "budgets", "models",
}:  # fmt: skip
    raise ImproperlyConfigured(
        "FOUR_EYES: expected tools, roles, servers, credentials, agents, guardrails, budgets or models, "
        f"got {', '.join(sorted(unknown_groups))}."
    )
MCP_CONFORMANCE_FIXTURES: str = _read("MCP_CONFORMANCE_FIXTURES")
if MCP_CONFORMANCE_FIXTURES and not DEBUG:
    raise ImproperlyConfigured("MCP_CONFORMANCE_FIXTURES: is for tests only, and refused when DJANGO_DEBUG is off.")
A2A_MAX_HOPS: int = _at_least(1, "A2A_MAX_HOPS")
A2A_PUBLIC_URL: str = _address("A2A_PUBLIC_URL", "http", "https").rstrip("/")
A2A_TCK_AGENT: bool = _read("A2A_TCK_AGENT")
if A2A_TCK_AGENT and not DEBUG:
    raise ImproperlyConfigured("A2A_TCK_AGENT: is for tests only, and refused when DJANGO_DEBUG is off.")
DISALLOWED_KEYWORDS: list[str] = _list("DISALLOWED_KEYWORDS")
OUTBOUND_ALLOWED_HOSTS: list[str] = _list("OUTBOUND_ALLOWED_HOSTS")
if DEBUG:  # the sample agent that `make run` starts
    OUTBOUND_ALLOWED_HOSTS.append(f"127.0.0.1:{_read('A2A_MOCK_PORT')}")
OUTBOUND_PROXY: str = _read("OUTBOUND_PROXY")
OUTBOUND_CA_FILE: str = _file("OUTBOUND_CA_FILE")

# --- who may call
GATEWAY_SIGNING_KEYS = _key_ring("GATEWAY_SIGNING_KEYS")
GATEWAY_UNSIGNED_FROM: list[str] = _list("GATEWAY_UNSIGNED_FROM")
SUPABASE_URL: str = _read("SUPABASE_URL").rstrip("/")
SUPABASE_JWT_SECRET: str = _read("SUPABASE_JWT_SECRET")

# --- keys
SECRET_KEY: str = _read("DJANGO_SECRET_KEY")
VAULT_KEYS = _key_ring("VAULT_KEYS")
LEDGER_SIGNING_KEYS = _key_ring("LEDGER_SIGNING_KEYS")
A2A_SIGNING_KEYS = _key_ring("A2A_SIGNING_KEYS")

# --- the web
ALLOWED_HOSTS: list[str] = _list("DJANGO_ALLOWED_HOSTS") or (["localhost", "127.0.0.1", "[::1]"] if DEBUG else [])
PORT: int = _read("PORT")
A2A_MOCK_PORT: int = _read("A2A_MOCK_PORT")
BIND_ADDRESS: str = _read("BIND_ADDRESS")
TLS_CERT_FILE: str = _file("TLS_CERT_FILE")
TLS_KEY_FILE: str = _file("TLS_KEY_FILE")
TLS_CLIENT_CA_FILE: str = _file("TLS_CLIENT_CA_FILE")
if bool(TLS_CERT_FILE) != bool(TLS_KEY_FILE):
    raise ImproperlyConfigured("TLS_CERT_FILE and TLS_KEY_FILE: either both are set or neither.")
if TLS_CLIENT_CA_FILE and not TLS_CERT_FILE:
    raise ImproperlyConfigured("TLS_CLIENT_CA_FILE: needs TLS_CERT_FILE and TLS_KEY_FILE, too.")
ROOT_URLCONF = "agentbackend.urls"
ASGI_APPLICATION = "agentbackend.asgi.application"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True
STATIC_URL = "/static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = True  # static files are served from where they lie: no collectstatic before a start
warnings.filterwarnings("ignore", message="No directory at", module="whitenoise.base")
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = "admin:index"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_AGE = 12 * 3600
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = STRICT_POLICY
# Kinds of things in audit events, and the pages of the console that show them.
AUDIT_LINKS = {
    "run": "admin:orchestration_run_change",
    "thread": "admin:orchestration_thread_change",
    "interrupt": "admin:orchestration_interrupt_change",
    "tool": "admin:tools_tool_change",
    "orchestration.agent": "admin:orchestration_agent_change",
    "orchestration.run": "admin:orchestration_run_change",
    "tools.tool": "admin:tools_tool_change",
    "tools.callerrole": "admin:tools_callerrole_change",
    "tools.denyrule": "admin:tools_denyrule_change",
    "tools.argumentrule": "admin:tools_argumentrule_change",
    "tools.remoteserver": "admin:tools_remoteserver_change",
    "tools.storedcredential": "admin:tools_storedcredential_change",
    "a2a.remoteagent": "admin:a2a_remoteagent_change",
    "tools.guardrailpolicy": "admin:tools_guardrailpolicy_change",
    "a2a.task": "admin:a2a_task_change",
    "change": "admin:tools_changerequest_change",
    "auth.user": "admin:auth_user_change",
    "auth.group": "admin:auth_group_change",
}

# Who knows the ids by which callers know what audit events name by ours.
AUDIT_PUBLIC_IDS = {
    "run_id": "orchestration.public_ids.runs_named",
    "thread_id": "orchestration.public_ids.threads_named",
}

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_structlog",
    "procrastinate.contrib.django",
    "audit",
    "tools",
    "a2a",
    "orchestration",
    "agentbackend",
]

PROCRASTINATE_AUTODISCOVER_MODULE_NAME = None  # the jobs are defined in agentbackend.dispatch

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "agentbackend.content_policy.ContentPolicyMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "agentbackend.request_context.RequestContextMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

# --- the live path between processes
REDIS_URL: str = _address("REDIS_URL", "redis", "rediss", "unix")
CHANNEL_LAYERS: dict[str, dict[str, Any]] = (
    {
        "default": {
            "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
            "CONFIG": {"hosts": [REDIS_URL], "prefix": "agentbackend"},
        }
    }
    if REDIS_URL
    else {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
)

CACHES: dict[str, dict[str, Any]] = {
    "default": (
        {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": REDIS_URL, "KEY_PREFIX": "agentbackend"}
        if REDIS_URL
        else {"BACKEND": "django.core.cache.backends.locmem.LocMemCache", "OPTIONS": {"MAX_ENTRIES": 5000}}
    )
}

# --- around
LOG_LEVEL: str = _read("LOG_LEVEL").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ImproperlyConfigured(f"LOG_LEVEL: expected DEBUG, INFO, WARNING, ERROR or CRITICAL, got {LOG_LEVEL!r}.")
LOGGING_CONFIG = None
configure_logging(LOG_LEVEL, debug=DEBUG)
METRICS_TOKEN: str = _read("METRICS_TOKEN")
METRICS_ALLOWED_FROM = _networks("METRICS_ALLOWED_FROM")
OTEL_EXPORTER_OTLP_ENDPOINT: str = _read("OTEL_EXPORTER_OTLP_ENDPOINT")
OTEL_EXPORTER_OTLP_PROTOCOL: str = _read("OTEL_EXPORTER_OTLP_PROTOCOL")
if OTEL_EXPORTER_OTLP_PROTOCOL not in {"", "grpc", "http/protobuf"}:
    raise ImproperlyConfigured(
        f"OTEL_EXPORTER_OTLP_PROTOCOL: expected grpc or http/protobuf, got {OTEL_EXPORTER_OTLP_PROTOCOL!r}."
    )
OTEL_SERVICE_NAME: str = _read("OTEL_SERVICE_NAME")


SHORTEST_SECRET_KEY = 32


def _configuration_problems() -> list[str]:
    """What makes serving unsafe with this configuration; each line names the setting."""
    if DEBUG:
        return [] if SECRET_KEY else ["DJANGO_SECRET_KEY: is not set."]
    required = (
        "DJANGO_SECRET_KEY",
        "GATEWAY_SIGNING_KEYS",
        "VAULT_KEYS",
        "LEDGER_SIGNING_KEYS",
        "DJANGO_ALLOWED_HOSTS",
    )
    problems = [f"{name}: must be set when DJANGO_DEBUG is off." for name in required if name not in _set_by_operator]
    if SECRET_KEY and len(SECRET_KEY) < SHORTEST_SECRET_KEY:
        problems.append(f"DJANGO_SECRET_KEY: has {len(SECRET_KEY)} characters; {SHORTEST_SECRET_KEY} are the least.")
    return problems


CONFIGURATION_PROBLEMS = _configuration_problems()
