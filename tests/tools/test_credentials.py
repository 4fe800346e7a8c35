"""Credentials as calls see them: which names may be required, and what is taken out of whatever comes back."""

from __future__ import annotations

import html
import json
from urllib.parse import quote, quote_plus, urlencode

import pytest

from tools.credentials import Credentials, name_problem

VALUE = 'p&ss "wörd"/1+1'


@pytest.mark.parametrize(
    "written",
    [
        VALUE,
        json.dumps({"echo": VALUE}),
        json.dumps({"echo": VALUE}, ensure_ascii=False),
        f"https://example.org/{quote(VALUE, safe='')}",
        f"https://example.org/{quote(VALUE)}",
        f"https://example.org/?{urlencode({'key': VALUE})}",
        quote_plus(VALUE),
        quote(VALUE, safe="").replace("%C3%B6", "%c3%b6").replace("%2F", "%2f").replace("%2B", "%2b"),
        f"<p>{html.escape(VALUE)}</p>",
    ],
)
def test_a_value_is_hidden_however_it_is_written_back(written: str) -> None:
    hidden = Credentials({"API_KEY": VALUE}).hide(f"before {written} after")
    assert "[redacted]" in hidden
    assert "rd" not in hidden.replace("[redacted]", ""), "nothing of it stays"
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")


@pytest.mark.parametrize("names", [("SHORT_KEY", "LONG_KEY"), ("LONG_KEY", "SHORT_KEY")])
def test_of_values_that_begin_alike_nothing_stays(names: tuple[str, str]) -> None:
    values = {"SHORT_KEY": "s3cr3t", "LONG_KEY": "s3cr3t-and-more"}
    found = Credentials({name: values[name] for name in names})
    assert found.hide("s3cr3t-and-more, s3cr3t") == "[redacted], [redacted]"


@pytest.mark.parametrize(
    "name",
    [
        "DJANGO_SECRET_KEY", "VAULT_KEYS", "PGPASSWORD", "SUPABASE_JWT_SECRET", "OTEL_EXPORTER_OTLP_HEADERS", "HTTPS_PROXY",
        "OUTBOUND_PROXY",
    ],
)  # fmt: skip
def test_what_the_service_itself_reads_cannot_be_required_by_a_tool(name: str) -> None:
    assert "a setting of the service itself" in name_problem(name)


@pytest.mark.parametrize("name", ["MOCK_WEATHER_TOOL_API_KEY", "CRM_KEY", "A", "X_2"])
def test_other_names_can_be_required(name: str) -> None:
    assert name_problem(name) == ""
