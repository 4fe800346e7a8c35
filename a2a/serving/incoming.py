"""A caller's message, checked: what the agent is told of it, and which open questions it answers.

An answer to a question is a data part `{"approved": true}` (for all that are open, with what else their schema allows),
`{"answers": {"<interrupt id>": true}}` (for each), or a text that is no more than yes or no. Any other message says no to every
open question and is told to the agent, as in a thread.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from a2a.run_port import Answer
from a2a.tasks import Document, Fault, TaskError
from agentbackend.foundation.identifiers import is_public_id

INPUT_MODES: Final = ("text/plain", "application/json")
MAX_PARTS: Final = 50
MAX_CHARACTERS: Final = 100_000
_MAX_ID: Final = 200

_YES: Final = frozenset({"yes", "y", "ok", "okay", "approve", "approved", "true"})
_NO: Final = frozenset({"no", "n", "decline", "declined", "deny", "denied", "reject", "rejected", "false"})


@dataclass(frozen=True, slots=True)
class Incoming:
    """A checked message. `document`: as the task's history keeps it. `text`: what the agent is told."""

    message_id: str
    task_id: str
    context_id: str
    text: str
    document: Document
    data: tuple[Any, ...]
    metadata: Document

    @property
    def key(self) -> str:
        """Names the message with what it says and where it belongs: the same when it is sent again."""
        said = {**self.document, "contextId": self.context_id}
        return hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def is_in(self, history: Sequence[Document]) -> bool:
        """Whether a task has had it."""
        return any(all(said.get(name) == value for name, value in self.document.items()) for said in history)

    def answers(self, questions: Sequence[Document]) -> tuple[Answer, ...]:
        """What it says to the open questions; nothing when it is none of the forms of an answer."""
        ids = [str(question["id"]) for question in questions]
        for data in self.data:
            if not isinstance(data, dict):
                continue
            if isinstance(data.get("approved"), bool):
                return tuple(Answer(key, data) for key in ids)
            if isinstance(data.get("answers"), dict):
                return _each(ids, data["answers"])
        said = self.text.strip().rstrip(".!").lower() if not self.data else ""
        if said in _YES or said in _NO:
            return tuple(Answer(key, {"approved": said in _YES}) for key in ids)
        return ()


def _each(ids: Sequence[str], given: dict[str, Any]) -> tuple[Answer, ...]:
    payloads = {key: {"approved": value} if isinstance(value, bool) else value for key, value in given.items()}
    if set(payloads) != set(ids) or not all(isinstance(payload, dict) for payload in payloads.values()):
        raise TaskError(Fault.INVALID_PARAMS, f"Expected an answer to each open question: {', '.join(ids)}.")
    return tuple(Answer(key, payloads[key]) for key in ids)


def read_message(document: Document, *, takes_files: bool = False) -> Incoming:
    """Check a message (a document of the protocol); raises TaskError that names what cannot be taken.

    Our agents take no files: they could do nothing with them.
    """
    message_id = str(document.get("messageId", ""))
    if not message_id or len(message_id) > _MAX_ID:
        raise TaskError(Fault.INVALID_PARAMS, f"message.messageId: expected 1 to {_MAX_ID} characters.")
    if document.get("role") == "ROLE_AGENT":
        raise TaskError(Fault.INVALID_PARAMS, "message.role: a caller speaks as ROLE_USER.")
    context_id, task_id = str(document.get("contextId", "")), str(document.get("taskId", ""))
    for name, value in (("contextId", context_id), ("taskId", task_id)):
        if value and not is_public_id(value):
            raise TaskError(Fault.INVALID_PARAMS, f"message.{name}: expected 1 to 128 visible ASCII characters.")
    parts = document.get("parts") or []
    if not parts or len(parts) > MAX_PARTS:
        raise TaskError(Fault.INVALID_PARAMS, f"message.parts: expected 1 to {MAX_PARTS} parts.")
    texts = [_text(part, f"message.parts[{index}]", takes_files) for index, part in enumerate(parts)]
    text = "\n\n".join(text for text in texts if text)
    if len(text) > MAX_CHARACTERS:
        raise TaskError(Fault.INVALID_PARAMS, f"message.parts: at most {MAX_CHARACTERS} characters are taken.")
    if not text.strip():
        raise TaskError(Fault.INVALID_PARAMS, "message.parts: the message is empty.")
    metadata = document.get("metadata")
    kept = {name: value for name, value in document.items() if name in ("messageId", "parts")}
    return Incoming(
        message_id=message_id,
        task_id=task_id,
        context_id=context_id,
        text=text,
        document={**kept, "role": "ROLE_USER"},
        data=tuple(part["data"] for part in parts if "data" in part),
        metadata=metadata if isinstance(metadata, dict) else {},
    )


def _text(part: Document, where: str, takes_files: bool) -> str:
    """What the agent is told of a part."""
    media_type = str(part.get("mediaType", "")).split(";")[0].strip().lower()
    if "data" in part:
        if media_type not in ("", "application/json"):
            raise _unsupported(where, f"data of the type {media_type[:80]!r} is not taken")
        return _plain(orjson.dumps(part["data"]).decode(), where)
    if "text" in part:
        if media_type and not media_type.startswith("text/") and media_type != "application/json":
            raise _unsupported(where, f"text of the type {media_type[:80]!r} is not taken")
        return _plain(str(part["text"]), where)
    if takes_files and {"url", "raw"} & part.keys():
        return "(a file)"
    kind = "a file given by its address (url)" if "url" in part else "a file given by its bytes (raw)"
    raise _unsupported(where, f"{kind} is not taken" if {"url", "raw"} & part.keys() else "the part is empty")


def _unsupported(where: str, what: str) -> TaskError:
    return TaskError(
        Fault.CONTENT_TYPE_NOT_SUPPORTED, f"{where}: {what}; this agent takes text parts and data parts (JSON)."
    )


def _plain(text: str, where: str) -> str:
    if "\x00" in text or "\\u0000" in text.replace("\\\\", ""):
        raise TaskError(Fault.INVALID_PARAMS, f"{where}: NUL characters are not accepted.")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise TaskError(Fault.INVALID_PARAMS, f"{where}: lone surrogates are not accepted.")
    return text
