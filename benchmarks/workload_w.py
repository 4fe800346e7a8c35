"""Workload W: one tool call, then 100 tokens at 5 ms, 20 runs at once. Prints CPU per run, times and memory as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics

from benchmarks.clients import RunTimes, many_runs
from benchmarks.measured_service import MeasuredService, free_port, measured_service
from benchmarks.paced_model import paced_model, serve


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def measure(service: MeasuredService, runs: int, at_once: int) -> dict[str, float]:
    """One measurement of the running service."""
    before = service.cpu_seconds()
    found: list[RunTimes] = await many_runs(service.url, runs, at_once)
    cpu = service.cpu_seconds() - before
    totals = [run.total for run in found]
    return {
        "runs": len(found),
        "failed": sum(not run.ok for run in found),
        "cpu_ms_per_run": round(cpu / len(found) * 1000, 2),
        "cpu_us_per_event": round(cpu / sum(run.events for run in found) * 1e6, 1),
        "first_event_ms_p50": round(statistics.median(run.first_event for run in found) * 1000, 1),
        "total_ms_p50": round(statistics.median(totals) * 1000, 1),
        "total_ms_p99": round(percentile(totals, 0.99) * 1000, 1),
        "resident_mb": round(service.resident_mb(), 1),
    }


async def main() -> None:
    """Measure a few times after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--pace-ms", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    model_port = free_port()
    model = await serve(paced_model(chosen.tokens, chosen.pace_ms / 1000), model_port)
    loop = asyncio.get_running_loop()
    manager = measured_service(model_port)
    service = await loop.run_in_executor(None, manager.__enter__)
    try:
        await many_runs(service.url, 40, chosen.at_once)
        for _ in range(chosen.rounds):
            print(json.dumps(await measure(service, chosen.runs, chosen.at_once)))
    finally:
        await loop.run_in_executor(None, manager.__exit__, None, None, None)
        await model.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
