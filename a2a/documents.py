"""Remote agents as documents: how they are read, checked and written, whoever changes them."""

from __future__ import annotations

import re
from typing import Any

from django.core.exceptions import ValidationError

import audit
from a2a.models import RemoteAgent, RemoteAgentHealth
from a2a.states import settle
from a2a.tls import problem_of_authorities
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.addresses import address_problem
from tools.calls import SideEffects
from tools.configuration.kinds import KindConfiguration, configure_kind
from tools.credentials import name_problem
from tools.documents import Spec, differences
from tools.documents.fields import completed
from tools.models.names import SERVER_NAME_PATTERN

_DIGEST = re.compile(r"[0-9a-f]{64}")


class RemoteAgentKind:
    """An agent of others that tasks can be handed to."""

    name = "RemoteAgent"
    group = "servers"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "title": (str, ""),
        "card_url": (str, ...),
        "key_set_url": (str, ""),
        "require_signature": (bool, False),
        "accepted_digest": (str, ""),
        "required_role": (str, ""),
        "credential": (str, ""),
        "credential_placement": (str, RemoteAgent.Placement.BEARER.value),
        "credential_header": (str, ""),
        "client_certificate": (str, ""),
        "client_key": (str, ""),
        "trusted_ca": (str, ""),
        "timeout_seconds": (float, 120.0),
        "side_effects": (str, SideEffects.UNSAFE.value),
        "enabled": (bool, False),
        "owner": (str, ""),
    }

    def names(self) -> list[str]:
        """All agents."""
        return list(RemoteAgent.objects.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """Its fields."""
        found: Spec | None = RemoteAgent.objects.filter(name=name).values(*self.fields).first()
        return found

    def complete(self, spec: Spec) -> Spec:
        """Only the card's address must be given."""
        found = completed(spec, self.fields)
        return {**found, "trusted_ca": found["trusted_ca"].replace("\r\n", "\n").strip()}

    def check(self, name: str, spec: Spec) -> None:
        """Addresses that may be reached, names of credentials that may be used, certificates that are some."""
        problems: dict[str, list[str]] = {}
        try:
            RemoteAgent(name=name, **spec).full_clean(validate_unique=False, validate_constraints=False)
        except ValidationError as error:
            problems = error.message_dict
        for field in ("card_url", "key_set_url"):
            if spec[field] and (problem := address_problem(spec[field])):
                problems.setdefault(field, []).append(problem)
        for field in ("credential", "client_certificate", "client_key"):
            if spec[field] and (problem := name_problem(spec[field])):
                problems.setdefault(field, []).append(problem)
        if spec["credential_placement"] == RemoteAgent.Placement.HEADER and spec["credential"]:
            if not spec["credential_header"]:
                problems.setdefault("credential_header", []).append("Say which header carries the credential.")
            elif not _may_carry(spec["credential_header"]):
                problems.setdefault("credential_header", []).append("This header cannot carry a credential.")
        if spec["client_key"] and not spec["client_certificate"]:
            problems.setdefault("client_certificate", []).append("A key without its certificate proves nothing.")
        if spec["trusted_ca"] and (problem := problem_of_authorities(spec["trusted_ca"])):
            problems.setdefault("trusted_ca", []).append(problem)
        if spec["accepted_digest"] and not _DIGEST.fullmatch(spec["accepted_digest"]):
            problems.setdefault("accepted_digest", []).append(
                "The SHA-256 of a card: 64 hexadecimal digits, or nothing."
            )
        if problems:
            raise ValidationError(problems)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the agent. A digest accepts the card of that digest: the one at hand, or else when it is seen."""
        before = self.read(name)
        agent, _ = RemoteAgent.objects.update_or_create(name=name, defaults=spec)
        settle(agent, RemoteAgentHealth.objects.filter(agent=agent).first())
        details = {"name": name, "note": note, "changes": differences(before, spec)}
        _record(agent, details, by)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """An agent that is switched off can go."""
        agent = RemoteAgent.objects.select_for_update().get(name=name)
        if agent.enabled:
            raise ValidationError("It is switched on: switch it off first.")
        _record(agent, {"name": name, "note": note, "changes": differences(self.read(name), None)}, by)
        agent.delete()


_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_FOR_CREDENTIALS = frozenset(
    {"host", "connection", "content-length", "content-type", "transfer-encoding", "accept", "accept-encoding", "traceparent",
     "tracestate", "baggage"}
)  # fmt: skip


def _may_carry(header: str) -> bool:
    name = header.lower()
    return bool(_HEADER_NAME.fullmatch(name)) and name not in _NOT_FOR_CREDENTIALS and not name.startswith("a2a-")


def _record(agent: RemoteAgent, details: dict[str, Any], by: Actor) -> None:
    target = Target(agent._meta.label_lower, str(agent.pk))
    audit.record(actions.REMOTE_AGENT_CHANGED, actor=by, target=target, details=details)


configure_kind(
    "RemoteAgent",
    KindConfiguration(
        folder="remote-agents",
        name_pattern=SERVER_NAME_PATTERN,
        about="An agent of others that speaks A2A and that tasks can be handed to.",
        models=(RemoteAgent,),
        meanings={
            "title": "For people and models: what the agent is called. Empty: as its card says.",
            "credential_placement": "Where the credential goes: `Authorization: Bearer`, or a header of its own.",
        },
    ),
)
