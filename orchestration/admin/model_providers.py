"""Providers and prices of models in the console.

What is saved here goes through `tools.changes`, so it may have to wait for a second person.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from django.contrib import admin
from unfold.admin import ModelAdmin
from unfold.decorators import display

from orchestration.models import Agent, ModelPrice, ModelProvider
from tools.admin.documents import DocumentAdmin, DocumentForm
from tools.documents import Spec

_OF_PROVIDER = ("description", "base_url", "credential", "enabled", "first_token_seconds", "idle_seconds")
_OF_PRICE = ("input_price", "output_price", "cached_input_price")


class ModelProviderForm(DocumentForm):
    """A provider. Its key is a credential, and named only."""

    kind = "ModelProvider"

    class Meta:
        model = ModelProvider
        fields = ("name", *_OF_PROVIDER)

    def document_name(self) -> str:
        name: str = self.cleaned_data["name"] if self.instance._state.adding else self.instance.name
        return name

    def spec(self) -> Spec:
        return {field: self.cleaned_data[field] for field in _OF_PROVIDER}


class ModelPriceForm(DocumentForm):
    """What a model's tokens cost from a day on."""

    kind = "ModelPrice"

    class Meta:
        model = ModelPrice
        fields = ("provider", "model", "valid_from", *_OF_PRICE)

    def document_name(self) -> str:
        if not self.instance._state.adding:
            return str(self.instance)
        said = self.cleaned_data
        return f"{said['provider']}:{said['model']}@{said['valid_from']}"

    def spec(self) -> Spec:
        prices = {field: self.cleaned_data[field] for field in _OF_PRICE}
        return {field: None if price is None else float(price) for field, price in prices.items()}


@admin.register(ModelProvider)
class ModelProviderAdmin(DocumentAdmin, ModelAdmin):
    """Where models are asked beside the provider of the settings."""

    form = ModelProviderForm
    list_display = ("name", "description", "base_url", "credential", "users", "enabled")
    list_filter = ("enabled",)
    search_fields = ("name", "description", "base_url")
    list_per_page = 50
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    fieldsets = (
        (None, {"fields": ("name", "description", "base_url", "credential", "enabled")}),
        ("How long to wait", {"fields": (("first_token_seconds", "idle_seconds"),)}),
    )

    def get_changelist_instance(self, request: Any) -> Any:
        """With the agents that name its models, read once for the whole list."""
        changelist = super().get_changelist_instance(request)
        agents = list(Agent.objects.order_by("slug").values_list("slug", "model", "fallback_models"))
        for provider in changelist.result_list:
            provider.agents = [
                slug
                for slug, model, others in agents
                if any(name.startswith(f"{provider.name}:") for name in (model, *others))
            ]
        return changelist

    @display(description="Agents")
    def users(self, provider: Any) -> str:
        return ", ".join(provider.agents) or "none"


@admin.register(ModelPrice)
class ModelPriceAdmin(DocumentAdmin, ModelAdmin):
    """Prices in US dollars for a million tokens; former ones stay for what ran under them."""

    form = ModelPriceForm
    identity = ("provider", "model", "valid_from")
    list_display = ("provider", "model", "valid_from", "dollars_in", "dollars_out", "dollars_cached")
    list_display_links = ("provider", "model")
    list_filter = ("provider",)
    search_fields = ("provider", "model")
    list_per_page = 100
    show_facets = admin.ShowFacets.NEVER
    warn_unsaved_form = True
    fieldsets = (
        (None, {"fields": (("provider", "model"), "valid_from")}),
        ("US dollars for a million tokens", {"fields": (("input_price", "output_price"), "cached_input_price")}),
    )

    @display(description="In (USD for a million)", ordering="input_price")
    def dollars_in(self, price: ModelPrice) -> str:
        return _dollars(price.input_price)

    @display(description="Out (USD for a million)", ordering="output_price")
    def dollars_out(self, price: ModelPrice) -> str:
        return _dollars(price.output_price)

    @display(description="In from the cache (USD for a million)", ordering="cached_input_price")
    def dollars_cached(self, price: ModelPrice) -> str:
        return _dollars(price.cached_input_price)


def _dollars(price: Decimal | None) -> str:
    """A price without needless zeros; a dash where there is none."""
    return "-" if price is None else f"{price.normalize():f}"
