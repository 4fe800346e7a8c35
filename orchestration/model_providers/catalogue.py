"""Providers and prices as the run path sees them: a snapshot of their rows, read again at most once a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

from agentbackend.foundation.database import Database
from orchestration.model_port import Usage
from orchestration.model_providers.names import ModelName, read_name

_MILLION = Decimal(1_000_000)


@dataclass(frozen=True, slots=True)
class Provider:
    """A provider's row. Time limits in seconds; None: the service's."""

    name: str
    base_url: str
    credential: str
    enabled: bool
    first_token_seconds: float | None
    idle_seconds: float | None


@dataclass(frozen=True, slots=True)
class Price:
    """What a model's tokens cost from a day on, in US dollars for a million."""

    provider: str
    model: str
    valid_from: date
    input: Decimal
    output: Decimal
    cached_input: Decimal | None

    def fits(self, name: ModelName) -> bool:
        """Whether it is about this model."""
        if self.provider not in ("*", name.provider):
            return False
        return name.model.startswith(self.model[:-1]) if self.model.endswith("*") else name.model == self.model

    def cost(self, usage: Usage) -> Decimal:
        """What these tokens cost."""
        cached = min(usage.cached_input_tokens, usage.input_tokens)
        cached_price = self.input if self.cached_input is None else self.cached_input
        total = (usage.input_tokens - cached) * self.input + cached * cached_price + usage.output_tokens * self.output
        return total / _MILLION

    @property
    def _closeness(self) -> tuple[bool, bool, int, date]:
        """What fits more closely is greater: this provider, the whole name, the longer beginning, the later day."""
        return (self.provider != "*", not self.model.endswith("*"), len(self.model), self.valid_from)


@dataclass(frozen=True, slots=True)
class Models:
    """Providers by name, and all prices."""

    providers: Mapping[str, Provider]
    prices: Sequence[Price]

    def named(self, name: str) -> ModelName:
        """What an agent's name of a model means."""
        return read_name(name, self.providers)

    def price_of(self, name: ModelName, day: date | None = None) -> Price | None:
        """The price that counts on this day (now); None when nobody has set one."""
        day = day or datetime.now(UTC).date()
        fitting = [price for price in self.prices if price.valid_from <= day and price.fits(name)]
        return max(fitting, key=lambda price: price._closeness, default=None)


NOTHING_KNOWN = Models({}, ())


class ModelCatalogue:
    """Hands out what is known of providers and prices."""

    def __init__(self, database: Database, *, max_age_seconds: float = 1.0) -> None:
        self._database = database
        self._max_age = max_age_seconds
        self._models = NOTHING_KNOWN
        self._read_at = float("-inf")
        self._lock = asyncio.Lock()

    async def models(self) -> Models:
        """As they are, or were within the last second."""
        if time.monotonic() - self._read_at >= self._max_age:
            async with self._lock:
                if time.monotonic() - self._read_at >= self._max_age:
                    self._models = await self._read()
                    self._read_at = time.monotonic()
        return self._models

    async def _read(self) -> Models:
        async with self._database.connection() as connection, connection.pipeline():
            providers = await connection.execute(_PROVIDERS)
            prices = await connection.execute(_PRICES)
            await connection.commit()
            found = [Provider(*row) for row in await providers.fetchall()]
            return Models({row.name: row for row in found}, [Price(*row) for row in await prices.fetchall()])


_PROVIDERS = """
SELECT name, base_url, credential, enabled, first_token_seconds, idle_seconds FROM orchestration_modelprovider
"""
_PRICES = """
SELECT provider, model, valid_from, input_price, output_price, cached_input_price FROM orchestration_modelprice
"""
