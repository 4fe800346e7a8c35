"""The agent that answers on /ag-ui/events in a fresh installation."""

from django.db import migrations

from agentbackend.foundation.identifiers import uuid7

INSTRUCTIONS = (
    "You are a helpful assistant of this organisation. Use the tools you are given when they help; say plainly when a tool failed or "
    "when you do not know. Answer in the user's language, briefly and clearly."
)


def seed(apps, schema_editor):
    agents = apps.get_model("orchestration", "Agent").objects.using(schema_editor.connection.alias)
    if not agents.exists():
        agents.create(
            id=uuid7(),
            slug="assistant",
            name="Assistant",
            description="Answers questions with the organisation's tools.",
            instructions=INSTRUCTIONS,
            is_default=True,
        )


class Migration(migrations.Migration):
    dependencies = [("orchestration", "0001_initial")]
    operations = [migrations.RunPython(seed, migrations.RunPython.noop)]
