"""Changing guardrail policies: publishing versions, switching on and off. The console, files, the seed and the start-up call these.

Every function works inside one transaction, checks before it writes, and records who did what in it, before and after. What cannot be
used is refused with Django's ValidationError, whose messages are keyed by field. A policy is never removed: versions are named by the
audit trail, so it is switched off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson
from django.core.exceptions import ValidationError
from django.db import DEFAULT_DB_ALIAS, transaction

import audit
from audit import actions
from audit.actor import SYSTEM, Actor
from audit.entry import Target
from tools.documents.document import differences
from tools.governance.guardrails.policy import Action, PolicyKind, Stage, check_settings
from tools.governance.moderation import moderation_problems
from tools.json_values import same_json
from tools.models import GuardrailPolicy, GuardrailPolicyVersion

KEYWORDS_SETTING: Final = "DISALLOWED_KEYWORDS"
KEYWORDS_POLICY: Final = "disallowed-keywords"
"""The policy that holds what the setting says; nobody else may take its name."""

_RULE_FIELDS = ("kind", "stages", "action", "settings", "message")  # of a document
_ASK_PROBLEM = (
    "A person can be asked about the arguments of tools only: check these alone, or choose block, redact or warn."
)


@dataclass(frozen=True, slots=True)
class PolicyRule:
    """Everything that a version says of a policy, before it has a number."""

    kind: str
    stages: list[str]
    action: str
    settings: dict[str, Any] = field(default_factory=dict)
    message: str = ""

    @classmethod
    def of(cls, version: GuardrailPolicyVersion) -> PolicyRule:
        """What a version says."""
        return cls(version.kind, list(version.stages), version.action, version.settings, version.message)

    @classmethod
    def in_spec(cls, spec: Mapping[str, Any]) -> PolicyRule:
        """The part of a policy's document that a version says."""
        return cls(**{name: spec[name] for name in cls.__slots__})

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return asdict(self)


def digest_of(name: str, rule: PolicyRule) -> str:
    """SHA-256, in hexadecimal, of what a policy says: JSON with sorted keys and without white space."""
    return hashlib.sha256(orjson.dumps({"name": name, **rule.as_dict()}, option=orjson.OPT_SORT_KEYS)).hexdigest()


def policy_version(version: GuardrailPolicyVersion) -> str:
    """How the audit trail names a version, as `Policy.policy_version` does."""
    return f"{version.policy.name}:{version.number}:{version.digest[:12]}"


def rule_problems(rule: PolicyRule) -> dict[str, list[str]]:
    """Why the engine cannot work with this, by field (`kind`, `stages`, `action`, or a key of the settings); empty when it can."""
    try:
        kind, action, stages = PolicyKind(rule.kind), Action(rule.action), {Stage(stage) for stage in rule.stages}
    except ValueError as error:
        return {"kind": [f"{error}."]}
    if not stages:
        return {"stages": ["Choose at least one place."]}
    if action is Action.ASK and stages - {Stage.TOOL_ARGUMENTS}:
        return {"action": [_ASK_PROBLEM]}
    if kind is PolicyKind.MODEL:
        return _moderation_problems(rule, action)
    return check_settings(kind, stages, action, rule.settings)


def check_rule(rule: PolicyRule) -> None:
    """Raise ValidationError, messages keyed by field of a policy's document, unless the engine can work with this."""
    problems: dict[str, list[str]] = {}
    for name, texts in rule_problems(rule).items():
        if name in _RULE_FIELDS:
            problems.setdefault(name, []).extend(texts)
        else:
            problems.setdefault("settings", []).extend(f"{name}: {text}" for text in texts)
    if problems:
        raise ValidationError(problems)


def _moderation_problems(rule: PolicyRule, action: Action) -> dict[str, list[str]]:
    if action is Action.REDACT:
        return {"action": ["A moderation model judges the whole and names no place: it can block, warn or ask."]}
    return {name: [text] for name, text in moderation_problems(rule.settings).items()}


def publish(
    policy: GuardrailPolicy, rule: PolicyRule, *, by: Actor, note: str = "", using: str = DEFAULT_DB_ALIAS
) -> GuardrailPolicyVersion:
    """Make this rule the version of the policy that counts; one that changes nothing makes no version.

    Raises ValidationError (see `check_rule`).
    """
    check_rule(rule)
    with transaction.atomic(using=using):
        locked = GuardrailPolicy.objects.using(using).select_for_update().get(pk=policy.pk)
        current = locked.current_version
        before = PolicyRule.of(current).as_dict() if current else None
        if current is not None and same_json(before, rule.as_dict()):
            return current
        version = _new_version(locked, rule, by=by, note=note, using=using)
        locked.current_version = version
        locked.save(using=using, update_fields=["current_version", "updated_at"])
        _record(
            locked,
            version,
            by,
            {"number": version.number, "note": note, "changes": differences(before, rule.as_dict())},
            using,
        )
    policy.current_version = version
    return version


