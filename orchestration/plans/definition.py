"""The built-in tool by which a model hands in a plan, as the model is shown it."""

from __future__ import annotations

from typing import Any, Final

MAKE_PLAN: Final = "make_plan"
MAX_STEPS: Final = 30
STEP_ID: Final = r"^[A-Za-z0-9_-]{1,40}$"
MAX_GOAL_LENGTH: Final = 1000
MAX_PURPOSE_LENGTH: Final = 300

DESCRIPTION: Final = (
    "Carries out several tool calls that belong together: give all steps at once. Steps that do not depend on each other run side by "
    'side. Where an argument is the result of another step, write {"$from": "its id", "path": "/a/b"} in the argument\'s place; path '
    "is a JSON Pointer into that result, leave it out for the whole result. The plan is checked before anything runs. You get the "
    "result of every step back, and may then answer, or make another plan: it may refer to finished steps of the one before by "
    "their ids, so never repeat what is done. For a single call, call the tool itself."
)

SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "goal": {"type": "string", "maxLength": MAX_GOAL_LENGTH, "description": "What the plan is for, in a sentence"},
        "steps": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_STEPS,
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string", "pattern": STEP_ID, "description": "A short name, each once: w1"},
                    "tool": {"type": "string", "description": "The name of one of your tools"},
                    "arguments": {
                        "type": "object",
                        "description": "The tool's arguments, or references in their places",
                    },
                    "after": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "Ids of steps that must be done first though nothing refers to their results",
                    },
                    "purpose": {"type": "string", "maxLength": MAX_PURPOSE_LENGTH, "description": "For the user: why"},
                },
                "required": ["id", "tool"],
                "additionalProperties": False,
            },
        },
    },
    "required": ["steps"],
    "additionalProperties": False,
}
