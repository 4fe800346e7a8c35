"""Notes of the note tools: a title and a text, seen by their owner only."""

from __future__ import annotations

from dataclasses import dataclass

from django.db import models
from django.db.models.functions import Lower, Now

from agentbackend.foundation.database import Database
from agentbackend.foundation.identifiers import uuid7
from audit.actor import DEFAULT_TENANT, Actor

MAX_TITLE_LENGTH = 200
MAX_CONTENT_LENGTH = 16_000
MAX_NOTES_PER_OWNER = 1000


class NoteQuerySet(models.QuerySet):  # type: ignore[type-arg]
    """Notes; every read for a caller begins with `visible_to`."""

    def visible_to(self, actor: Actor) -> NoteQuerySet:
        """What this caller owns."""
        return self.filter(tenant=actor.tenant, owner_id=actor.id)


class Note(models.Model):
    """Something that a person asked an agent to keep. Titles are compared without regard to case."""

    id = models.UUIDField(primary_key=True, default=uuid7, editable=False)
    tenant = models.CharField(max_length=64, db_default=DEFAULT_TENANT, default=DEFAULT_TENANT)
    owner_id = models.CharField(max_length=64)
    title = models.CharField(max_length=MAX_TITLE_LENGTH)
    content = models.TextField(max_length=MAX_CONTENT_LENGTH)
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    objects = NoteQuerySet.as_manager()

    class Meta:
        constraints = [
            # also finds a note by its title
            models.UniqueConstraint("tenant", "owner_id", Lower("title"), name="note_title"),
        ]

    def __str__(self) -> str:
        return self.title


class TooManyNotesError(Exception):
    """The owner has as many notes as one may have."""


@dataclass(frozen=True, slots=True)
class StoredNote:
    """A note as the tools read it."""

    title: str
    content: str


async def save_note(database: Database, actor: Actor, title: str, content: str) -> bool:
    """Keep a note; returns whether it took the place of another of this title.

    Saving the same again changes nothing, so an interrupted call can be repeated. Raises TooManyNotesError.
    """
    row = await database.fetch_one(
        _SAVE,
        {
            "id": uuid7(),
            "tenant": actor.tenant,
            "owner": actor.id,
            "title": title,
            "content": content,
            "limit": MAX_NOTES_PER_OWNER,
        },
    )
    if row is None:
        raise TooManyNotesError(f"{MAX_NOTES_PER_OWNER} notes are kept already")
    return bool(row[0])


async def find_note(database: Database, actor: Actor, title: str) -> StoredNote | None:
    """The caller's note of this title, if there is one."""
    row = await database.fetch_one(_FIND, (actor.tenant, actor.id, title))
    return StoredNote(*row) if row else None


async def note_titles(database: Database, actor: Actor, limit: int = 20) -> list[str]:
    """Titles of the caller's notes, the one changed last first."""
    rows = await database.fetch_all(_TITLES, (actor.tenant, actor.id, limit))
    return [row[0] for row in rows]


# A note that exists may be replaced however many there are. `xmax` of a row just inserted is 0.
_SAVE = """
WITH given AS (SELECT %(tenant)s::text AS tenant, %(owner)s::text AS owner_id, %(title)s::text AS title),
     own AS (SELECT note.title FROM tools_note AS note JOIN given USING (tenant, owner_id))
INSERT INTO tools_note AS note (id, tenant, owner_id, title, content)
SELECT %(id)s, given.tenant, given.owner_id, given.title, %(content)s
FROM given
WHERE (SELECT count(*) FROM own) < %(limit)s
   OR EXISTS (SELECT FROM own WHERE lower(own.title) = lower(given.title))
ON CONFLICT (tenant, owner_id, lower(title))
DO UPDATE SET title = excluded.title, content = excluded.content, updated_at = now()
RETURNING xmax <> 0
"""
_FIND = """
SELECT title, content FROM tools_note WHERE tenant = %s AND owner_id = %s AND lower(title) = lower(%s)
"""
_TITLES = """
SELECT title FROM tools_note WHERE tenant = %s AND owner_id = %s ORDER BY updated_at DESC LIMIT %s
"""
