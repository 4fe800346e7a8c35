"""The model-based check: any OpenAI-compatible moderation endpoint (`POST {url}/moderations`), asked about whole texts.

A text is sent with `{"input": ..., "model": ...}`; the answer's `results[0]` has `flagged`, `categories` and `category_scores`. Requests
go through the guarded outbound client. What was found about a text is kept for a short while, by its digest, in this process only.
A judgement that cannot be had is the policy's to decide: it blocks (the default) or lets pass, and either is said.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import httpx
import orjson

from agentbackend.foundation import metrics
from agentbackend.foundation.outbound import OutboundError, read_bounded
from tools import credentials as tool_credentials
from tools.addresses import address_problem
from tools.credentials import MissingCredentialError, name_problem
from tools.governance.guardrails.policy import Policy
from tools.http_endpoint.sending import shared_client
from tools.vault import Sealed

logger = logging.getLogger(__name__)

KEPT_SECONDS: Final = 60.0
MOST_KEPT: Final = 2000
MAX_ANSWER_BYTES: Final = 256 * 1024
DEFAULT_SECONDS: Final = 5.0
MAX_TEXT_CHARACTERS: Final = 32_000
"""Of one request; a longer text is judged in parts of this size."""
_OVERLAP_CHARACTERS = 200
_FIELDS: dict[str, tuple[type, ...]] = {
    "url": (str,), "model": (str,), "credential": (str,), "categories": (list,), "threshold": (int, float),
    "timeout_seconds": (int, float), "on_failure": (str,), "mode": (str,),
}  # fmt: skip


class OnFailure(StrEnum):
    """What becomes of a text that cannot be judged."""

    BLOCK = "block"
    ALLOW = "allow"


class Mode(StrEnum):
    """How far an agent's answer is held back for the judgement."""

    FINAL = "final"
    SENTENCES = "sentences"


@dataclass(frozen=True, slots=True)
class ModerationSettings:
    """What a policy of the kind `model` says of its endpoint."""

    url: str
    model: str = ""
    credential: str = ""
    categories: tuple[str, ...] = ()
    threshold: float | None = None
    timeout_seconds: float = DEFAULT_SECONDS
    on_failure: OnFailure = OnFailure.BLOCK
    mode: Mode = Mode.FINAL

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> ModerationSettings:
        """Read them; raises KeyError, TypeError or ValueError for what `settings_problem` would have refused."""
        threshold = settings.get("threshold")
        return cls(
            url=str(settings["url"]),
            model=str(settings.get("model", "")),
            credential=str(settings.get("credential", "")),
            categories=tuple(settings.get("categories") or ()),
            threshold=None if threshold is None else float(threshold),
            timeout_seconds=float(settings.get("timeout_seconds", DEFAULT_SECONDS)),
            on_failure=OnFailure(settings.get("on_failure", OnFailure.BLOCK)),
            mode=Mode(settings.get("mode", Mode.FINAL)),
        )


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the endpoint said of a text: the category it objects to (empty: none). `failed`: it said nothing usable."""

    category: str = ""
    failed: bool = False


def moderation_problems(settings: Mapping[str, Any]) -> dict[str, str]:
    """Why these settings cannot be used, by setting; empty when they can."""
    if unknown := sorted(set(settings) - set(_FIELDS)):
        return {unknown[0]: f"There is no such setting; the settings are {', '.join(_FIELDS)}."}
    for name, kind in _FIELDS.items():
        value = settings.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            return {name: "This is of the wrong type."}
    found = {"url": address_problem(str(settings.get("url", "")))}
    credential = settings.get("credential") or ""
    found["credential"] = name_problem(credential) if credential else ""
    return {name: text for name, text in {**found, **_choices(settings)}.items() if text}


def _choices(settings: Mapping[str, Any]) -> dict[str, str]:
    categories = settings.get("categories") or []
    threshold = settings.get("threshold")
    few = len(categories) <= 100 and all(isinstance(item, str) and 0 < len(item) <= 64 for item in categories)
    seconds = settings.get("timeout_seconds") or DEFAULT_SECONDS
    return {
        "categories": "" if few else "At most 100 names.",
        "threshold": "" if threshold is None or 0 < threshold <= 1 else "More than 0, at most 1.",
        "timeout_seconds": "" if 0.1 <= seconds <= 60 else "0.1 to 60 seconds.",
        "on_failure": "" if settings.get("on_failure", OnFailure.BLOCK) in tuple(OnFailure) else "block or allow.",
        "mode": "" if settings.get("mode", Mode.FINAL) in tuple(Mode) else "final or sentences.",
    }


_kept: OrderedDict[tuple[str, bytes], tuple[float, Judgement]] = OrderedDict()


async def judge(policy: Policy, text: str, vault: Mapping[str, Sealed]) -> Judgement:
    """What the policy's endpoint says of a text, within its time. Never raises but for cancellation: what fails is said by `failed`."""
    if not text.strip():
        return Judgement()
    key = (policy.digest, hashlib.sha256(text.encode(errors="replace")).digest())
    found = _kept.get(key)
    if found is not None and found[0] > time.monotonic():
        return found[1]
    try:
        given = ModerationSettings.of(policy.settings)
        async with asyncio.timeout(given.timeout_seconds):
            judgement = await _ask(given, text, vault)
    except (
        MissingCredentialError,
        OutboundError,
        httpx.HTTPError,
        TimeoutError,
        ValueError,
        TypeError,
        KeyError,
    ) as error:
        reason = "timeout" if isinstance(error, TimeoutError | httpx.TimeoutException) else type(error).__name__
        logger.warning(
            "a moderation endpoint did not judge a text",
            extra={"policy": policy.name, "version": policy.version, "reason": reason},
        )
        metrics.guardrail_judgements.labels(policy=policy.name, outcome="failed").inc()
        return Judgement(failed=True)
    metrics.guardrail_judgements.labels(policy=policy.name, outcome="flagged" if judgement.category else "passed").inc()
    _keep(key, judgement)
    return judgement


