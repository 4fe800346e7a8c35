"""The life of stored credentials: as documents (so that a second person can be asked), what state each is in, and rotation.

A document's `secret` is the sealed value, `vault:v1:<key id>:<base64>`: a value that somebody types is sealed before anything else
happens to it. The field's name makes the audit trail and pages leave it out.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from tools.credentials import CredentialSource, is_in_environment, name_problem
from tools.documents import Spec, kind_named, register_kind
from tools.documents.fields import completed
from tools.models import ChangeRequest, RemoteServer, StoredCredential, Tool
from tools.vault import CREDENTIAL, Sealed, VaultError, active_kid, open_sealed, seal

KIND: Final = "Credential"
MAX_VALUE_BYTES: Final = 16 * 1024
_WRITTEN = "vault:v1"
_BATCH = 50


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
            raise ValidationError({"secret": [f"The value cannot be used: {error}."]}) from error

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


def seal_value(name: str, value: str) -> str:
    """A value as documents hold it. Raises ValidationError, keyed by `value`, that says nothing of the value."""
    cleaned = value.strip("\r\n")
    if not cleaned.strip():
        raise ValidationError({"value": ["The value is empty."]})
    if len(cleaned.encode()) > MAX_VALUE_BYTES or "\0" in cleaned:
        raise ValidationError({"value": [f"At most {MAX_VALUE_BYTES} bytes, without NUL characters."]})
    try:
        return written(seal(cleaned, purpose=CREDENTIAL, name=name))
    except VaultError as error:
        raise ValidationError({"value": [str(error)]}) from error


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
    except binascii.Error:
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
    def set_at(self) -> datetime | None:
        """When its stored value was set."""
        return self.stored.set_at if self.stored else None


def credential_states(names: Iterable[str] | None = None) -> list[CredentialState]:
    """All that are stored or required, by name, or those that are named: three queries."""
    stored = {credential.name: credential for credential in StoredCredential.objects.all()}
    users = users_of_credentials()
    wanted = sorted({*stored, *users} if names is None else set(names))
    return [_state(name, stored.get(name), users.get(name, [])) for name in wanted]


def users_of_credentials() -> dict[str, list[str]]:
    """Which tools and servers name which credential: `{"API_KEY": ["weather_tool", "server docs"]}`."""
    users: dict[str, list[str]] = {}
    tools = Tool.objects.filter(current_version__isnull=False).order_by("name")
    for tool, names in tools.values_list("name", "current_version__required_credentials"):
        for name in names:
            users.setdefault(name, []).append(tool)
    for server, name in RemoteServer.objects.exclude(credential="").order_by("name").values_list("name", "credential"):
        users.setdefault(name, []).append(f"server {server}")
    return users


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
    kid = active_kid()
    if not kid:
        raise VaultError("VAULT_KEYS is not set: there is no key to seal under.")
    names = list(StoredCredential.objects.exclude(kid=kid).order_by("name").values_list("name", flat=True))
    done = Rotation([], [])
    for start in range(0, len(names), _BATCH):
        with transaction.atomic():
            for stored in StoredCredential.objects.select_for_update().filter(name__in=names[start : start + _BATCH]):
                _reseal(stored, done, by=by, dry_run=dry_run)
    for request in ChangeRequest.objects.filter(kind=KIND, status=ChangeRequest.Status.PENDING):
        _reseal_proposal(request, done, dry_run=dry_run)
    return done


def _reseal(stored: StoredCredential, done: Rotation, *, by: Actor, dry_run: bool) -> None:
    former = stored.kid
    try:
        value = open_sealed(Sealed(stored.kid, bytes(stored.sealed)), purpose=CREDENTIAL, name=stored.name)
    except VaultError:
        done.unreadable.append(stored.name)
        return
    done.resealed.append(stored.name)
    if dry_run:
        return
    sealed = seal(value, purpose=CREDENTIAL, name=stored.name)
    stored.kid, stored.sealed = sealed.kid, sealed.data
    stored.save(update_fields=["kid", "sealed"])
    _record(actions.CREDENTIAL_ROTATED, stored, by, {"from": former, "to": sealed.kid})


def _reseal_proposal(request: ChangeRequest, done: Rotation, *, dry_run: bool) -> None:
    """The proposed value anew, and what stands before it as it is now: else the proposal would be outdated."""
    if request.after is None:
        return
    sealed = sealed_from(request.after["secret"])
    what = f"{request.name} (proposed)"
    try:
        value = open_sealed(sealed, purpose=CREDENTIAL, name=request.name)
    except VaultError:
        done.unreadable.append(what)
        return
    if sealed.kid != active_kid():
        done.resealed.append(what)
    if dry_run:
        return
    with transaction.atomic():
        held = ChangeRequest.objects.select_for_update().get(pk=request.pk)
        if held.status != ChangeRequest.Status.PENDING:
            return
        now = kind_named(KIND).read(held.name)
        unchanged = now is not None and held.before is not None and now["description"] == held.before["description"]
        held.before = now if unchanged else held.before
        keeps_value = unchanged and request.before is not None and request.after["secret"] == request.before["secret"]
        secret = now["secret"] if keeps_value and now else written(seal(value, purpose=CREDENTIAL, name=held.name))
        held.after = {**request.after, "secret": secret}
        held.save(update_fields=["before", "after"])


def _record(action: str, stored: StoredCredential, by: Actor, details: dict[str, Any]) -> None:
    target = Target(stored._meta.label_lower, str(stored.pk))
    audit.record(action, actor=by, target=target, details={"name": stored.name, **details})


register_kind(CredentialKind())
