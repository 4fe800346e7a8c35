"""The form in which an agent's model answers: calling tools by itself or in prompted JSON, freely or to an output schema."""

from __future__ import annotations

from orchestration.agents import AgentProfile
from orchestration.model_port import ModelPort
from orchestration.prompted_json.port import PromptedJson
from orchestration.structured_answers import OutputSchema, StructuredAnswers

PROMPTED_JSON = "prompted_json"
MAX_CORRECTIONS = 2
"""How often in a row a model may mend an answer that has not the form that was asked for."""


def port_for(agent: AgentProfile, port: ModelPort) -> ModelPort:
    """The port through which a run of this agent asks its model."""
    schema = OutputSchema(agent.output_schema) if agent.output_schema else None
    if agent.prompting == PROMPTED_JSON:
        return PromptedJson(port, schema)
    return StructuredAnswers(port, schema) if schema is not None else port
