"""Who may use what, as a table."""

import pytest

from tools.governance.roles import CircularRoleError, Deny, check_inheritance, may_use, roles_of

INHERITANCE = {
    "user": frozenset[str](),
    "admin": frozenset[str](),
    "analyst": frozenset({"user"}),
    "lead": frozenset({"analyst"}),
    "auditor": frozenset[str](),
    "deputy": frozenset({"admin"}),
}


@pytest.mark.parametrize(
    ("role", "required", "allowed", "reason"),
    [
        ("user", "", True, "any_role"),
        ("auditor", "", True, "any_role"),
        ("unheard-of", "", True, "any_role"),
        ("", "", True, "any_role"),
        ("user", "user", True, "same_role"),
        ("", "user", True, "same_role"),
        ("analyst", "analyst", True, "same_role"),
        ("analyst", "user", True, "inherited_role"),
        ("lead", "user", True, "inherited_role"),
        ("lead", "analyst", True, "inherited_role"),
        ("user", "analyst", False, "role_required"),
        ("analyst", "lead", False, "role_required"),
        ("auditor", "user", False, "role_required"),
        ("unheard-of", "user", True, "inherited_role"),
        ("unheard-of", "analyst", False, "role_required"),
        ("unheard-of", "unheard-of", True, "same_role"),
        ("admin", "analyst", True, "admin"),
        ("admin", "unheard-of", True, "admin"),
        ("admin", "admin", True, "same_role"),
        ("user", "admin", False, "admin_only"),
        ("deputy", "admin", False, "admin_only"),
        ("deputy", "analyst", False, "role_required"),
        ("Admin", "admin", False, "admin_only"),
    ],
)
def test_a_role_may_use_what_its_table_says(role: str, required: str, allowed: bool, reason: str):
    decision = may_use(role, required, INHERITANCE)

    assert (decision.allowed, decision.reason_code) == (allowed, reason)


@pytest.mark.parametrize(
    ("denied", "role", "allowed"),
    [
        ("", "admin", False),
        ("", "user", False),
        ("admin", "admin", False),
        ("admin", "deputy", False),
        ("admin", "user", True),
        ("user", "user", False),
        ("user", "analyst", False),
        ("user", "lead", False),
        ("user", "unheard-of", False),
        ("user", "auditor", True),
        ("user", "admin", True),
        ("lead", "analyst", True),
        ("unheard-of", "unheard-of", False),
    ],
)
def test_a_deny_rule_beats_everything_for_its_role_and_those_that_inherit_it(denied: str, role: str, allowed: bool):
    decision = may_use(role, "", INHERITANCE, [Deny("somebody else"), Deny(denied, "on hold")])

    assert decision.allowed is allowed
    if not allowed:
        assert decision.reason_code == "deny_rule"
        assert "on hold" in decision.explanation


def test_a_decision_explains_itself_with_both_roles():
    assert "'analyst'" in may_use("user", "analyst", INHERITANCE).explanation
    assert "'user'" in may_use("user", "analyst", INHERITANCE).explanation


def test_roles_that_inherit_each_other_end_nowhere_and_allow_nothing_more():
    circular = {"a": frozenset({"b"}), "b": frozenset({"a"})}

    assert roles_of("a", circular) == {"a", "b"}
    assert not may_use("a", "c", circular).allowed


@pytest.mark.parametrize("parents", [{"analyst"}, {"lead"}, {"auditor", "lead"}])
def test_a_role_that_would_inherit_itself_is_refused(parents: set[str]):
    with pytest.raises(CircularRoleError, match="analyst"):
        check_inheritance("analyst", frozenset(parents), INHERITANCE)


def test_a_role_may_inherit_several_that_share_an_ancestor():
    check_inheritance("chief", frozenset({"lead", "analyst"}), INHERITANCE)
    check_inheritance("lead", frozenset({"analyst", "auditor"}), INHERITANCE)
