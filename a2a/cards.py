"""The cards of our agents: what others are told of them, as documents of the specification (section 4.4, `AgentCard`)."""

from __future__ import annotations

from typing import Any, Final

from a2a.run_port import ExposedAgent
from a2a.serving.incoming import INPUT_MODES
from a2a.tasks import Document
from agentbackend.foundation.identifiers import is_public_id
from agentbackend.foundation.release import VERSION

CARD_PATH: Final = "/.well-known/agent-card.json"
KEY_SET_PATH: Final = "/.well-known/jwks.json"
PREFIX: Final = "/a2a/"
MAX_SKILLS: Final = 50
MAX_SKILL_TEXT: Final = 1000
MAX_LISTED: Final = 20

_SKILL_TEXTS: Final = ("name", "description")
_SKILL_LISTS: Final = ("tags", "examples")


def address_of(base: str, slug: str) -> str:
    """Where an agent is served."""
    return f"{base}{PREFIX}{slug}"


def card_of(agent: ExposedAgent, base: str, *, extended: bool = False) -> Document:
    """An agent's card, unsigned. The extended one, for callers who are known, tells what its answers look like, too."""
    url = address_of(base, agent.slug)
    interfaces = [
        {"url": url, "protocolBinding": binding, "protocolVersion": "1.0"} for binding in ("JSONRPC", "HTTP+JSON")
    ]
    card: Document = {
        "name": agent.name,
        "description": agent.description or agent.name,
        "version": VERSION,
        "supportedInterfaces": interfaces,
        "capabilities": {"streaming": True, "pushNotifications": True, "extendedAgentCard": True},
        "securitySchemes": {
            "bearer": {
                "httpAuthSecurityScheme": {"scheme": "Bearer", "bearerFormat": "JWT", "description": _HOW_TO_LOG_IN}
            }
        },
        "securityRequirements": [{"schemes": {"bearer": {}}}],
        "defaultInputModes": list(INPUT_MODES),
        "defaultOutputModes": ["text/plain", "application/json"] if agent.answers_in_json else ["text/plain"],
        "skills": [_skill(skill) for skill in agent.skills] or [_only_skill(agent)],
    }
    if extended:
        modes = {"inputModes": list(INPUT_MODES), "outputModes": card["defaultOutputModes"]}
        card["skills"] = [{**skill, **modes} for skill in card["skills"]]
    return card


_HOW_TO_LOG_IN = "The caller's access token, as for every other address of this service."


def skill_problems(skills: dict[str, Any]) -> list[str]:
    """What is wrong with an agent's skills (by id), for whoever writes them."""
    if len(skills) > MAX_SKILLS:
        return [f"At most {MAX_SKILLS} skills are taken."]
    return [problem for key, skill in skills.items() if (problem := _problem(key, skill))]


def _problem(key: str, skill: Any) -> str:
    if not is_public_id(key):
        return "A skill's id is 1 to 128 visible ASCII characters."
    if not isinstance(skill, dict):
        return f"{key}: expected an object with name and description."
    if unknown := skill.keys() - {*_SKILL_TEXTS, *_SKILL_LISTS}:
        return f"{key}: there is no field {min(unknown)!r}; the fields are {', '.join((*_SKILL_TEXTS, *_SKILL_LISTS))}."
    for name in _SKILL_TEXTS:
        value = skill.get(name)
        if not isinstance(value, str) or not value.strip() or len(value) > MAX_SKILL_TEXT:
            return f"{key}: {name} must be a text of 1 to {MAX_SKILL_TEXT} characters."
    for name in _SKILL_LISTS:
        values = skill.get(name, [])
        if not isinstance(values, list) or len(values) > MAX_LISTED or not all(_is_short(value) for value in values):
            return f"{key}: {name} must be a list of at most {MAX_LISTED} texts of at most {MAX_SKILL_TEXT} characters."
    return ""


def _is_short(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_SKILL_TEXT


def _skill(skill: Document) -> Document:
    return {"tags": [], **skill}


def _only_skill(agent: ExposedAgent) -> Document:
    """A card needs a skill: of an agent that names none, what it is."""
    return {"id": agent.slug, "name": agent.name, "description": agent.description or agent.name, "tags": ["chat"]}
