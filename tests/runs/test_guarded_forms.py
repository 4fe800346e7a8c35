"""Guardrail policies bind what is stored of a model's words though nobody is shown it: answers to be mended, and summaries."""

from __future__ import annotations

import json
from collections.abc import Iterator
from uuid import uuid4

import psycopg
import pytest
from django.db import transaction

from tests.guardrail_support import a_word, escaped, make_policy, places_of, remove_policies
from tests.running_service import Caller, RunningService, run_input
from tests.runs.support import Stored, events, eventually

SCHEMA = {"type": "object", "properties": {"said": {"type": "string"}, "score": {"minimum": 3}}, "required": ["score"]}


@pytest.fixture(scope="module")
def words() -> Iterator[dict[str, tuple[str, str]]]:
    """By action: a word that the output may not have, and the name of the policy."""
    with transaction.atomic():
        made = {action: a_word() for action in ("block", "redact")}
        policies = {action: (word, make_policy(action, "output", words=[word])) for action, word in made.items()}
    yield policies
    with transaction.atomic():
        remove_policies([name for _, name in policies.values()])


def made_agent(
    service: RunningService, connection: psycopg.Connection, policy: str, schema: object = None, budget: int = 12000
) -> str:
    slug = f"guarded-{uuid4().hex[:8]}"
    connection.execute(
        "INSERT INTO orchestration_agent (id, slug, name, prompting, guardrails, output_schema, history_token_budget) "
        "VALUES (gen_random_uuid(), %s, %s, 'prompted_json', %s, %s, %s)",
        (slug, slug, [policy], None if schema is None else json.dumps(schema), budget),
    )
    with service.client(Caller()) as client:
        eventually(lambda: slug in client.get("/ag-ui/info").json()["agents"], "the agent is known")
    return slug


@pytest.mark.parametrize("action", ["block", "redact"])
def test_an_answer_that_is_to_be_mended_is_stored_without_what_is_forbidden(
    service: RunningService,
    superuser_connection: psycopg.Connection,
    stored: Stored,
    words: dict[str, tuple[str, str]],
    action: str,
) -> None:
    word, policy = words[action]
    agent = made_agent(service, superuser_connection, policy, SCHEMA)
    wish = run_input(f'demo: structured {{"said": "{escaped(word)}", "score": 1}}')
    frames = service.stream(Caller(), "POST", f"/ag-ui/agent/{agent}/run", json=wish)
    assert events(frames, "RUN_ERROR")[0]["code"] == "invalid_structured_answer"
    assert stored.run(wish["runId"])["model_turns"] == 3
    assert places_of(superuser_connection, word) == []


@pytest.mark.parametrize("between", ["\n", "\t", "\x01"])
@pytest.mark.parametrize("action", ["block", "redact"])
def test_the_value_of_a_structured_answer_holds_nothing_that_json_hides(
    service: RunningService, superuser_connection: psycopg.Connection, action: str, between: str
) -> None:
    first, second = a_word(), a_word()
    with transaction.atomic():
        policy = make_policy(action, "output", words=[f"{first} {second}", first + second])
    schema = {"type": "object", "properties": {"said": {"type": "string"}}, "required": ["said"]}
    agent = made_agent(service, superuser_connection, policy, schema)

    def answered() -> dict[str, object]:
        wish = f'demo: structured {{"said": "{escaped(first + between + second)}"}}'
        end = service.post_run(Caller(), wish, path=f"/ag-ui/agent/{agent}/run")[-1].event
        result: dict[str, object] = end["result"]
        return result

    if action == "block":
        eventually(lambda: answered().get("stopped") == "guardrail", "the answer is stopped")
    else:
        eventually(lambda: answered() == {"answer": {"said": "[removed]"}}, "the answer is masked and still a value")
    with transaction.atomic():
        remove_policies([policy])


def test_a_summary_holds_nothing_that_is_forbidden(
    service: RunningService,
    superuser_connection: psycopg.Connection,
    stored: Stored,
    words: dict[str, tuple[str, str]],
) -> None:
    word, policy = words["redact"]
    agent = made_agent(service, superuser_connection, policy, budget=300)
    thread_id, caller = str(uuid4()), Caller()
    for said in (f"My dog is called {word} and my cat Tom", "more " * 150, "and more " * 150):
        service.post_run(caller, said, path=f"/ag-ui/agent/{agent}/run", threadId=thread_id)
    [summary, *_] = eventually(
        lambda: stored.values(
            "SELECT s.text FROM orchestration_conversationsummary s JOIN orchestration_thread t ON t.id = s.thread_id "
            "WHERE t.public_id = %s",
            thread_id,
        ),
        "the thread is summarised",
    )
    assert "my cat Tom" in summary
    assert word not in summary
