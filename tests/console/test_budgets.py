"""Budgets, providers and prices in the console: written by who may, proposed where a second person must agree, and their use seen."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from audit.actor import SYSTEM
from audit.models import AuditEvent
from orchestration.models import ModelPrice, ModelProvider, Run
from tests.console.support import client_of, console_user, member_of, seen_on, stored_run, superuser, text_of
from tools.budget_figures import window_start
from tools.changes import submit
from tools.documents import Document
from tools.models import Budget, BudgetUse, ChangeRequest
from tools.stored_credentials import users_of_credentials

BUDGETS, PROVIDERS, PRICES = (
    "/admin/tools/budget/",
    "/admin/orchestration/modelprovider/",
    "/admin/orchestration/modelprice/",
)


def form(**changes: Any) -> dict[str, Any]:
    return {
        "name": f"console-{uuid4().hex[:8]}", "description": "For the tests", "enabled": "on", "agent": "", "role": "",
        "user_id": str(uuid4()), "what": "tokens", "limit": "5000", "period": "day", "change_reason": "needed", **changes,
    }  # fmt: skip


def budget(**spec: Any) -> Budget:
    """A budget that binds nobody else's tests."""
    name = f"console-{uuid4().hex[:8]}"
    said = {"user_id": str(uuid4()), "what": "tokens", "limit": 1000, "period": "day", **spec}
    submit(Document("Budget", name, said), by=SYSTEM)
    return Budget.objects.get(name=name)


def use(of: Budget, used: int, *, whose: str = "", windows_ago: int = 0, reserved: int = 0) -> None:
    start = window_start(of.period, datetime.now(UTC)) - timedelta(days=windows_ago)
    BudgetUse.objects.create(
        budget=of, whose=whose, window_start=start, used=used, reserved=reserved, bound=int(of.limit)
    )


def test_a_budget_is_made_changed_and_removed_in_the_name_of_who_did_it() -> None:
    user, said = console_user("Administrators"), form()
    client = client_of(user)
    response = client.post(f"{BUDGETS}add/", said)
    assert response.status_code == 302, text_of(response)
    made = Budget.objects.get(name=said["name"])
    assert (made.limit, made.period, made.each_user) == (Decimal(5000), "day", False)
    page = f"{BUDGETS}{made.pk}/change/"
    assert "Nothing was used yet" in text_of(client.get(page))
    client.post(page, form(name="", user_id=made.user_id, limit="7000", **seen_on(client, page)))
    made.refresh_from_db()
    assert made.limit == 7000
    client.post(f"{BUDGETS}{made.pk}/remove/", {"_form_submitted": "on", "reason": "no longer"})
    assert not Budget.objects.filter(pk=made.pk).exists()
    recorded = AuditEvent.objects.filter(actor_id=f"console:{user.pk}", action="budget.changed")
    assert recorded.filter(target_id=str(made.pk)).count() == 3


@pytest.mark.parametrize(
    ("wrong", "told"), [({"limit": "1.5"}, "whole number"), ({"period": ""}, "begins anew"), ({"limit": "-1"}, "0")]
)
def test_what_means_nothing_is_told_at_its_field(wrong: dict[str, str], told: str) -> None:
    response = member_of("Administrators").post(f"{BUDGETS}add/", form(**wrong))
    assert response.status_code == 200
    [(field, texts)] = response.context["adminform"].form.errors.items()
    assert field in wrong
    assert told in " ".join(texts)


def test_where_budgets_need_a_second_person_a_change_is_proposed_and_switching_off_is_not_held_up(
    settings: Any,
) -> None:
    made, client = budget(), member_of("Administrators")
    settings.FOUR_EYES = ["budgets"]
    said = {"name": "", "description": "", "user_id": made.user_id, "limit": "1000"}
    page = f"{BUDGETS}{made.pk}/change/"
    client.post(page, form(**{**said, "limit": "9000"}, **seen_on(client, page)))
    made.refresh_from_db()
    assert made.limit == 1000
    assert ChangeRequest.objects.filter(kind="Budget", name=made.name, status="pending").exists()
    client.post(
        page, {field: text for field, text in form(**said, **seen_on(client, page)).items() if field != "enabled"}
    )
    made.refresh_from_db()
    assert not made.enabled


def test_the_list_and_the_page_show_what_is_used_by_whom_and_what_was() -> None:
    shared, each = budget(), budget(each_user=True)
    use(shared, 250, reserved=100)
    use(shared, 900, windows_ago=1)
    use(each, 10, whose="the-one")
    use(each, 700, whose="the-other")
    client = member_of("Operators")
    rows = text_of(client.get(BUDGETS, {"q": "console-"}))
    assert "350 of 1000 (100 reserved)" in rows
    assert "700 of 1000 most by one user" in rows
    page = text_of(client.get(f"{BUDGETS}{shared.pk}/change/"))
    assert "900 of 1000" in page
    page = text_of(client.get(f"{BUDGETS}{each.pk}/change/"))
    assert page.index("the-other") < page.index("the-one")
    assert "710 of 2000" in page


