"""The life of stored credentials: as documents (so that a second person can be asked), what state each is in, and rotation.

A document's `secret` is the sealed value, `vault:v1:<key id>:<base64>`: a value that somebody types is sealed before anything else
happens to it. The field's name makes the audit trail and pages leave it out.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, TypeAlias

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.changes import hold_registry
from tools.credentials import SHORTEST_HIDDEN, CredentialSource, is_in_environment, name_problem
from tools.documents import Spec, register_kind
from tools.documents.fields import completed
from tools.models import ChangeRequest, RemoteServer, StoredCredential, Tool
from tools.vault import CREDENTIAL, Sealed, VaultError, active_kid, open_sealed, seal

KIND: Final = "Credential"
MAX_VALUE_BYTES: Final = 16 * 1024
_WRITTEN = "vault:v1"
_BATCH = 50

_Reseal: TypeAlias = Callable[[str], str]


class CredentialKind:
    """A stored credential; its value is sealed."""

    name = KIND
    group = "credentials"
    exported = False
    fields: dict[str, tuple[type, Any]] = {"description": (str, ""), "secret": (str, ...)}

    def names(self) -> list[str]:
        """Of all that are stored."""
        return list(StoredCredential.objects.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """With the value as it is sealed."""
        stored = StoredCredential.objects.filter(name=name).first()
        if stored is None:
            return None
        return {"description": stored.description, "secret": written(Sealed(stored.kid, bytes(stored.sealed)))}

    def complete(self, spec: Spec) -> Spec:
        """Both as texts."""
        return completed(spec, self.fields)

    def check(self, name: str, spec: Spec) -> None:
        """The name must be one that tools may require, and the value must open under it."""
        if name_problem(name):
            raise ValidationError({"name": [name_problem(name)]})
        StoredCredential(name=name, description=spec["description"]).clean_fields(exclude=["kid", "sealed"])
        try:
            open_sealed(sealed_from(spec["secret"]), purpose=CREDENTIAL, name=name)
        except VaultError as error:
            text = f"It cannot be opened: {str(error).rstrip('.')}. Enter the value again."
            raise ValidationError({"secret": [text]}) from error

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Store the value, or what is said of it; the record tells which, and never the value."""
        before = self.read(name) or {}
        sealed = sealed_from(spec["secret"])
        values: dict[str, Any] = {"description": spec["description"]}
        if before.get("secret") != spec["secret"]:
            values |= {"kid": sealed.kid, "sealed": sealed.data, "set_by": by.id[:128], "set_at": timezone.now()}
        stored, _ = StoredCredential.objects.update_or_create(name=name, defaults=values)
        _record(actions.CREDENTIAL_SET, stored, by, {"note": note, "new_value": "sealed" in values})

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Forget it; tools that require it find the environment's, or none."""
        stored = StoredCredential.objects.get(name=name)
        _record(actions.CREDENTIAL_REMOVED, stored, by, {"note": note})
        stored.delete()


@sensitive_variables()
def seal_value(name: str, value: str) -> str:
    """A value as documents hold it, without the white space around it, as one from the environment is read.

    Raises ValidationError, keyed by `secret`, that says nothing of the value.
    """
    cleaned = value.strip()
    if not cleaned:
        raise ValidationError({"secret": ["The value is empty."]})
    if len(cleaned) < SHORTEST_HIDDEN:
        too_short = (
            f"At least {SHORTEST_HIDDEN} characters: a shorter value could not be taken out of what tools answer."
        )
        raise ValidationError({"secret": [too_short]})
    if len(cleaned.encode(errors="replace")) > MAX_VALUE_BYTES or "\0" in cleaned:
        raise ValidationError({"secret": [f"At most {MAX_VALUE_BYTES} bytes, without NUL characters."]})
    try:
        return written(seal(cleaned, purpose=CREDENTIAL, name=name))
    except VaultError as error:
        raise ValidationError({"secret": [str(error)]}) from None


