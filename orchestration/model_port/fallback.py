"""Asking several models in turn: the next one when the one before failed before its first byte, and never after that."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from orchestration.model_port import Finished, ModelError, ModelEvent, ModelPort, ModelRequest
from orchestration.model_port.circuit import Circuit, circuit

logger = logging.getLogger(__name__)

_FINAL = frozenset({"model_content_filter"})
"""What another model would have to be asked to get round."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A model that did not answer: the code of its failure. `skipped`: others went first, because it failed lately."""

    model: str
    code: str
    skipped: bool = False


@dataclass(slots=True)
class Answer:
    """An answer that has begun: whose it is, who failed before, and what comes of it."""

    model: str
    failures: list[Failure]
    batches: AsyncIterator[list[ModelEvent]] = field(repr=False)


@asynccontextmanager
async def first_answer(
    port: ModelPort,
    request: ModelRequest,
    models: Sequence[str],
    *,
    without_media: ModelRequest | None = None,
    failures: list[Failure] | None = None,
    remembered: Circuit = circuit,
) -> AsyncIterator[Answer]:
    """The answer of the first of these models that gives one to the request; `request.model` is not used.

    `without_media` is the same request for a model that refuses media. `failures` is filled as they happen, also when nobody answers:
    then the first ModelError that may pass is raised, else the last.
    """
    failed = [] if failures is None else failures
    order = remembered.in_order(models)
    failed += [Failure(m, remembered.last_code(m), skipped=True) for m in models[:1] if order[0] != m]
    errors: list[ModelError] = []
    for model in order:
        is_last = model is order[-1]
        for attempt in filter(None, (request, without_media)):
            begun = False
            try:
                async with port.stream(replace(attempt, model=model, may_be_slow=is_last)) as batches:
                    first: list[ModelEvent] = await anext(batches, [])
                    if not is_last and _is_empty(first):
                        raise ModelError("model_invalid_response", "The model gave an empty answer.")
                    begun = True
                    remembered.answered(model)
                    async with aclosing(_from(first, batches)) as whole:
                        yield Answer(model, failed, whole)
                    return
            except ModelError as error:
                if begun or error.code in _FINAL:
                    raise
                if error.code == "model_refused" and attempt is request and without_media is not None:
                    logger.info("the model refused the request; trying again without media")
                    continue
                remembered.failed(model, error.code, error.retry_after)
                errors.append(error)
                failed.append(Failure(model, error.code))
                break
    raise next((error for error in errors if error.retryable), errors[-1])


def _is_empty(batch: list[ModelEvent]) -> bool:
    """Whether the answer ended before it had begun. What was withheld is an answer."""
    return all(isinstance(event, Finished) and event.reason != "content_filter" for event in batch)


async def _from(
    first: list[ModelEvent], rest: AsyncIterator[list[ModelEvent]]
) -> AsyncGenerator[list[ModelEvent], None]:
    yield first
    async for batch in rest:
        yield batch
