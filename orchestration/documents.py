"""Agents as documents: how they are read, checked and written, whoever changes them."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import ProtectedError

import audit
from a2a.cards import skill_problems
from a2a.delegation import TOOL_PREFIX
from a2a.models import RemoteAgent
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from orchestration.models import Agent
from tools.configuration.kinds import KindConfiguration, Specs, configure_kind
from tools.documents import Spec, differences
from tools.documents.fields import completed
from tools.models import GuardrailPolicy, Tool
from tools.schemas import InvalidSchemaError, check_schema

_NULLABLE = frozenset({"temperature", "max_output_tokens", "max_iterations", "event_retention_days", "output_schema"})


class AgentKind:
    """An agent, under its slug. There is always one default agent, and it is enabled."""

    name = "Agent"
    group = "agents"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "title": (str, ...),
        "description": (str, ""),
        "enabled": (bool, True),
        "is_default": (bool, False),
        "instructions": (str, ""),
        "model": (str, ""),
        "fallback_models": (list, []),
        "prompting": (str, Agent.Prompting.NATIVE.value),
        "planning": (bool, True),
        "temperature": (float, None),
        "max_output_tokens": (int, None),
        "max_iterations": (int, None),
        "output_schema": (dict, None),
        "history_token_budget": (int, 12000),
        "summarise_history": (bool, True),
        "event_retention_days": (int, None),
        "guardrails": (list, []),
        "tools": (list, []),
        "exposed_over_a2a": (bool, False),
        "skills": (dict, {}),
    }

    def names(self) -> list[str]:
        """All agents."""
        return list(Agent.objects.order_by("slug").values_list("slug", flat=True))

    def read(self, name: str) -> Spec | None:
        """Its fields; the tools sorted."""
        agent = Agent.objects.filter(slug=name).first()
        if agent is None:
            return None
        own = {field: getattr(agent, field) for field in self.fields if field not in ("title", "tools")}
        return _arranged({**dict.fromkeys(self.fields), "title": agent.name, **own, "tools": agent.tools})

    def complete(self, spec: Spec) -> Spec:
        """Only the title must be given. Tools sorted, each once."""
        return _arranged(completed(spec, self.fields, nullable=_NULLABLE))

    def check(self, name: str, spec: Spec) -> None:
        """As the form does: tools of the registry (or that it has already), and the rule of the default agent."""
        problems: dict[str, list[str]] = {}
        try:
            Agent(slug=name, **_columns(spec)).full_clean(validate_unique=False, validate_constraints=False)
        except ValidationError as error:
            own_names = {"slug": "name", "name": "title"}
            problems = {own_names.get(field, field): texts for field, texts in error.message_dict.items()}
        now = Agent.objects.filter(slug=name).first()
        delegations = {TOOL_PREFIX + agent for agent in RemoteAgent.objects.values_list("name", flat=True)}
        known = {*Tool.objects.values_list("name", flat=True), *delegations, *(now.tools if now else ())}
        if missing := [tool for tool in spec["tools"] if tool not in known]:
            problems.setdefault("tools", []).extend(f"There is no tool {tool!r}." for tool in missing)
        if spec["output_schema"] is not None:
            try:
                check_schema(spec["output_schema"], of_object=False)
            except InvalidSchemaError as error:
                problems.setdefault("output_schema", []).append(str(error))
        policies = {*GuardrailPolicy.objects.values_list("name", flat=True), *(now.guardrails if now else ())}
        if missing := [name for name in spec["guardrails"] if name not in policies]:
            problems.setdefault("guardrails", []).extend(f"There is no policy {name!r}." for name in missing)
        if now is not None and now.is_default and not spec["is_default"]:
            problems.setdefault("is_default", []).append("Make another agent the default one instead.")
        if spec["is_default"] and not spec["enabled"]:
            problems.setdefault("enabled", []).append("The default agent must be enabled.")
        if wrong := skill_problems(spec["skills"]):
            problems.setdefault("skills", []).extend(wrong)
        if problems:
            raise ValidationError(problems)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the agent; a new default one takes the place of the one before."""
        if spec["is_default"]:
            self._demote_others(name, by, note)
        before = self.read(name)
        agent, _ = Agent.objects.update_or_create(slug=name, defaults=_columns(spec))
        _record(agent, differences(before, spec), by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """The default agent stays, and so does one that has threads or runs."""
        agent = Agent.objects.select_for_update().get(slug=name)
        if agent.is_default:
            raise ValidationError("The default agent cannot be removed: make another one the default first.")
        _record(agent, differences(self.read(name), None), by, note)
        try:
            agent.delete()
        except ProtectedError as error:
            raise ValidationError("It has threads, which would lose their agent: switch it off instead.") from error

    def _demote_others(self, successor: str, by: Actor, note: str) -> None:
        for agent in Agent.objects.select_for_update().filter(is_default=True).exclude(slug=successor):
            Agent.objects.filter(pk=agent.pk).update(is_default=False)
            _record(agent, {"is_default": {"before": True, "after": False}}, by, note)


def _arranged(spec: Spec) -> Spec:
    """Each tool once, sorted; lines that end as in files, not as browsers send them."""
    texts = {field: spec[field].replace("\r\n", "\n") for field in ("description", "instructions")}
    return {**spec, **texts, "tools": sorted(set(spec["tools"])), "guardrails": sorted(set(spec["guardrails"]))}


def _columns(spec: Spec) -> dict[str, Any]:
    return {"name" if field == "title" else field: value for field, value in spec.items()}


def _record(agent: Agent, changes: dict[str, dict[str, Any]], by: Actor, note: str) -> None:
    details = {"name": agent.name, "note": note, "changes": changes}
    target = Target(agent._meta.label_lower, str(agent.pk))
    audit.record(actions.AGENT_CHANGED, actor=by, target=target, details=details)


def _default_agent_first(specs: Specs) -> list[str]:
    """The new default agent takes the place of the former one before that may say that it is none."""
    return sorted(specs, key=lambda name: (not specs[name]["is_default"], name))


def _pruned(name: str, spec: Spec) -> Spec | None:
    """An agent with threads or runs is switched off, as in the console."""
    agent = Agent.objects.get(slug=name)
    return {**spec, "enabled": False} if agent.threads.exists() or agent.runs.exists() else None


configure_kind(
    "Agent",
    KindConfiguration(
        folder="agents",
        name_pattern=r"^[a-zA-Z0-9_-]{1,64}$",
        about="An agent, under its slug: its id in addresses.",
        models=(Agent,),
        columns={"title": "name"},
        meanings={
            "title": "For people: what the agent is called.",
            "description": "For people and other agents: what it is for.",
            "enabled": "Off: it answers nobody.",
            "output_schema": "JSON Schema of its answers. Empty: it answers in prose.",
            "max_output_tokens": "How long one answer of the model may be. Empty: the model's own limit.",
        },
        in_order=_default_agent_first,
        pruned=_pruned,
        is_kept=lambda name: Agent.objects.filter(slug=name, is_default=True).exists(),
    ),
)
