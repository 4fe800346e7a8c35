"""Names of models: `model` is the service's own provider's, `provider:model` another one's."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from typing import Final

DEFAULT_PROVIDER: Final = "default"
"""The provider of the settings (OPENAI_*)."""
DEMO_PROVIDER: Final = "demo"
"""The scripted demo model, which is there in every installation: whoever names it wants it."""
RESERVED: Final = frozenset({DEFAULT_PROVIDER, DEMO_PROVIDER})

PRICED_PROVIDER_PATTERN: Final = r"^([a-z0-9][a-z0-9_-]{0,39}|\*)$"
MODEL_PATTERN: Final = r"^([^\s*@]+\*?|\*)$"


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model and whose it is."""

    provider: str
    model: str

    def __str__(self) -> str:
        return self.model if self.provider == DEFAULT_PROVIDER else f"{self.provider}:{self.model}"


def read_name(name: str, providers: Container[str]) -> ModelName:
    """What a name means; `providers` are the ones that there are, on or off.

    A colon alone makes no provider: names of models hold colons, too (`llama3.1:8b`).
    """
    provider, colon, model = name.partition(":")
    if colon and (provider in RESERVED or provider in providers):
        return ModelName(provider, model)
    return ModelName(DEFAULT_PROVIDER, name)
