"""Where a task's states are announced: checked, stored with its secrets sealed, shown without them."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

import orjson
from django.conf import settings

from a2a.task_store import announce_now
from a2a.tasks import Document, Fault, Task, TaskError
from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import is_public_id, uuid7
from tools.addresses import address_problem
from tools.vault import Sealed, VaultError, open_sealed, seal

MAX_CONFIGS: Final = 10
MAX_URL: Final = 2000
MAX_SECRET: Final = 4000
PURPOSE: Final = "a2a push notification"
_REMOVE: Final = (
    "DELETE FROM a2a_pushdelivery USING a2a_pushconfig AS config WHERE a2a_pushdelivery.config_id = config.id "
    "AND config.task_id = %s AND config.config_id = %s",
    "DELETE FROM a2a_pushconfig WHERE task_id = %s AND config_id = %s",
)


def check_config(config: Document) -> None:
    """Raise TaskError, naming the field, unless states can be announced this way."""
    url = str(config.get("url", ""))
    if len(url) > MAX_URL or not url.isascii():
        raise _invalid("url", f"expected an address of at most {MAX_URL} ASCII characters")
    if not settings.DEBUG and not url.startswith("https://"):
        raise _invalid("url", "expected an https address")
    if problem := address_problem(url):
        raise _invalid("url", problem)
    if config.get("id") and not is_public_id(str(config["id"])):
        raise _invalid("id", "expected 1 to 128 visible ASCII characters")
    authentication = config.get("authentication") or {}
    for name, value, most in (
        ("token", config.get("token"), MAX_SECRET),
        ("authentication.scheme", authentication.get("scheme"), 64),
        ("authentication.credentials", authentication.get("credentials"), MAX_SECRET),
    ):
        if value and not (isinstance(value, str) and len(value) <= most and value.isascii() and value.isprintable()):
            raise _invalid(name, f"expected at most {most} visible ASCII characters")


async def put_config(database: Database, task: Task, config: Document) -> Document:
    """Store an address, or replace the one of its id. A task that has ended is announced there as it is."""
    key, config_id = uuid7(), str(config.get("id") or uuid7())
    authentication = config.get("authentication") or {}
    secrets = {"token": config.get("token", ""), "credentials": authentication.get("credentials", "")}
    sealed = _sealed(task, config_id, secrets) if any(secrets.values()) else None
    async with database.connection() as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM a2a_pushconfig WHERE task_id = %s AND config_id <> %s", (task.id, config_id)
        )
        count = await cursor.fetchone()
        if count is not None and count[0] >= MAX_CONFIGS:
            raise TaskError(Fault.INVALID_PARAMS, f"A task is announced at {MAX_CONFIGS} addresses at most.")
        await connection.execute(
            "INSERT INTO a2a_pushconfig (id, task_id, config_id, url, scheme, kid, sealed) VALUES (%s, %s, %s, %s, %s, %s, %s) "
            "ON CONFLICT (task_id, config_id) DO UPDATE SET url = EXCLUDED.url, scheme = EXCLUDED.scheme, kid = EXCLUDED.kid, "
            "sealed = EXCLUDED.sealed",
            (
                key, task.id, config_id, config["url"], authentication.get("scheme", ""), sealed.kid if sealed else "",
                sealed.data if sealed else None,
            ),
        )  # fmt: skip
    if task.state.is_terminal:
        await announce_now(database, task, await _key(database, task, config_id))
    return await get_config(database, task, config_id)


async def get_config(database: Database, task: Task, config_id: str) -> Document:
    """One of the task's addresses, without its secrets; raises TaskError."""
    found = [config for config in await all_configs(database, task) if config["id"] == config_id]
    if not found:
        raise TaskError(Fault.TASK_NOT_FOUND, "The task has no such push notification configuration.")
    return found[0]


async def all_configs(database: Database, task: Task) -> list[Document]:
    """The task's addresses, without their secrets, in the order of their making."""
    rows = await database.fetch_all(
        "SELECT config_id, url, scheme FROM a2a_pushconfig WHERE task_id = %s ORDER BY id", (task.id,)
    )
    return [_document(task, *row) for row in rows]


async def remove_config(database: Database, task: Task, config_id: str) -> None:
    """Forget an address, and what was still to be announced there."""
    async with database.connection() as connection:
        for statement in _REMOVE:
            await connection.execute(statement, (task.id, config_id))


def opened(task_id: UUID, config_id: str, kid: str, data: bytes | None) -> dict[str, str]:
    """The secrets of an address, for whoever announces there; raises VaultError."""
    if not data:
        return {"token": "", "credentials": ""}
    found: dict[str, str] = orjson.loads(
        open_sealed(Sealed(kid, bytes(data)), purpose=PURPOSE, name=_name(task_id, config_id))
    )
    return found


def _sealed(task: Task, config_id: str, secrets: dict[str, Any]) -> Sealed:
    try:
        return seal(orjson.dumps(secrets).decode(), purpose=PURPOSE, name=_name(task.id, config_id))
    except VaultError as error:
        raise TaskError(Fault.INTERNAL, "The service cannot keep secrets: its operator must set VAULT_KEYS.") from error


async def _key(database: Database, task: Task, config_id: str) -> UUID:
    row = await database.fetch_one(
        "SELECT id FROM a2a_pushconfig WHERE task_id = %s AND config_id = %s", (task.id, config_id)
    )
    if row is None:
        raise TaskError(Fault.TASK_NOT_FOUND, "The push notification configuration was removed in the same moment.")
    key: UUID = row[0]
    return key


def _name(task_id: UUID, config_id: str) -> str:
    return f"{task_id}/{config_id}"


def _document(task: Task, config_id: str, url: str, scheme: str) -> Document:
    config: Document = {"id": config_id, "taskId": task.public_id, "url": url}
    if scheme:
        config["authentication"] = {"scheme": scheme}
    return config


def _invalid(field: str, what: str) -> TaskError:
    return TaskError(Fault.INVALID_PARAMS, f"pushNotificationConfig.{field}: {what.rstrip('.')}.")
