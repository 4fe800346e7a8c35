"""What durability costs: CPU of the service per run of workload W with its log and without, in turns. Prints medians as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from contextlib import ExitStack

from benchmarks.clients import many_runs
from benchmarks.measured_service import MeasuredService, free_port, measured_service
from benchmarks.paced_model import paced_model, serve


async def cpu_ms_per_run(service: MeasuredService, runs: int, at_once: int) -> float:
    """One measurement."""
    before = service.cpu_seconds()
    found = await many_runs(service.url, runs, at_once)
    assert all(run.ok for run in found)
    return (service.cpu_seconds() - before) / len(found) * 1000


async def main() -> None:
    """Measure both in turns after a warm-up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=4)
    chosen = parser.parse_args()
    model_port = free_port()
    model = await serve(paced_model(100, 0.005), model_port)
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        programs = {"with": ["manage.py"], "without": ["-m", "benchmarks.without_log"]}
        # A long lease: what was not kept would be taken for abandoned, and done again.
        services = {
            name: await loop.run_in_executor(
                None,
                stack.enter_context,
                measured_service(model_port, program=program, RUN_LEASE_SECONDS="3600"),
            )
            for name, program in programs.items()
        }
        found: dict[str, list[float]] = {name: [] for name in services}
        for service in services.values():
            await many_runs(service.url, 40, chosen.at_once)
        for _ in range(chosen.rounds):
            for name, service in services.items():
                found[name].append(await cpu_ms_per_run(service, chosen.runs, chosen.at_once))
        medians = {f"{name}_log_cpu_ms": round(statistics.median(values), 2) for name, values in found.items()}
        print(json.dumps({**medians, "ratio": round(medians["with_log_cpu_ms"] / medians["without_log_cpu_ms"], 3)}))
        await loop.run_in_executor(None, stack.close)
    await model.cleanup()


asyncio.run(main())
