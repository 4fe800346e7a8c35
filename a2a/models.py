"""Agents of others that tasks can be handed to, what their cards say, and how they are."""

from __future__ import annotations

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now

from a2a.task_models import PushConfig as PushConfig
from a2a.task_models import PushDelivery as PushDelivery
from a2a.task_models import Task as Task
from agentbackend.foundation.identifiers import uuid7
from tools.calls import SideEffects
from tools.models.names import credential_name, role_name, server_name

_EFFECTS = {
    SideEffects.IDEMPOTENT: "idempotent: may be asked again",
    SideEffects.KEYED: "keyed: recognises a message that it has had",
    SideEffects.UNSAFE: "unsafe: a person decides whether it is asked again",
}


class RemoteAgent(models.Model):
    """An agent that speaks A2A. Models are told of it by the card that was accepted, whatever it says later."""

    class Placement(models.TextChoices):
        """Where the credential goes."""

        BEARER = "bearer", "Authorization: Bearer"
        HEADER = "header", "a header of its own"

    class State(models.TextChoices):
        """Where its card stands."""

        UNKNOWN = "", "no card yet"
        OFFERED = "offered", "card not accepted"
        ACCEPTED = "accepted", "as accepted"
        CHANGED = "changed", "card changed: quarantined"
        BLOCKED = "blocked", "card changed: not called"

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=40, unique=True, validators=[server_name], help_text="Models delegate to it with delegate_to_NAME."
    )
    title = models.CharField(max_length=120, blank=True, db_default="", default="")
    card_url = models.CharField(
        max_length=500, help_text="Where its card is: mostly https://HOST/.well-known/agent-card.json"
    )
    key_set_url = models.CharField(
        max_length=500, blank=True, db_default="", default="",
        help_text="Key set (JWKS) that its card's signature is checked with. Empty: one at the card's own address only.",
    )  # fmt: skip
    require_signature = models.BooleanField(
        default=False, db_default=False, help_text="It is only asked while its card has a valid signature."
    )
    required_role = models.CharField(
        max_length=64, blank=True, db_default="", default="", validators=[role_name],
        help_text="Callers need this role, or one that inherits it. Empty: everybody.",
    )  # fmt: skip
    credential = models.CharField(
        max_length=128, blank=True, db_default="", default="", validators=[credential_name],
        help_text="Name of the credential that is sent with each request. Empty: none.",
    )  # fmt: skip
    credential_placement = models.CharField(
        max_length=8, choices=Placement.choices, default=Placement.BEARER, db_default=Placement.BEARER
    )
    credential_header = models.CharField(
        max_length=64, blank=True, db_default="", default="", help_text="The header's name, where it is one of its own."
    )
    client_certificate = models.CharField(
        max_length=128, blank=True, db_default="", default="", validators=[credential_name],
        help_text="Name of the credential that holds our certificate for it, in PEM, with what it is signed by. Empty: none.",
    )  # fmt: skip
    client_key = models.CharField(
        max_length=128, blank=True, db_default="", default="", validators=[credential_name],
        help_text="Name of the credential that holds the certificate's private key. Empty: it stands with the certificate.",
    )  # fmt: skip
    trusted_ca = models.TextField(
        blank=True, db_default="", default="",
        help_text="Certificates, in PEM, that its own must be signed by; no others count then. Empty: the usual authorities.",
    )  # fmt: skip
    timeout_seconds = models.FloatField(
        default=120.0, db_default=120.0, validators=[MinValueValidator(0.1), MaxValueValidator(3600.0)],
        help_text="How long it may work on one task.",
    )  # fmt: skip
    side_effects = models.CharField(
        max_length=16, choices=[(effect.value, text) for effect, text in _EFFECTS.items()],
        default=SideEffects.UNSAFE.value, db_default=SideEffects.UNSAFE.value,
        help_text="What it means when a task was handed over and the process then ended.",
    )  # fmt: skip
    accepted_digest = models.CharField(
        max_length=64, blank=True, db_default="", default="",
        help_text="SHA-256 of the card that is accepted. Empty: none, and it is not asked.",
    )  # fmt: skip
    enabled = models.BooleanField(
        default=False, db_default=False, help_text="Off: nothing is handed to it, and its card is not looked at."
    )
    owner = models.CharField(max_length=120, blank=True, db_default="", default="", help_text="Who answers for it.")
    accepted_card = models.JSONField(null=True, blank=True, editable=False)
    state = models.CharField(
        max_length=16,
        blank=True,
        choices=State.choices,
        default=State.UNKNOWN,
        db_default=State.UNKNOWN,
        editable=False,
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class RemoteAgentHealth(models.Model):
    """How an agent was reached lately (transport only), and the card that it shows now. Moves no registry revision."""

    class Signature(models.TextChoices):
        """What is known of the card's signature."""

        UNSIGNED = "unsigned", "unsigned"
        VALID = "valid", "valid"
        INVALID = "invalid", "invalid"
        UNKNOWN_KEY = "unknown_key", "unknown key"

    agent = models.OneToOneField(RemoteAgent, primary_key=True, on_delete=models.CASCADE, related_name="health")
    last_ok_at = models.DateTimeField(null=True, blank=True)
    last_failure_at = models.DateTimeField(null=True, blank=True)
    last_failure = models.CharField(max_length=300, blank=True, db_default="", default="")
    failures_in_a_row = models.PositiveIntegerField(default=0, db_default=0)
    discovered_at = models.DateTimeField(null=True, blank=True, help_text="When its card was read last.")
    card = models.JSONField(null=True, blank=True)
    card_digest = models.CharField(max_length=64, blank=True, db_default="", default="")
    signature = models.CharField(
        max_length=16, choices=Signature.choices, default=Signature.UNSIGNED, db_default=Signature.UNSIGNED
    )
    signing_key = models.CharField(max_length=200, blank=True, db_default="", default="", help_text="Id of the key.")
    problem = models.CharField(
        max_length=300, blank=True, db_default="", default="", help_text="Why the card cannot be accepted."
    )
    changed_at = models.DateTimeField(null=True, blank=True, help_text="When it stopped being what is accepted.")

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"health of {self.agent_id}"
