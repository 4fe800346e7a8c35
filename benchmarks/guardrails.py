"""CPU of the output gate for a run of 200 deltas, with 1,000 keywords and all classes of PII on, beside what a run costs as a whole."""

from __future__ import annotations

import random
import re
import string
import time
from collections.abc import Sequence

from tools.governance.guardrails.policy import PII_CLASSES, Action, Policy, PolicyKind, Stage
from tools.governance.guardrails.screen import Guardrails

CPU_OF_A_RUN_MS = (
    17.5,
    19.0,
)  # a run with a tool call and 200 deltas of 5 ms, 20 at once: as workload_w, with 200 tokens
REPEATS = 7
RUNS = 40

ENGLISH = (
    "The weather in London is mild today, with some clouds in the morning and a light breeze from the west. You may want to take "
    "a jacket if you go out after sunset, since it gets colder quickly. "
)
GERMAN = (
    "Das Wetter in München ist heute schön, mit einigen Wolken am Morgen und einer leichten Brise. Später könnte es über den "
    "Straßen stürmisch werden, also nehmen Sie für alle Fälle einen Schirm mit. "
)
CHINESE = "今天伦敦的天气很温和，早上有些云，西边有微风。如果你在日落后外出，可能需要带一件夹克，因为天气很快就会变冷。"  # noqa: RUF001
FIGURES = "In 2024 the 3 shops sold 1,250 items for 19.99 each on 12 May, 14 more than in 2023. "


def policies() -> list[Policy]:
    """1,000 keywords, a fifth of them of three words, that block; all classes of PII, redacted."""
    source = random.Random(3)

    def word() -> str:
        return "".join(source.choices(string.ascii_lowercase, k=source.randint(4, 12)))

    keywords = [word() for _ in range(800)] + [" ".join(word() for _ in range(3)) for _ in range(200)]
    on_output = frozenset({Stage.OUTPUT})
    return [
        Policy("words", 1, "0" * 64, PolicyKind.KEYWORDS, on_output, Action.BLOCK, {"keywords": keywords}),
        Policy("pii", 1, "0" * 64, PolicyKind.PII, on_output, Action.REDACT, {"classes": list(PII_CLASSES)}),
    ]


def cpu_of_a_run(guardrails: Guardrails, deltas: Sequence[str]) -> float:
    """Seconds of CPU for one message; the least of some repeats, since other work on the machine only adds."""
    times: list[float] = []
    for _ in range(REPEATS):
        begun = time.process_time()
        for _ in range(RUNS):
            gate = guardrails.gate()
            assert gate is not None
            for delta in deltas:
                gate.feed(delta)
            gate.end()
            assert gate.violation is None
        times.append((time.process_time() - begun) / RUNS)
    return min(times)


def words(text: str, count: int) -> list[str]:
    """The first words of a text repeated, each with the space before it, as models send them."""
    found: list[str] = re.findall(r"\s*\S+", text * (count // 10))
    return found[:count]


def main() -> None:
    """Print the table."""
    begun = time.process_time()
    guardrails = Guardrails.compiled(policies())
    print(f"compiling: {(time.process_time() - begun) * 1000:.0f} ms")
    english = words(ENGLISH, 200)
    cases = {
        "English, a word each": english,
        "English, ten words each": ["".join(english[n : n + 10]) for n in range(0, 200, 10)],
        "English, a character each": list(ENGLISH * 2)[:200],
        "German, a word each": words(GERMAN, 200),
        "Chinese, two characters each": re.findall("..", CHINESE * 10)[:200],
        "prose full of figures, a word each": words(FIGURES, 200),
        "words with digits (workload W)": [f" word{n}" for n in range(200)],
    }
    least, most = CPU_OF_A_RUN_MS
    print(f"{'':36}{'deltas':>7}{'ms a run':>10}{'µs a delta':>12}   share of a run's {least:g} to {most:g} ms")
    for name, deltas in cases.items():
        cpu = cpu_of_a_run(guardrails, deltas) * 1000
        print(
            f"{name:36}{len(deltas):7}{cpu:10.3f}{cpu * 1000 / len(deltas):12.2f}   {cpu / most:.1%} to {cpu / least:.1%}"
        )
    text = ENGLISH * 40
    begun = time.process_time()
    for _ in range(20):
        guardrails.check(Stage.OUTPUT, text)
    print(f"a whole text of {len(text)} characters: {(time.process_time() - begun) / 20 * 1000:.2f} ms")


if __name__ == "__main__":
    main()
