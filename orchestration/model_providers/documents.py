"""Providers and prices as documents: how they are read, checked and written, whoever changes them.

Names: a provider's own; of a price `provider:model@day`, the day as YYYY-MM-DD.
"""

from __future__ import annotations

import re
from datetime import date
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError
from django.db import models

import audit
from audit import actions
from audit.actor import Actor
from audit.entry import Target
from orchestration.model_providers.names import RESERVED
from orchestration.models import Agent, ModelPrice, ModelProvider
from tools.addresses import address_problem
from tools.configuration.kinds import KindConfiguration, configure_kind
from tools.credentials import name_problem
from tools.documents import Spec, differences
from tools.documents.fields import completed
from tools.models.names import SERVER_NAME_PATTERN

_PRICE_NAME = re.compile(r"(?P<provider>[a-z0-9_-]{1,40}|\*):(?P<model>[^\s@]{1,200})@(?P<day>\d{4}-\d\d-\d\d)")
_PRICES = ("input_price", "output_price", "cached_input_price")


class ModelProviderKind:
    """A provider of models, under its name."""

    name = "ModelProvider"
    group = "models"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "description": (str, ""),
        "base_url": (str, ...),
        "credential": (str, ""),
        "enabled": (bool, True),
        "first_token_seconds": (float, None),
        "idle_seconds": (float, None),
    }

    def names(self) -> list[str]:
        """All providers."""
        return list(ModelProvider.objects.order_by("name").values_list("name", flat=True))

    def read(self, name: str) -> Spec | None:
        """Its fields."""
        found: Spec | None = ModelProvider.objects.filter(name=name).values(*self.fields).first()
        return found

    def complete(self, spec: Spec) -> Spec:
        """Only the address must be given."""
        return completed(spec, self.fields, nullable=frozenset({"first_token_seconds", "idle_seconds"}))

    def check(self, name: str, spec: Spec) -> None:
        """An address without a login in it, none that is written as a private one, and a name that is free."""
        ModelProvider(name=name, **spec).full_clean(validate_unique=False, validate_constraints=False)
        problems: dict[str, list[str]] = {}
        if name in RESERVED:
            problems["name"] = [f"{name!r} is a provider already: the service's own, or the demo model."]
        if found := address_problem(spec["base_url"]):
            problems["base_url"] = [found]
        if spec["credential"] and name_problem(spec["credential"]):
            problems["credential"] = [name_problem(spec["credential"])]
        if problems:
            raise ValidationError(problems)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the provider; runs that wait for its answers get them from where they asked."""
        before = self.read(name)
        provider, _ = ModelProvider.objects.update_or_create(name=name, defaults=spec)
        _record(actions.MODEL_PROVIDER_CHANGED, provider, name, differences(before, spec), by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """Only a provider that no agent names can go: `name:model` would become a name at the service's own provider."""
        users = [agent.slug for agent in Agent.objects.order_by("slug") if _names_model_of(agent, name)]
        if users:
            raise ValidationError(f"These agents name models of it: {', '.join(users)}.")
        provider = ModelProvider.objects.get(name=name)
        _record(actions.MODEL_PROVIDER_CHANGED, provider, name, differences(self.read(name), None), by, note)
        provider.delete()


class ModelPriceKind:
    """What a model's tokens cost from a day on."""

    name = "ModelPrice"
    group = "models"
    exported = True
    fields: dict[str, tuple[type, Any]] = {
        "input_price": (float, ...),
        "output_price": (float, ...),
        "cached_input_price": (float, None),
    }

    def names(self) -> list[str]:
        """As `provider:model@day`."""
        return sorted(str(price) for price in ModelPrice.objects.all())

    def read(self, name: str) -> Spec | None:
        """The prices as numbers."""
        row = _price_rows(name).values(*_PRICES).first()
        if row is None:
            return None
        return {field: None if value is None else float(value) for field, value in row.items()}

    def complete(self, spec: Spec) -> Spec:
        """The price of what is cached may be left out."""
        return completed(spec, self.fields, nullable=frozenset({"cached_input_price"}))

    def check(self, name: str, spec: Spec) -> None:
        """As the form does."""
        ModelPrice(**_identity(name), **_amounts(spec)).full_clean(validate_unique=False, validate_constraints=False)

    def write(self, name: str, spec: Spec, *, by: Actor, note: str) -> None:
        """Make or change the price. What runs have cost already stays as it was reckoned."""
        before = self.read(name)
        price, _ = ModelPrice.objects.update_or_create(**_identity(name), defaults=_amounts(spec))
        _record(actions.MODEL_PRICE_CHANGED, price, name, differences(before, spec), by, note)

    def delete(self, name: str, *, by: Actor, note: str) -> None:
        """What ran under it keeps its cost."""
        price = _price_rows(name).get()
        _record(actions.MODEL_PRICE_CHANGED, price, name, differences(self.read(name), None), by, note)
        price.delete()


def providers_with_credentials() -> list[tuple[str, str]]:
    """Which providers name which credential, as pages of credentials list it."""
    rows = ModelProvider.objects.exclude(credential="").order_by("name").values_list("name", "credential")
    return [(f"model provider {name}", credential) for name, credential in rows]


def _names_model_of(agent: Agent, provider: str) -> bool:
    return any(name.startswith(f"{provider}:") for name in (agent.model, *agent.fallback_models))


def _identity(name: str) -> dict[str, Any]:
    """What a price's name says; raises ValidationError when it is none, so that no price has two names."""
    found = _PRICE_NAME.fullmatch(name)
    try:
        if found is not None:
            return {
                "provider": found["provider"], "model": found["model"], "valid_from": date.fromisoformat(found["day"]),
            }  # fmt: skip
    except ValueError:
        pass
    raise ValidationError(f"{name!r} is not the name of a price: expected provider:model@YYYY-MM-DD.")


def _price_rows(name: str) -> models.QuerySet[ModelPrice]:
    try:
        return ModelPrice.objects.filter(**_identity(name))
    except ValidationError:
        return ModelPrice.objects.none()


def _amounts(spec: Spec) -> dict[str, Decimal | None]:
    """The numbers as they were written, not as binary fractions."""
    return {field: None if spec[field] is None else Decimal(repr(spec[field])) for field in _PRICES}


def _record(
    action: str, row: models.Model, name: str, changes: dict[str, dict[str, Any]], by: Actor, note: str
) -> None:
    details = {"name": name, "note": note, "changes": changes}
    audit.record(action, actor=by, target=Target(row._meta.label_lower, str(row.pk)), details=details)


configure_kind(
    "ModelProvider",
    KindConfiguration(
        folder="model-providers",
        name_pattern=SERVER_NAME_PATTERN,
        about="A provider of models beside the service's own. Agents name its models `provider:model`.",
        models=(ModelProvider,),
    ),
)
configure_kind(
    "ModelPrice",
    KindConfiguration(
        folder="model-prices",
        name_pattern=f"^{_PRICE_NAME.pattern}$".replace("?P<provider>", "")
        .replace("?P<model>", "")
        .replace("?P<day>", ""),
        about="What a model's tokens cost from a day on, under the name `provider:model@YYYY-MM-DD`.",
        models=(ModelPrice,),
    ),
)
