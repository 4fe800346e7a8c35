"""Notes: a person's own, kept under a title and found by it."""

from __future__ import annotations

from typing import Annotated, Any

from agentbackend.foundation.database import database
from tools.calls import FailureKind, SideEffects
from tools.invocation import ToolError, ToolInvocation
from tools.notes import (
    MAX_CONTENT_LENGTH,
    MAX_TITLE_LENGTH,
    TooManyNotesError,
    find_note,
    note_titles,
    save_note,
)
from tools.python_functions import tool_function

Title = Annotated[str, {"description": "Title of the note", "minLength": 1, "maxLength": MAX_TITLE_LENGTH}]
Content = Annotated[str, {"description": "Text of the note", "minLength": 1, "maxLength": MAX_CONTENT_LENGTH}]


@tool_function(
    "add_note_tool",
    title="Add a note",
    description="""
        Keeps a note for the user under a title. A note of the same title is replaced: read it first when its
        content should stay.
        """,
    side_effects=SideEffects.KEYED,
    timeout_seconds=10,
)
async def add_note(title: Title, content: Content, *, invocation: ToolInvocation) -> dict[str, Any]:
    """Keep a note of the caller's."""
    wanted = _title(title)
    try:
        replaced = await save_note(database, invocation.actor, wanted, content)
    except TooManyNotesError as error:
        raise ToolError(f"The note was not kept: {error}, which is as many as one person may have.") from error
    return {"title": wanted, "saved": True, "replaced": replaced}


@tool_function(
    "get_note_tool",
    title="Read a note",
    description="Reads one of the user's notes by its title.",
    side_effects=SideEffects.IDEMPOTENT,
    timeout_seconds=10,
    max_retries=1,
)
async def get_note(title: Title, *, invocation: ToolInvocation) -> dict[str, Any]:
    """Find a note of the caller's; raises ToolError that names the titles there are."""
    note = await find_note(database, invocation.actor, _title(title))
    if note is None:
        raise ToolError(await _not_found(title, invocation), kind=FailureKind.NOT_FOUND)
    return {"title": note.title, "content": note.content}


def _title(text: str) -> str:
    title = " ".join(text.split())
    if not title:
        raise ToolError("A note needs a title that is more than white space.", kind=FailureKind.BAD_ARGUMENTS)
    return title


async def _not_found(title: str, invocation: ToolInvocation) -> str:
    titles = await note_titles(database, invocation.actor)
    known = "The user's notes are: " + ", ".join(repr(known) for known in titles) if titles else "The user has no notes"
    return f"There is no note with the title {title!r}. {known}."
