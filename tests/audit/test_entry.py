"""What an entry holds: envelope v1 and the payload it commits to."""

import hashlib
import hmac
import re
import string
from uuid import UUID, uuid4

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from audit import actions
from audit.actor import SYSTEM, Actor
from audit.entry import AuditEntry, InvalidEntryError, Outcome, Target, entry

ENVELOPE_V1 = {
    "version", "id", "time", "tenant", "actor_id", "actor_kind", "actor_role", "authenticated_by", "on_behalf_of",
    "subject_id", "action", "target_kind", "target_id", "outcome", "reason", "policy_version", "run_id", "thread_id",
    "request_id", "trace_id", "commitment",
}  # fmt: skip

USER = Actor(id=str(uuid4()), email="ada@example.org", authenticated_by="gateway_signature")


def fields_of(made: AuditEntry) -> dict[str, str | int]:
    return orjson.loads(made.envelope)


def test_the_envelope_has_the_fields_of_version_1_whatever_is_left_out():
    bare = fields_of(entry(actions.RUN_STARTED, actor=SYSTEM))
    full = fields_of(
        entry(
            actions.TOOL_DENIED,
            actor=USER,
            outcome=Outcome.DENIED,
            target=Target("tool", "get_weather_tool"),
            subject_id=str(uuid4()),
            reason="role_required",
            policy_version="3",
            run_id=uuid4(),
            thread_id=uuid4(),
            request_id="r-1",
            trace_id="a" * 32,
            details={"location": "London"},
        )
    )

    assert set(bare) == set(full) == ENVELOPE_V1
    assert bare["version"] == full["version"] == 1
    assert not [name for name, value in full.items() if value == "" and name != "on_behalf_of"]


def test_the_time_is_that_of_the_id_in_utc_with_milliseconds():
    made = entry(actions.RUN_STARTED, actor=SYSTEM)
    fields = fields_of(made)

    milliseconds = made.id.int >> 80
    assert UUID(str(fields["id"])).version == 7
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", str(fields["time"]))
    assert str(fields["time"]).endswith(f".{milliseconds % 1000:03d}Z")


text = st.text(max_size=200)
names = st.text(alphabet=string.ascii_lowercase + "_", min_size=1, max_size=20)


@given(actor=text, role=text, tenant=text, target=text, request=text, trace=text, subject=text, policy=text)
def test_the_envelope_is_canonical_json_whatever_identifiers_come_from_outside(
    actor, role, tenant, target, request, trace, subject, policy
):
    made = entry(
        actions.TOOL_CALLED,
        actor=Actor(id=actor, role=role, tenant=tenant),
        target=Target("tool", target),
        request_id=request,
        trace_id=trace,
        subject_id=subject,
        policy_version=policy,
    )

    assert rfc8785.dumps(fields_of(made)) == made.envelope
    assert b"\\u0000" not in made.envelope


@pytest.mark.parametrize(
    "identifier", ["ada@example.org", "two words", 'quo"te', "nul\0", "\ud800", "naïve", "x" * 129, "line\nbreak"]
)
def test_an_identifier_that_does_not_fit_becomes_the_same_digest_each_time(identifier):
    first = fields_of(entry(actions.TOOL_DENIED, actor=USER, target=Target("tool", identifier)))
    again = fields_of(entry(actions.TOOL_DENIED, actor=USER, target=Target("tool", identifier)))
    other = fields_of(entry(actions.TOOL_DENIED, actor=USER, target=Target("tool", identifier + " ")))

    assert re.fullmatch(r"h:[0-9a-f]{32}", str(first["target_id"]))
    assert first["target_id"] == again["target_id"] != other["target_id"]


def test_the_email_of_the_actor_is_not_in_the_envelope():
    assert b"example.org" not in entry(actions.RUN_STARTED, actor=USER).envelope


@pytest.mark.parametrize("reason", ["The user may not", "Ünknown", "x" * 65, "a@b", "nul\0"])
def test_a_reason_that_is_no_code_is_refused(reason):
    with pytest.raises(InvalidEntryError, match="reason"):
        entry(actions.TOOL_DENIED, actor=USER, reason=reason)


@pytest.mark.parametrize("action", ["", "started", "run started", "run.started!", "Run.Started", "a.b.c"])
def test_an_action_that_is_no_code_is_refused(action):
    with pytest.raises(InvalidEntryError, match="action"):
        entry(action, actor=USER)


def test_every_action_of_the_code_can_be_recorded():
    for action in actions.ALL:
        assert fields_of(entry(action, actor=SYSTEM))["action"] == action


def test_the_commitment_is_an_hmac_of_the_payload_under_the_key_beside_it():
    made = entry(actions.TOOL_CALLED, actor=USER, details={"text": "yes"})
    event_id, key, body = made.payload_row

    assert event_id == made.id
    assert len(key) == 32
    assert orjson.loads(body) == {"text": "yes"}
    assert fields_of(made)["commitment"] == hmac.new(key, body, hashlib.sha256).hexdigest()


def test_equal_details_have_different_commitments_so_that_none_can_be_guessed_from_another():
    first, second = (entry(actions.TOOL_CALLED, actor=USER, details={"answer": "yes"}) for _ in range(2))

    assert fields_of(first)["commitment"] != fields_of(second)["commitment"]


def test_without_details_there_is_no_payload_and_no_commitment():
    made = entry(actions.RUN_STARTED, actor=USER)

    assert made.payload_row is None
    assert fields_of(made)["commitment"] == ""


def test_details_do_not_show_when_an_entry_is_printed():
    assert "grandmother" not in repr(entry(actions.TOOL_CALLED, actor=USER, details={"text": "grandmother"}))