@pytest.mark.parametrize("page", [BUDGETS, PROVIDERS, PRICES])
def test_operators_see_and_do_not_change(page: str) -> None:
    client = member_of("Operators")
    assert client.get(page).status_code == 200
    assert client.get(f"{page}add/").status_code == 403


def test_a_provider_is_registered_and_its_key_is_only_named() -> None:
    client, name = member_of("Administrators"), f"p{uuid4().hex[:8]}"
    said = {"name": name, "description": "", "base_url": "https://models.example.org/v1", "credential": "BACKUP_KEY",
            "enabled": "on", "first_token_seconds": "5", "idle_seconds": "", "change_reason": ""}  # fmt: skip
    response = client.post(f"{PROVIDERS}add/", said)
    assert response.status_code == 302, text_of(response)
    made = ModelProvider.objects.get(name=name)
    assert (made.first_token_seconds, made.idle_seconds, made.credential) == (5.0, None, "BACKUP_KEY")
    assert f"model provider {name}" in users_of_credentials()["BACKUP_KEY"]
    agent = {"title": "x", "model": f"{name}:some-model"}
    submit(Document("Agent", f"agent-{name}", agent), by=SYSTEM)
    assert f"agent-{name}" in text_of(client.get(PROVIDERS, {"q": name}))
    client.post(f"{PROVIDERS}{made.pk}/remove/", {"_form_submitted": "on", "reason": ""})
    assert ModelProvider.objects.filter(pk=made.pk).exists(), "an agent names a model of it"
    submit(Document("Agent", f"agent-{name}", None), by=SYSTEM)
    client.post(f"{PROVIDERS}{made.pk}/remove/", {"_form_submitted": "on", "reason": ""})
    assert not ModelProvider.objects.filter(pk=made.pk).exists()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"base_url": "http://127.0.0.1:8000/v1"}, "base_url"),
        ({"base_url": "https://user:secret@models.example.org"}, "base_url"),
        ({"base_url": "https://models.example.org/v1?api_key=x"}, "base_url"),
        ({"credential": "DJANGO_SECRET_KEY"}, "credential"),
        ({"name": "demo"}, "name"),
    ],
)
def test_a_provider_that_may_not_be_is_refused_at_its_field(wrong: dict[str, str], field: str) -> None:
    said = {"name": f"p{uuid4().hex[:8]}", "base_url": "https://models.example.org/v1", "enabled": "on", **wrong}
    response = member_of("Administrators").post(f"{PROVIDERS}add/", said)
    assert response.status_code == 200
    assert list(response.context["adminform"].form.errors) == [field]


def test_another_price_is_another_row_and_a_price_may_be_mended() -> None:
    client, model = member_of("Administrators"), f"model-{uuid4().hex[:8]}"
    said = {
        "provider": "default",
        "model": model,
        "input_price": "0.15",
        "output_price": "0.6",
        "cached_input_price": "",
    }
    for day in ("2026-01-01", "2026-06-01"):
        response = client.post(f"{PRICES}add/", {**said, "valid_from": day})
        assert response.status_code == 302, text_of(response)
    first, second = ModelPrice.objects.filter(model=model).order_by("valid_from")
    assert first.input_price == Decimal("0.15")
    page = f"{PRICES}{second.pk}/change/"
    client.post(
        page, {"input_price": "0.2", "output_price": "0.8", "cached_input_price": "0.02", **seen_on(client, page)}
    )
    second.refresh_from_db()
    assert (second.input_price, second.cached_input_price) == (Decimal("0.2"), Decimal("0.02"))
    listed = text_of(client.get(PRICES, {"q": model}))
    assert "Out (USD for a million)" in listed
    assert "0.2 0.8 0.02" in " ".join(listed.split())
    client.post(f"{PRICES}{first.pk}/remove/", {"_form_submitted": "on", "reason": ""})
    assert [row.valid_from.year for row in ModelPrice.objects.filter(model=model)] == [2026]


def test_a_run_shows_what_it_cost_or_that_nobody_knows() -> None:
    run, unknown = stored_run(), stored_run()
    Run.objects.filter(pk=run.pk).update(cost=Decimal("0.0123"), model_turns=2)
    Run.objects.filter(pk=unknown.pk).update(model_turns=1)
    client = superuser()
    assert "0.0123" in text_of(client.get(f"/admin/orchestration/run/{run.pk}/change/"))
    assert "not known" in text_of(client.get(f"/admin/orchestration/run/{unknown.pk}/change/"))