def describe(
    policy: GuardrailPolicy, about: dict[str, Any], *, by: Actor, note: str = "", using: str = DEFAULT_DB_ALIAS
) -> bool:
    """Change what stands beside the versions (`enabled`, `everywhere`, `description`); returns whether that was a change."""
    with transaction.atomic(using=using):
        locked = GuardrailPolicy.objects.using(using).select_for_update().get(pk=policy.pk)
        before = {name: getattr(locked, name) for name in about}
        changes = differences(before, about)
        if not changes:
            return False
        for name, value in about.items():
            setattr(locked, name, value)
            setattr(policy, name, value)
        locked.save(using=using, update_fields=[*about, "updated_at"])
        _record(locked, locked.current_version, by, {"note": note, "changes": changes}, using)
    return True


def seed_policies(using: str = DEFAULT_DB_ALIAS) -> None:
    """Make the policies that the service comes with, where they are not there yet; what an administrator has made of one stays."""
    for name, (enabled, description, rule) in _SEEDED.items():
        policy, is_new = GuardrailPolicy.objects.using(using).get_or_create(
            name=name, defaults={"enabled": False, "everywhere": True, "description": description}
        )
        if is_new:
            publish(policy, rule, by=SYSTEM, note="Comes with the service.", using=using)
            describe(policy, {"enabled": enabled}, by=SYSTEM, note="Comes with the service.", using=using)


_LEAVES = [Stage.OUTPUT.value]
_SEEDED: Final[dict[str, tuple[bool, str, PolicyRule]]] = {
    "secrets": (
        True,
        "API keys and private keys are masked before anything leaves.",
        PolicyRule(PolicyKind.PII.value, _LEAVES, Action.REDACT.value, {"classes": ["api_key", "private_key"]}),
    ),
    "injection": (
        True,
        "The model is warned of results of tools, and answers of remote agents, that look like instructions.",
        PolicyRule(
            PolicyKind.INJECTION.value, [Stage.TOOL_RESULT.value, Stage.REMOTE_ANSWER.value], Action.WARN.value, {}
        ),
    ),
    "personal-data": (
        False,
        "E-mail addresses, phone numbers, card numbers and IBANs are masked before anything leaves.",
        PolicyRule(PolicyKind.PII.value, _LEAVES, Action.REDACT.value, {"classes": ["email", "phone", "card", "iban"]}),
    ),
    "personal-data-in-calls": (
        False,
        "A person is asked before personal data goes to a tool.",
        PolicyRule(
            PolicyKind.PII.value,
            [Stage.TOOL_ARGUMENTS.value],
            Action.ASK.value,
            {"classes": ["email", "phone", "card", "iban"]},
        ),
    ),
}


def publish_keywords_of_setting(keywords: Sequence[str], using: str = DEFAULT_DB_ALIAS) -> GuardrailPolicy | None:
    """Bring DISALLOWED_KEYWORDS into its policy: a new version where the words are others; switched off where there are none.

    Called at each start; many processes may do it at once. Raises ValidationError for words that cannot be used.
    """
    note = f"From {KEYWORDS_SETTING}."
    with transaction.atomic(using=using):
        found = GuardrailPolicy.objects.using(using).select_for_update().filter(name=KEYWORDS_POLICY).first()
        if not keywords and found is None:
            return None
        policy = (
            found
            or GuardrailPolicy.objects.using(using).get_or_create(
                name=KEYWORDS_POLICY, defaults={"setting": KEYWORDS_SETTING, "everywhere": True, "enabled": False}
            )[0]
        )
        if keywords:
            publish(policy, _rule_of_setting(keywords), by=SYSTEM, note=note, using=using)
        about = {"enabled": bool(keywords), "everywhere": True, "description": f"What {KEYWORDS_SETTING} says."}
        describe(policy, about, by=SYSTEM, note=note, using=using)
    return policy


def _rule_of_setting(keywords: Sequence[str]) -> PolicyRule:
    return PolicyRule(
        kind=PolicyKind.KEYWORDS.value,
        stages=[stage.value for stage in Stage],
        action=Action.BLOCK.value,
        settings={"keywords": sorted(dict.fromkeys(keywords))},
    )


def _new_version(
    policy: GuardrailPolicy, rule: PolicyRule, *, by: Actor, note: str, using: str
) -> GuardrailPolicyVersion:
    last = GuardrailPolicyVersion.objects.using(using).filter(policy=policy).order_by("-number").first()
    version = GuardrailPolicyVersion(
        policy=policy,
        number=last.number + 1 if last else 1,
        digest=digest_of(policy.name, rule),
        change_note=note[:500],
        created_by=by.id[:128],
        **rule.as_dict(),
    )
    version.full_clean(exclude=["policy"], validate_unique=False, validate_constraints=False)
    version.save(using=using, force_insert=True)
    return version


def _record(
    policy: GuardrailPolicy, version: GuardrailPolicyVersion | None, by: Actor, details: dict[str, Any], using: str
) -> None:
    audit.record(
        actions.GUARDRAIL_CHANGED,
        actor=by,
        target=Target(policy._meta.label_lower, str(policy.pk)),
        policy_version=policy_version(version) if version else "",
        details={"name": policy.name, **details},
        using=using,
    )
