"""Credentials that are kept encrypted in the database."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from tools.models.names import credential_name


class StoredCredential(models.Model):
    """A secret under its name. `sealed` is written and read by `tools.vault` only, and never shown."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=128, unique=True, validators=[credential_name],
        help_text="As tools name it under required credentials. It comes before the environment's variable of this name.",
    )  # fmt: skip
    description = models.CharField(max_length=300, blank=True, db_default="", default="")
    kid = models.CharField(max_length=64, editable=False, help_text="The key of VAULT_KEYS that it is sealed under.")
    sealed = models.BinaryField(editable=False, help_text="Nonce and AES-256-GCM ciphertext.")
    set_by = models.CharField(max_length=128, editable=False, db_default="system", default="system")
    set_at = models.DateTimeField(db_default=Now(), editable=False)
    created_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        ordering = ("name",)
        verbose_name = "credential"

    def __str__(self) -> str:
        return self.name
