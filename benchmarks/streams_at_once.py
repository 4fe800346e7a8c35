"""Many streams opened in one moment: whether each completes, and how the last one fares."""

from __future__ import annotations

import argparse
import asyncio
import json

from benchmarks.clients import many_runs
from benchmarks.measured_service import free_port, measured_service
from benchmarks.paced_model import paced_model, serve


async def main() -> None:
    """Open them all, wait for them all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=200)
    chosen = parser.parse_args()
    model_port = free_port()
    model = await serve(paced_model(100, 0.02), model_port)
    loop = asyncio.get_running_loop()
    manager = measured_service(model_port)
    service = await loop.run_in_executor(None, manager.__enter__)
    try:
        found = await many_runs(service.url, chosen.streams, chosen.streams)
        print(
            json.dumps(
                {
                    "streams": len(found),
                    "completed": sum(run.ok for run in found),
                    "first_event_ms_max": round(max(run.first_event for run in found) * 1000),
                    "total_ms_max": round(max(run.total for run in found) * 1000),
                    "resident_mb": round(service.resident_mb(), 1),
                }
            )
        )
    finally:
        await loop.run_in_executor(None, manager.__exit__, None, None, None)
        await model.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
