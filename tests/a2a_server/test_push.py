"""Push notifications, from services on a database of their own: whoever shares one takes part in delivering what is due."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256
from uuid import uuid4

import jwt
import orjson
import pytest

from agentbackend.development import KEYS
from agentbackend.embedded_postgres.cluster import Cluster
from tests.a2a_server.support import Receiver, SdkClient, said, state
from tests.running_service import Caller, RunningService
from tests.separate_database import SeparateDatabase, separate_database

AGENT = "assistant"
QUESTION = [{"text": "What is 6*7?"}]


@pytest.fixture(scope="module")
def services(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeparateDatabase]:
    settings = {"A2A_SIGNING_KEYS": KEYS["A2A_SIGNING_KEYS"](), "OUTBOUND_ALLOWED_HOSTS": "127.0.0.1"}
    with separate_database(cluster, tmp_path_factory.mktemp("services"), **settings) as made:
        made.connection.execute("UPDATE orchestration_agent SET exposed_over_a2a = true WHERE is_default")
        yield made


@pytest.fixture(scope="module")
def announcing(services: SeparateDatabase) -> RunningService:
    """The one process that delivers."""
    return services.start()


def test_the_end_of_a_task_is_announced_signed_and_again_until_it_is_taken(
    sdk: SdkClient, announcing: RunningService, receiver: Receiver
) -> None:
    receiver.refusals = 1
    config = {"url": receiver.url, "token": "tok", "authentication": {"scheme": "Bearer", "credentials": "cred-1"}}
    [started] = sdk.ask(
        announcing, AGENT, Caller(), "send", parts=QUESTION, streaming=False,
        configuration={"returnImmediately": True, "taskPushNotificationConfig": config},
    )  # fmt: skip
    refused, taken = receiver.next(), receiver.next()
    assert refused[1] == taken[1]
    headers, body = taken
    task = orjson.loads(body)["task"]
    assert (task["id"], state(task), "42" in said([task])) == (started["task"]["id"], "COMPLETED", True)
    assert (headers["authorization"], headers["x-a2a-notification-token"]) == ("Bearer cred-1", "tok")
    with announcing.client() as client:
        [key] = client.get("/.well-known/jwks.json").json()["keys"]
    claims = jwt.decode(headers["x-a2a-notification-signature"], jwt.PyJWK(key), algorithms=["ES256"])
    assert claims["request_body_sha256"] == sha256(body).hexdigest()


def test_secrets_of_push_notifications_are_sealed_and_never_shown(
    sdk: SdkClient, announcing: RunningService, services: SeparateDatabase, receiver: Receiver
) -> None:
    caller, secret = Caller(), f"secret-{uuid4().hex}"
    [answer] = sdk.ask(announcing, AGENT, caller, "send", parts=QUESTION, streaming=False)
    config = {"id": "c1", "url": receiver.url, "authentication": {"scheme": "Bearer", "credentials": secret}}
    [shown] = sdk.ask(announcing, AGENT, caller, "push", task=answer["task"]["id"], config=config)
    assert (shown["id"], shown["authentication"]) == ("c1", {"scheme": "Bearer"})
    assert receiver.next()[0]["authorization"] == f"Bearer {secret}", "a task that has ended is announced at once"
    query = "SELECT c::text FROM a2a_pushconfig c JOIN a2a_task t ON t.id = c.task_id WHERE t.public_id = %s"
    [(row,)] = services.connection.execute(query, (answer["task"]["id"],)).fetchall()
    assert secret not in row
    assert secret.encode().hex() not in row
