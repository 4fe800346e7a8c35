"""Guardrail policies for tests: words that nobody else uses, and where a word stands in the database."""

from __future__ import annotations

import random
import string
from typing import Any
from uuid import uuid4

import psycopg
from psycopg import sql

from audit.actor import SYSTEM
from tools.documents import kind_named
from tools.models import GuardrailPolicy

_TEXTS = {
    "orchestration_run": ("input", "outcome", "error_message"),
    "orchestration_step": ("name", "detail"),
    "orchestration_thread": ("title", "state"),
    "orchestration_interrupt": ("message", "detail"),
    "conversation_turns": ("user_message", "agent_response", "messages"),
}
_NO_POLICIES = " AND event_id NOT IN (SELECT id FROM audit_events WHERE action = 'guardrail.changed')"
_BYTES = {"orchestration_runevents": ("events",), "audit_payload": ("body",)}


def a_word() -> str:
    """A word of its own."""
    return "zq" + "".join(random.choices(string.ascii_lowercase, k=14))


def escaped(text: str) -> str:
    """The text as JSON may write it: whoever reads the JSON sees it, whoever reads the text does not."""
    return "".join(f"\\u{ord(character):04x}" for character in text)


def make_policy(
    action: str, *stages: str, words: list[str] | None = None, everywhere: bool = False, **changes: Any
) -> str:
    """A policy on these words; returns its name."""
    name = f"test-{uuid4().hex[:12]}"
    spec = {
        "kind": "keywords",
        "stages": list(stages),
        "action": action,
        "settings": {"keywords": words or []},
        **changes,
    }
    kind = kind_named("Guardrail")
    complete = kind.complete({**spec, "everywhere": everywhere})
    kind.check(name, complete)
    kind.write(name, complete, by=SYSTEM, note="")
    return name


def remove_policies(names: list[str]) -> None:
    """Take policies out of the database, versions and all."""
    GuardrailPolicy.objects.filter(name__in=names).update(current_version=None)
    GuardrailPolicy.objects.filter(name__in=names).delete()


def places_of(connection: psycopg.Connection, word: str) -> list[str]:
    """Where a word stands in what runs and the audit trail have stored, but for the policies' own changes, which hold their words."""
    found = []
    for columns_of, cast in ((_TEXTS, "{}::text"), (_BYTES, "convert_from({}, 'UTF8')")):
        for table, columns in columns_of.items():
            for column in columns:
                value = sql.SQL(cast).format(sql.Identifier(column))
                query = sql.SQL("SELECT count(*) FROM {} WHERE position({} in lower({})) > 0").format(
                    sql.Identifier(table), sql.Literal(word), value
                )
                if table == "audit_payload":
                    query += sql.SQL(_NO_POLICIES)
                [(count,)] = connection.execute(query).fetchall()
                if count:
                    found.append(f"{table}.{column}")
    return found
