"""The form in which an agent's model answers: calling tools by itself or in prompted JSON, freely or to an output schema."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from orchestration.agents import AgentProfile
from orchestration.model_port import ModelPort
from orchestration.model_turn import StreamedTurn
from orchestration.prompted_json.port import PromptedJson
from orchestration.structured_answers import OutputSchema, StructuredAnswers, final_value

PROMPTED_JSON = "prompted_json"


def port_for(agent: AgentProfile, port: ModelPort) -> ModelPort:
    """The port through which a run of this agent asks its model."""
    schema = OutputSchema(agent.output_schema) if agent.output_schema else None
    if agent.prompting == PROMPTED_JSON:
        return PromptedJson(port, schema)
    return StructuredAnswers(port, schema) if schema is not None else port


def result_of(turn: StreamedTurn, agent: AgentProfile) -> dict[str, Any] | None:
    """What RUN_FINISHED tells programs of a final answer: its value, where it has a schema; that it is not whole."""
    result: dict[str, Any] = {}
    if agent.output_schema:
        with suppress(ValueError):  # a text that was redacted may be JSON no more
            result["answer"] = final_value(turn.text)
    if turn.finish_reason == "length":
        result["finishReason"] = "length"
    return result or None
