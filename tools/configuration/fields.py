"""The fields of each kind, described: for the JSON Schema of the files and for the documentation.

Types and defaults are the kinds' own; meanings, choices and bounds are those of the models that hold the values.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import FieldDoesNotExist
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from tools.configuration.kinds import configuration_of, fields_of
from tools.documents import DocumentKind

_LARGEST_COLUMN: Final = 2**31 - 1  # what a column of whole numbers holds; nobody means it as a bound


@dataclass(frozen=True, slots=True)
class FieldDescription:
    """One field of a spec. `default` is `...` where it must be given."""

    name: str
    type: type
    default: Any
    meaning: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    max_length: int | None = None
    pattern: str = ""
    may_be_empty: bool = True
    items: FieldDescription | None = None

    @property
    def is_required(self) -> bool:
        """Whether it must be given."""
        return self.default is ...

    @property
    def is_nullable(self) -> bool:
        """Whether it may be null."""
        return self.default is None


def described_fields(kind: DocumentKind) -> list[FieldDescription]:
    """All fields of the kind, in their order."""
    configuration = configuration_of(kind)
    described = []
    for name, (kind_of, default) in fields_of(kind).items():
        column = _column(configuration.models, configuration.columns.get(name, name))
        described.append(_described(name, kind_of, default, configuration.meanings.get(name, ""), column))
    return described


def _column(owners: tuple[type[models.Model], ...], name: str) -> Any:
    for owner in owners:
        try:
            return owner._meta.get_field(name)
        except FieldDoesNotExist:
            continue
    return None


def _described(name: str, kind_of: type, default: Any, meaning: str, column: Any) -> FieldDescription:
    numbers = kind_of in (int, float)
    items = getattr(column, "base_field", None) if kind_of is list else None
    return FieldDescription(
        name=name,
        type=kind_of,
        default=default,
        meaning=meaning or str(getattr(column, "help_text", "")),
        choices=tuple(str(value) for value, _ in getattr(column, "choices", None) or ()),
        minimum=_bound(column, MinValueValidator) if numbers else None,
        maximum=_bound(column, MaxValueValidator) if numbers else None,
        max_length=getattr(column, "max_length", None) if kind_of is str else None,
        pattern=next(_patterns(column), "") if kind_of is str else "",
        may_be_empty=bool(getattr(column, "blank", True)),
        items=_described(name, str, ..., "", items) if items is not None else None,
    )


def _validators(column: Any) -> list[Any]:
    return list(getattr(column, "validators", ()))


def _bound(column: Any, validator: type[MinValueValidator] | type[MaxValueValidator]) -> float | None:
    limits = [found.limit_value for found in _validators(column) if isinstance(found, validator)]
    limits = [limit for limit in limits if not callable(limit) and abs(limit) < _LARGEST_COLUMN]
    if not limits:
        return None
    return float(max(limits) if validator is MinValueValidator else min(limits))


def _patterns(column: Any) -> Iterator[str]:
    for found in _validators(column):
        if isinstance(found, RegexValidator):
            yield str(getattr(found.regex, "pattern", found.regex))
