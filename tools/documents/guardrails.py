"""Guardrail policies as documents, under their names."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError

from audit.actor import Actor
from tools.documents.document import Spec, register_kind
from tools.documents.fields import completed
from tools.governance.guardrails.policy import PolicyKind, Stage
from tools.governance.policies import KEYWORDS_POLICY, KEYWORDS_SETTING, PolicyRule, check_rule, describe, publish
from tools.models import GuardrailPolicy, GuardrailPolicyVersion

_ABOUT = ("enabled", "everywhere", "description")


class GuardrailKind:
    """A guardrail policy: what its version says, whether it is on, and whom it binds. One that a setting makes is no document."""

    name = "Guardrail"
    group = "guardrails"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "enabled": (bool, True),
        "everywhere": (bool, False),
        "description": (str, ""),
        "kind": (str, ...),
        "stages": (list, ...),
        "action": (str, ...),
        "settings": (dict, {}),
        "message": (str, ""),
    }

    def names(self) -> list[str]:
        """Policies that have a version."""
        written = GuardrailPolicy.objects.filter(current_version__isnull=False, setting="")
        return list(written.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """What its version says, and what stands beside it."""
        policy = GuardrailPolicy.objects.select_related("current_version").filter(name=name, setting="").first()
        if policy is None or policy.current_version is None:
            return None
        about = {field: getattr(policy, field) for field in _ABOUT}
        return {**about, **PolicyRule.of(policy.current_version).as_dict()}

    def complete(self, spec: Spec) -> Spec:
        """Places in their own order, each once; keywords sorted, since their order means nothing."""
        found = completed(spec, self.fields)
        order = {stage.value: number for number, stage in enumerate(Stage)}
        stages = sorted(set(found["stages"]), key=lambda stage: (order.get(stage, len(order)), stage))
        return {**found, "stages": stages, "settings": _arranged(found["kind"], found["settings"])}

    def check(self, name: str, spec: Spec) -> None:
        """As the form does; but what is only switched off need not fit the rules of today."""
        if name == KEYWORDS_POLICY:
            raise ValidationError(
                f"The policy {name!r} is set by {KEYWORDS_SETTING}: change that, and start the service again."
            )
        problems: dict[str, list[str]] = {}
        rows = (
            GuardrailPolicy(name=name, **{field: spec[field] for field in _ABOUT}),
            GuardrailPolicyVersion(**PolicyRule.in_spec(spec).as_dict()),
        )
        for row, left_out in zip(rows, ([], ["policy", "number", "digest"]), strict=True):
            try:
                row.full_clean(exclude=left_out, validate_unique=False, validate_constraints=False)
            except ValidationError as error:
                problems |= error.message_dict
        if problems:
            raise ValidationError(problems)
        rule = PolicyRule.in_spec(spec)
        if spec["enabled"] or _rule_that_counts(name) != rule:
            check_rule(rule)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """A new version where the rule changes; switched on or off as it says."""
        policy, _ = GuardrailPolicy.objects.get_or_create(name=name, defaults={"enabled": False})
        rule = PolicyRule.in_spec(spec)
        served = PolicyRule.of(policy.current_version) if policy.current_version else None
        # a version that counts already is not checked again: it could not be switched off otherwise
        if served != rule:
            publish(policy, rule, by=by, note=note)
        describe(policy, {field: spec[field] for field in _ABOUT}, by=by, note=note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Versions are named by the audit trail, so the policy is switched off and stays."""
        policy = GuardrailPolicy.objects.get(name=name, setting="")
        describe(policy, {"enabled": False}, by=by, note=note or "No longer wanted.")


def _rule_that_counts(name: str) -> PolicyRule | None:
    policy = GuardrailPolicy.objects.select_related("current_version").filter(name=name).first()
    return PolicyRule.of(policy.current_version) if policy and policy.current_version else None


def _arranged(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    keywords = settings.get("keywords")
    if kind != PolicyKind.KEYWORDS or not isinstance(keywords, list) or not all(isinstance(k, str) for k in keywords):
        return settings
    return {**settings, "keywords": sorted(dict.fromkeys(keywords))}


register_kind(GuardrailKind())