def written(sealed: Sealed) -> str:
    """A sealed value as a text."""
    return f"{_WRITTEN}:{sealed.kid}:{base64.b64encode(sealed.data).decode()}"


def sealed_from(text: str) -> Sealed:
    """The inverse of `written`; raises VaultError."""
    prefix, _, encoded = text.rpartition(":")
    form, _, kid = prefix.rpartition(":")
    try:
        if form == _WRITTEN and kid:
            return Sealed(kid, base64.b64decode(encoded, validate=True))
    except ValueError:  # binascii.Error is one, and what is not ASCII another
        pass
    raise VaultError("it is no sealed value")


# --- what state they are in


@dataclass(frozen=True, slots=True)
class CredentialState:
    """A credential that is stored, or that something requires; never its value."""

    name: str
    source: CredentialSource
    stored: StoredCredential | None = None
    problem: str = ""
    used_by: list[str] = field(default_factory=list)

    @property
    def awaits_rotation(self) -> bool:
        """Whether it can be opened, with a key that is no longer the first."""
        return self.stored is not None and not self.problem and self.stored.kid != active_kid()


def credential_states(names: Iterable[str] | None = None) -> list[CredentialState]:
    """All that are stored or required, by name, or those that are named; a few queries."""
    chosen = None if names is None else set(names)
    rows = StoredCredential.objects.all() if chosen is None else StoredCredential.objects.filter(name__in=chosen)
    stored = {credential.name: credential for credential in rows}
    users = users_of_credentials()
    wanted = sorted({*stored, *users} if chosen is None else chosen)
    return [_state(name, stored.get(name), users.get(name, [])) for name in wanted]


_other_users: list[Callable[[], Iterable[tuple[str, str]]]] = []


def add_users_of_credentials(users: Callable[[], Iterable[tuple[str, str]]]) -> None:
    """Rooms above this one say what else names credentials, when their app is ready: pairs of (user, credential)."""
    _other_users.append(users)


def users_of_credentials() -> dict[str, list[str]]:
    """Which tools, servers and others name which credential: `{"API_KEY": ["weather_tool", "server docs"]}`."""
    users: dict[str, list[str]] = {}
    tools = Tool.objects.filter(current_version__isnull=False).order_by("name")
    for tool, names in tools.values_list("name", "current_version__required_credentials"):
        for name in names:
            users.setdefault(name, []).append(tool)
    for server, name in RemoteServer.objects.exclude(credential="").order_by("name").values_list("name", "credential"):
        users.setdefault(name, []).append(f"server {server}")
    for others in _other_users:
        for user, name in others():
            users.setdefault(name, []).append(user)
    return users


def proposals_under_former_keys() -> list[str]:
    """Proposed values that wait for a second person, sealed under a key that is no longer the first."""
    proposed = _waiting_proposals().exclude(after=None).order_by("name").values_list("name", "after__secret")
    return [f"{name} (proposed)" for name, secret in proposed if sealed_from(secret).kid != active_kid()]


def _state(name: str, stored: StoredCredential | None, used_by: list[str]) -> CredentialState:
    if stored is None:
        source = CredentialSource.ENVIRONMENT if is_in_environment(name) else CredentialSource.NOWHERE
        return CredentialState(name, source, used_by=used_by)
    problem = ""
    try:
        open_sealed(Sealed(stored.kid, bytes(stored.sealed)), purpose=CREDENTIAL, name=name)
    except VaultError as error:
        problem = str(error)
    source = CredentialSource.NOWHERE if problem else CredentialSource.VAULT
    return CredentialState(name, source, stored, problem, used_by)