def blocks_on_failure(policy: Policy) -> bool:
    """Whether a text that could not be judged goes no further."""
    try:
        return ModerationSettings.of(policy.settings).on_failure is OnFailure.BLOCK
    except (KeyError, TypeError, ValueError):
        return True


def holds_sentences(policy: Policy) -> bool:
    """Whether an answer is judged sentence by sentence; otherwise it is held back as a whole."""
    try:
        return ModerationSettings.of(policy.settings).mode is Mode.SENTENCES
    except (KeyError, TypeError, ValueError):
        return False


def _keep(key: tuple[str, bytes], judgement: Judgement) -> None:
    _kept[key] = (time.monotonic() + KEPT_SECONDS, judgement)
    while len(_kept) > MOST_KEPT:
        _kept.popitem(last=False)


async def _ask(given: ModerationSettings, text: str, vault: Mapping[str, Sealed]) -> Judgement:
    step = MAX_TEXT_CHARACTERS - _OVERLAP_CHARACTERS
    for start in range(0, max(1, len(text) - _OVERLAP_CHARACTERS), step):
        category = await _ask_about(given, text[start : start + MAX_TEXT_CHARACTERS], vault)
        if category:
            return Judgement(category)
    return Judgement()


async def _ask_about(given: ModerationSettings, text: str, vault: Mapping[str, Sealed]) -> str:
    client = shared_client()
    headers = {"content-type": "application/json", "accept": "application/json"}
    if given.credential:
        value = tool_credentials.resolve([given.credential], vault)[given.credential]
        headers["authorization"] = f"Bearer {value}"
    document = {"input": text, **({"model": given.model} if given.model else {})}
    timeout = httpx.Timeout(given.timeout_seconds)
    url = f"{given.url.rstrip('/')}/moderations"
    request = client.build_request("POST", url, headers=headers, content=orjson.dumps(document), timeout=timeout)
    response = await client.send(request, stream=True, follow_redirects=False)
    body = await read_bounded(response, MAX_ANSWER_BYTES)
    if response.status_code != 200:
        raise ValueError(f"status {response.status_code}")
    return _objection(given, orjson.loads(body))


def _objection(given: ModerationSettings, answer: Any) -> str:
    """The category that the answer objects to: by its own word, or by score where a threshold is set. Raises for what it cannot be."""
    result = answer["results"][0]
    flagged, categories, scores = result["flagged"], result.get("categories") or {}, result.get("category_scores") or {}
    if not isinstance(flagged, bool) or not isinstance(categories, dict) or not isinstance(scores, dict):
        raise TypeError("an answer of another form")
    if given.threshold is None and not flagged:
        return ""
    if given.threshold is not None:
        found = [name for name, score in scores.items() if float(score) >= given.threshold]
    else:
        found = [name for name, is_so in categories.items() if is_so is True]
    if given.categories:
        found = [name for name in found if name in given.categories]
        return _code(found[0]) if found else ""
    if given.threshold is None and not found:
        return "flagged"
    return _code(found[0]) if found else ""


def _code(category: str) -> str:
    """A category's name as a code: it stands in events and in the audit trail."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-.") else "_" for c in category.lower())
    return plain[:64] or "flagged"
