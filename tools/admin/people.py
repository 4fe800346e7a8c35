"""Who did something, by name: records of the registry hold the ids of actors."""

from __future__ import annotations

from collections.abc import Iterable

from django.contrib.auth.models import User


def usernames(actor_ids: Iterable[str]) -> dict[str, str]:
    """What the console users among these actors are called, by the actors' ids: one query."""
    pairs = (actor_id.partition(":") for actor_id in set(actor_ids))
    keys = [key for prefix, _, key in pairs if prefix == "console" and key.isdecimal()]
    return {f"console:{pk}": name for pk, name in User.objects.filter(pk__in=keys).values_list("pk", "username")}
