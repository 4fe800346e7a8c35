"""Who has handed a task on so far: it goes along in each message's metadata, so that agents that ask each other in circles stop.

An agent of this installation is named `<installation>/<slug>`; the installation's part is derived from its key and says nothing of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings

METADATA_KEY: Final = "agentbackend/hops"
"""In the metadata of a message: the list of the agents that handed the task on, the first one first."""
PROPS_KEY: Final = "a2aHops"
"""In `forwardedProps` of the run that an inbound task starts: the same list."""

MAX_LISTED: Final = 64
_MAX_NAME = 128

Hops = tuple[str, ...]


def read_hops(metadata: object) -> Hops:
    """The agents that a message's metadata (a plain JSON object) names; anything that is no such list counts as none.

    A message without them comes from somebody who does not count; so it begins a chain.
    """
    return _listed(metadata, METADATA_KEY)


def hops_of_run(forwarded_props: object) -> Hops:
    """The same of a run that an inbound task started; none for all other runs."""
    return _listed(forwarded_props, PROPS_KEY)


def as_metadata(hops: Hops) -> dict[str, Any]:
    """What goes into an outgoing message's metadata."""
    return {METADATA_KEY: list(hops)}


def as_props(hops: Hops) -> dict[str, Any]:
    """What goes into the `forwardedProps` of a run that an inbound task starts."""
    return {PROPS_KEY: list(hops)}


def own_name(slug: str) -> str:
    """What an agent of this installation is called in the list."""
    key = settings.SECRET_KEY.encode()
    return f"{hmac.new(key, b'a2a hops', hashlib.sha256).hexdigest()[:16]}/{slug}"


def refusal_inbound(hops: Hops) -> str:
    """Why a task that came this way is not taken; empty when it is."""
    if len(hops) > settings.A2A_MAX_HOPS:
        return f"The task was handed on {len(hops)} times; {settings.A2A_MAX_HOPS} are allowed."
    return ""


def refusal_outbound(hops: Hops, slug: str) -> str:
    """Why an agent of this installation may not hand a task on that came to it this way; empty when it may."""
    if own_name(slug) in hops:
        return "This task has come back to an agent that handed it on before: agents ask each other in a circle."
    if len(hops) >= settings.A2A_MAX_HOPS:
        return f"The task was handed on {len(hops)} times, which is as often as it may be."
    return ""


def handed_on(hops: Hops, slug: str) -> Hops:
    """The list with this installation's agent at its end."""
    return (*hops, own_name(slug))


def _listed(holder: object, key: str) -> Hops:
    found = holder.get(key) if isinstance(holder, Mapping) else None
    if not isinstance(found, list | tuple):
        return ()
    return tuple(str(name)[:_MAX_NAME] for name in found[:MAX_LISTED])
