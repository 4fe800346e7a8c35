"""Weather from a sample service: the same answer for a place every time, without any network."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Annotated, Any, Final

from tools.calls import FailureKind, SideEffects
from tools.invocation import ToolError, ToolInvocation
from tools.python_functions import tool_function

API_KEY: Final = "MOCK_WEATHER_TOOL_API_KEY"

# degrees Celsius around which a place's sample weather lies
_CITIES: Final[dict[str, tuple[str, str, int]]] = {
    "amsterdam": ("Amsterdam", "Netherlands", 12), "athens": ("Athens", "Greece", 21),
    "auckland": ("Auckland", "New Zealand", 16), "bangkok": ("Bangkok", "Thailand", 30),
    "barcelona": ("Barcelona", "Spain", 19), "beijing": ("Beijing", "China", 15),
    "berlin": ("Berlin", "Germany", 12), "bogota": ("Bogotá", "Colombia", 14),
    "brussels": ("Brussels", "Belgium", 12), "buenos aires": ("Buenos Aires", "Argentina", 19),
    "cairo": ("Cairo", "Egypt", 27), "cape town": ("Cape Town", "South Africa", 18),
    "chicago": ("Chicago", "United States", 11), "copenhagen": ("Copenhagen", "Denmark", 10),
    "delhi": ("Delhi", "India", 28), "dubai": ("Dubai", "United Arab Emirates", 32),
    "dublin": ("Dublin", "Ireland", 11), "helsinki": ("Helsinki", "Finland", 7),
    "hong kong": ("Hong Kong", "China", 25), "istanbul": ("Istanbul", "Türkiye", 16),
    "jakarta": ("Jakarta", "Indonesia", 29), "johannesburg": ("Johannesburg", "South Africa", 18),
    "lagos": ("Lagos", "Nigeria", 29), "lima": ("Lima", "Peru", 19), "lisbon": ("Lisbon", "Portugal", 18),
    "london": ("London", "United Kingdom", 14), "los angeles": ("Los Angeles", "United States", 20),
    "madrid": ("Madrid", "Spain", 17), "melbourne": ("Melbourne", "Australia", 16),
    "mexico city": ("Mexico City", "Mexico", 18), "montreal": ("Montreal", "Canada", 8),
    "mumbai": ("Mumbai", "India", 29), "munich": ("Munich", "Germany", 10), "nairobi": ("Nairobi", "Kenya", 20),
    "new york": ("New York", "United States", 14), "oslo": ("Oslo", "Norway", 7), "paris": ("Paris", "France", 14),
    "prague": ("Prague", "Czechia", 11), "reykjavik": ("Reykjavik", "Iceland", 5), "rome": ("Rome", "Italy", 18),
    "san francisco": ("San Francisco", "United States", 15), "santiago": ("Santiago", "Chile", 16),
    "sao paulo": ("São Paulo", "Brazil", 21), "seoul": ("Seoul", "South Korea", 14),
    "shanghai": ("Shanghai", "China", 18), "singapore": ("Singapore", "Singapore", 30),
    "stockholm": ("Stockholm", "Sweden", 8), "sydney": ("Sydney", "Australia", 20),
    "tokyo": ("Tokyo", "Japan", 17), "toronto": ("Toronto", "Canada", 10),
    "vancouver": ("Vancouver", "Canada", 11), "vienna": ("Vienna", "Austria", 12),
    "warsaw": ("Warsaw", "Poland", 10), "washington": ("Washington", "United States", 15),
    "zurich": ("Zurich", "Switzerland", 11),
}  # fmt: skip
_NOT_ON_A_MAP: Final = frozenset({
    "atlantis", "avalon", "el dorado", "gotham", "hogwarts", "mordor", "narnia", "neverland", "nowhere",
    "shangri-la", "test", "unknown", "utopia", "wakanda",
})  # fmt: skip
_CONDITIONS: Final = ("sunny", "partly cloudy", "cloudy", "light rain", "rain", "windy", "clear")
_KEY_FORM = re.compile(r"[\x21-\x7e]{1,256}")


@tool_function(
    "get_weather_tool",
    title="Current weather",
    description="""
        Gives the current weather of a place: temperature, condition, humidity and wind. Use it whenever
        somebody asks about the weather. The data are samples.
        """,
    side_effects=SideEffects.IDEMPOTENT,
    required_credentials=[API_KEY],
    timeout_seconds=10,
    max_retries=1,
)
async def get_weather(
    location: Annotated[
        str, {"description": "City, with its country where that helps: 'London, UK'", "minLength": 1, "maxLength": 120}
    ],
    *,
    invocation: ToolInvocation,
) -> dict[str, Any]:
    """The sample weather of a place; raises ToolError for a place that there is not."""
    if not _KEY_FORM.fullmatch(invocation.credentials[API_KEY]):
        raise ToolError("The weather service did not accept the service's credentials. An operator can look into it.")
    return sample_weather(location)


def sample_weather(location: str) -> dict[str, Any]:
    """The same for a place every time: what a digest of its name says, around its usual temperature."""
    key = _key(location)
    if not key or key in _NOT_ON_A_MAP or not any(letter.isalpha() for letter in key):
        raise ToolError(
            f"There is no weather for {location.strip()!r}: no such place was found. Try a city's name.",
            kind=FailureKind.NOT_FOUND,
        )
    digest = hashlib.sha256(key.encode()).digest()
    city, country, usual = _CITIES.get(key, (location.split(",")[0].strip().title(), "", 5 + digest[4] % 23))
    temperature = usual - 3 + digest[0] % 7
    condition = _CONDITIONS[digest[1] % len(_CONDITIONS)]
    return {
        "location": f"{city}, {country}" if country else city,
        "temperature_c": temperature,
        "temperature_f": round(temperature * 9 / 5 + 32),
        "condition": condition,
        "humidity_percent": 35 + digest[2] % 55,
        "wind_kmh": (25 if condition == "windy" else 4) + digest[3] % 20,
        "source": "sample data",
    }


def _key(location: str) -> str:
    """The city before the first comma, without accents, case and doubled spaces."""
    decomposed = unicodedata.normalize("NFKD", location.split(",")[0])
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return " ".join(plain.casefold().split())
