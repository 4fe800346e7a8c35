"""The service's metrics: one module of names, so that dashboards and alerts have one place to look. Labels are bounded."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

# runs
runs_started = Counter("agentbackend_runs_started_total", "Runs begun in this process.", ["agent"])
runs_ended = Counter("agentbackend_runs_ended_total", "Runs ended in this process, by how.", ["status"])
runs_recovered = Counter("agentbackend_runs_recovered_total", "Abandoned runs that this process took over.")
runs_active = Gauge("agentbackend_runs_active", "Runs that this process carries out now.")
run_seconds = Histogram("agentbackend_run_seconds", "From the start of a run to its end, in seconds.", buckets=_SECONDS)
first_token_seconds = Histogram(
    "agentbackend_first_token_seconds",
    "From the request to the model to its first piece of text or call.",
    buckets=_SECONDS,
)
leases_lost = Counter(
    "agentbackend_leases_lost_total", "Runs that another process claimed while this one carried them out."
)

# model
model_turns = Counter(
    "agentbackend_model_turns_total", "Model turns, by `ok` or the error's code.", ["outcome", "provider", "model"]
)
model_tokens = Counter(
    "agentbackend_model_tokens_total",
    "Tokens as the model's provider counts them, or as they are estimated where it does not.",
    ["kind", "provider", "model"],
)
model_failures = Counter(
    "agentbackend_model_failures_total",
    "Models that failed before their first byte, whether or not another one answered.",
    ["provider", "model", "code"],
)
budget_refusals = Counter("agentbackend_budget_refusals_total", "What did not fit into a budget.", ["what"])

# tools
tool_calls = Counter(
    "agentbackend_tool_calls_total", "Tool calls, by registered tool and outcome.", ["tool", "outcome"]
)
delegations = Counter(
    "agentbackend_delegations_total", "Tasks handed to other agents, by agent and outcome.", ["agent", "outcome"]
)
tool_call_seconds = Histogram("agentbackend_tool_call_seconds", "Duration of tool calls.", ["tool"], buckets=_SECONDS)

# guardrails
guardrail_findings = Counter(
    "agentbackend_guardrail_findings_total",
    "What guardrail policies found, by policy, place and what was done.",
    ["policy", "stage", "action"],
)
guardrail_judgements = Counter(
    "agentbackend_guardrail_judgements_total",
    "Texts that moderation endpoints were asked about.",
    ["policy", "outcome"],
)

# streams and requests
streams_open = Gauge("agentbackend_streams_open", "Event streams open now.")
first_event_seconds = Histogram(
    "agentbackend_first_event_seconds",
    "From a request to the first event on its stream.",
    buckets=_SECONDS,
)
requests_refused = Counter("agentbackend_requests_refused_total", "Requests refused, by the problem's code.", ["code"])
http_requests = Counter(
    "agentbackend_http_requests_total", "HTTP requests, by method and class of status.", ["method", "status"]
)

# what is written
events_committed = Counter("agentbackend_events_committed_total", "Events of runs that are in the log.")
audit_entries = Counter("agentbackend_audit_entries_total", "Audit entries handed over to be written.", ["action"])

# writer and pool, read when they are asked for
writer_groups = Gauge("agentbackend_writer_groups", "Groups that the writer has committed.")
writer_units = Gauge("agentbackend_writer_units", "Units that the writer has committed.")
writer_seconds = Gauge("agentbackend_writer_commit_seconds", "Time that the writer has spent on commits.")
writer_bytes = Gauge("agentbackend_writer_bytes", "Bytes of the units that the writer has committed.")
writer_rejected = Gauge("agentbackend_writer_rejected_units", "Units whose data the database refused.")
writer_retries = Gauge("agentbackend_writer_retries", "Times that the writer sent a group again.")
writer_pending = Gauge("agentbackend_writer_pending_units", "Units that wait for a group.")
writer_lag_seconds = Gauge("agentbackend_writer_lag_seconds", "Age of the oldest unit that is not committed.")
pool_connections = Gauge("agentbackend_pool_connections", "Connections of the asynchronous pool.", ["state"])
pool_waiting = Gauge("agentbackend_pool_requests_waiting", "Requests that wait for a connection.")

MOST_MODELS = 100
_models: set[tuple[str, str]] = set()


def model_labels(provider: str, model: str) -> dict[str, str]:
    """Labels of a model. Operators name them, so they are few; beyond the first hundred of a process they share one."""
    pair = (provider[:64], model[:100])
    if pair in _models or len(_models) < MOST_MODELS:
        _models.add(pair)
        return {"provider": pair[0], "model": pair[1]}
    return {"provider": "(other)", "model": "(other)"}


def count_tokens(provider: str, model: str, read: int, written: int) -> None:
    """Count the tokens of a model turn."""
    labels = model_labels(provider, model)
    model_tokens.labels(kind="input", **labels).inc(read)
    model_tokens.labels(kind="output", **labels).inc(written)