# --- rotation


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation did, or would do: names that are sealed again, and names that cannot be opened."""

    resealed: list[str]
    unreadable: list[str]


def rotate_credentials(*, by: Actor, dry_run: bool = False) -> Rotation:
    """Seal everything again under the active key, also in changes that wait for a second person.

    Done in small transactions: it can be interrupted and repeated, and calls go on meanwhile. Raises VaultError without a key.
    """
    if not active_kid():
        raise VaultError("VAULT_KEYS is not set: there is no key to seal under.")
    stored = StoredCredential.objects.values_list("name", flat=True)
    names = sorted({*stored, *_waiting_proposals().values_list("name", flat=True)})
    done = Rotation([], [])
    for start in range(0, len(names), _BATCH):
        with transaction.atomic():
            if not dry_run:
                hold_registry()
            for name in names[start : start + _BATCH]:
                _rotate(name, done, by=by, dry_run=dry_run)
    return done


def _rotate(name: str, done: Rotation, *, by: Actor, dry_run: bool) -> None:
    """A credential and what is proposed for it, together: a proposal stays good as long as it says what is stored."""
    reseal = _resealing(name)
    stored = StoredCredential.objects.filter(name=name).first()
    if stored is not None:
        _rotate_stored(stored, reseal, done, by=by, dry_run=dry_run)
    # only if it still waits: who decides at this moment comes first, and what is decided keeps no value
    proposal = _waiting_proposals().select_for_update().filter(name=name).first()
    if proposal is not None:
        _rotate_proposal(proposal, reseal, done, by=by, dry_run=dry_run)


def _rotate_stored(stored: StoredCredential, reseal: _Reseal, done: Rotation, *, by: Actor, dry_run: bool) -> None:
    former = written(Sealed(stored.kid, bytes(stored.sealed)))
    found = _resealed(former, reseal, stored.name, done)
    if found == former or dry_run:
        return
    sealed = sealed_from(found)
    details = {"from": stored.kid, "to": sealed.kid}
    stored.kid, stored.sealed = sealed.kid, sealed.data
    stored.save(update_fields=["kid", "sealed"])
    _record(actions.CREDENTIAL_ROTATED, stored, by, details)


def _rotate_proposal(proposal: ChangeRequest, reseal: _Reseal, done: Rotation, *, by: Actor, dry_run: bool) -> None:
    what = f"{proposal.name} (proposed)"
    unreported = Rotation([], [])  # what it was proposed for is what is stored, and reported as that, or outdated
    before = _resealed_spec(proposal.before, reseal, what, unreported)
    after = _resealed_spec(proposal.after, reseal, what, done)
    if dry_run or (before, after) == (proposal.before, proposal.after):
        return
    proposal.before, proposal.after = before, after
    proposal.save(update_fields=["before", "after"])
    details = {"kind": KIND, "name": proposal.name, "to": active_kid()}
    audit.record(actions.CREDENTIAL_ROTATED, actor=by, target=Target("change", str(proposal.pk)), details=details)


def _resealed_spec(spec: Spec | None, reseal: _Reseal, what: str, done: Rotation) -> Spec | None:
    return None if spec is None else {**spec, "secret": _resealed(spec["secret"], reseal, what, done)}


def _resealed(former: str, reseal: _Reseal, name: str, done: Rotation) -> str:
    """The same value under the active key, noted as done; as it was, when nothing is to do or nothing can be done."""
    try:
        found = reseal(former)
    except VaultError:
        done.unreadable.append(name)
        return former
    if found != former:
        done.resealed.append(name)
    return found


def _resealing(name: str) -> _Reseal:
    """Seals values of this credential again; what was the same text before is the same text afterwards."""

    @cache
    def reseal(former: str) -> str:
        sealed = sealed_from(former)
        value = open_sealed(sealed, purpose=CREDENTIAL, name=name)
        return former if sealed.kid == active_kid() else written(seal(value, purpose=CREDENTIAL, name=name))

    return reseal


def _waiting_proposals() -> QuerySet[ChangeRequest]:
    return ChangeRequest.objects.filter(kind=KIND, status=ChangeRequest.Status.PENDING)


def _record(action: str, stored: StoredCredential, by: Actor, details: dict[str, Any]) -> None:
    target = Target(stored._meta.label_lower, str(stored.pk))
    audit.record(action, actor=by, target=target, details={"name": stored.name, **details})


register_kind(CredentialKind())
