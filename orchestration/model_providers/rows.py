"""Providers of models and prices of models as tables."""

from __future__ import annotations

from decimal import Decimal

from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.db.models.functions import Now

from agentbackend.foundation.identifiers import uuid7
from orchestration.model_providers.names import MODEL_PATTERN, PRICED_PROVIDER_PATTERN
from tools.models.names import credential_name, server_name

_LONGEST_WAIT = MaxValueValidator(600.0)
_priced_provider = RegexValidator(PRICED_PROVIDER_PATTERN, "A provider's name, or * for all.")
_model = RegexValidator(MODEL_PATTERN, "A model's name without spaces; a * only at its end.")


def _price(help_text: str, *, null: bool = False) -> models.DecimalField:  # type: ignore[type-arg]
    bounds = [MinValueValidator(Decimal(0)), MaxValueValidator(Decimal(100_000))]
    return models.DecimalField(
        max_digits=12, decimal_places=6, validators=bounds, help_text=help_text, null=null, blank=null
    )


class ModelProvider(models.Model):
    """A server that speaks the chat-completions API, beside the one of the settings. Agents name its models `name:model`."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    name = models.CharField(
        max_length=40, unique=True, validators=[server_name],
        help_text="Stands before the names of its models: name:model. It cannot be changed later.",
    )  # fmt: skip
    description = models.CharField(max_length=300, blank=True, db_default="", default="", help_text="For people.")
    base_url = models.CharField(max_length=500, help_text="Of its API: https://.../v1")
    credential = models.CharField(
        max_length=128, blank=True, db_default="", default="", validators=[credential_name],
        help_text="Name of the credential that holds its key. Empty: it wants none.",
    )  # fmt: skip
    enabled = models.BooleanField(default=True, db_default=True, help_text="Off: its models answer nobody.")
    first_token_seconds = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1), _LONGEST_WAIT],
        help_text="How long to wait for the beginning of an answer. Empty: MODEL_FIRST_TOKEN_TIMEOUT_SECONDS.",
    )  # fmt: skip
    idle_seconds = models.FloatField(
        null=True, blank=True, validators=[MinValueValidator(0.1), _LONGEST_WAIT],
        help_text="How long an answer that has begun may pause. Empty: MODEL_IDLE_TIMEOUT_SECONDS.",
    )  # fmt: skip
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name


class ModelPrice(models.Model):
    """What a model's tokens cost from a day on, in US dollars for a million. Another price is another row, so that history stays."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    provider = models.CharField(
        max_length=40, validators=[_priced_provider],
        help_text="Name of a provider; `default` is the one of the settings, `demo` the demo model, * all.",
    )  # fmt: skip
    model = models.CharField(
        max_length=200, validators=[_model],
        help_text="The model's name there, or its beginning with a * after it. The longest that fits counts.",
    )  # fmt: skip
    valid_from = models.DateField(help_text="Counts from this day on (UTC).")
    input_price = _price("US dollars for a million tokens that go in.")
    output_price = _price("US dollars for a million tokens that come out.")
    cached_input_price = _price("The same for tokens that the provider had in its cache. Empty: as input.", null=True)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(auto_now=True, db_default=Now())

    class Meta:
        ordering = ("provider", "model", "-valid_from")
        constraints = [models.UniqueConstraint(fields=["provider", "model", "valid_from"], name="one_model_price")]

    def __str__(self) -> str:
        return f"{self.provider}:{self.model}@{self.valid_from}"
