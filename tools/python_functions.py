"""Tools that are functions of this service: registered by a decorator, found at start in `tools.builtin`.

    @tool_function("get_greeting_tool", title="Greeting", description="Greets somebody by name.")
    async def get_greeting(name: Annotated[str, {"description": "Whom to greet", "maxLength": 80}]) -> str: ...

The schema of the arguments comes from the signature, unless `input_schema` is given. A parameter named
`invocation` is no argument: it receives the `ToolInvocation`. What a function returns is its result, a string
as it is and anything else as JSON. It raises `ToolError` to say what went wrong.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import types
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from django.core.exceptions import ImproperlyConfigured

from tools.calls import SideEffects
from tools.schemas import check_schema

BUILT_IN: Final = "tools.builtin"
INVOCATION: Final = "invocation"

Function = TypeVar("Function", bound=Callable[..., Any])

_SIMPLE_TYPES: dict[Any, str] = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict: "object", list: "array",
    type(None): "null",
}  # fmt: skip


class FunctionRegistrationError(Exception):
    """A tool function cannot be registered: a fault of the code that start-up reports."""


@dataclass(frozen=True, slots=True)
class FunctionDefinition:
    """What the code says of a tool: the first version of its registry row, and the base of later ones."""

    title: str
    description: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None = None
    side_effects: SideEffects = SideEffects.UNSAFE
    required_credentials: list[str] = field(default_factory=list)
    required_role: str = ""
    timeout_seconds: float = 30.0
    output_limit_bytes: int = 32 * 1024
    max_retries: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {**asdict(self), "side_effects": self.side_effects.value}


@dataclass(frozen=True, slots=True)
class PythonFunction:
    """A registered function and how it is to be called."""

    name: str
    function: Callable[..., Any]
    definition: FunctionDefinition
    is_async: bool
    takes_invocation: bool


_functions: dict[str, PythonFunction] = {}


def tool_function(
    name: str,
    *,
    title: str,
    description: str,
    side_effects: SideEffects = SideEffects.UNSAFE,
    input_schema: dict[str, Any] | None = None,
    output_schema: dict[str, Any] | None = None,
    required_credentials: Sequence[str] = (),
    required_role: str = "",
    timeout_seconds: float = 30.0,
    output_limit_bytes: int = 32 * 1024,
    max_retries: int = 0,
) -> Callable[[Function], Function]:
    """Register a sync or async function as a tool; raises FunctionRegistrationError for a name used before."""

    def register(function: Function) -> Function:
        if name in _functions:
            raise FunctionRegistrationError(f"the tool function {name!r} is registered twice")
        schema = input_schema if input_schema is not None else schema_of(function)
        check_schema(schema, of_object=True)
        definition = FunctionDefinition(
            title=title,
            description=inspect.cleandoc(description),
            input_schema=schema,
            output_schema=output_schema,
            side_effects=side_effects,
            required_credentials=list(required_credentials),
            required_role=required_role,
            timeout_seconds=timeout_seconds,
            output_limit_bytes=output_limit_bytes,
            max_retries=max_retries,
        )
        _functions[name] = PythonFunction(
            name=name,
            function=function,
            definition=definition,
            is_async=inspect.iscoroutinefunction(function),
            takes_invocation=INVOCATION in inspect.signature(function).parameters,
        )
        return function

    return register


def unregister(name: str) -> None:
    """Forget a function, if it is there: for tests that register their own."""
    _functions.pop(name, None)


def get_function(name: str) -> PythonFunction | None:
    """The function registered under this name."""
    return _functions.get(name)


def registered_functions() -> list[PythonFunction]:
    """All of them, by name."""
    return sorted(_functions.values(), key=lambda function: function.name)


def discover_functions(package: str = BUILT_IN) -> None:
    """Import every module of the package, so that its functions register themselves."""
    found = importlib.import_module(package)
    for module in pkgutil.iter_modules(found.__path__, f"{package}."):
        importlib.import_module(module.name)


def import_functions(modules: Sequence[str]) -> None:
    """Import an operator's own modules (TOOL_MODULES); raises ImproperlyConfigured when one cannot be imported."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ImproperlyConfigured(f"TOOL_MODULES: the module {name!r} cannot be imported: {error}.") from error


def schema_of(function: Callable[..., Any]) -> dict[str, Any]:
    """JSON Schema of a function's arguments, from its signature.

    Known are str, int, float, bool, list, dict, Literal, unions, and `Annotated[type, {keywords}]`, whose
    keywords are added to the type's schema.
    """
    hints = get_type_hints(function, include_extras=True)
    properties: dict[str, Any] = {}
    required: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == INVOCATION:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise FunctionRegistrationError(f"{parameter.name!r} of {function.__name__} cannot be named in a call")
        if parameter.name not in hints:
            raise FunctionRegistrationError(f"{parameter.name!r} of {function.__name__} has no type")
        properties[parameter.name] = _schema_of_type(hints[parameter.name])
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _schema_of_type(hint: Any) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        keywords = {key: value for extra in arguments[1:] if isinstance(extra, dict) for key, value in extra.items()}
        return {**_schema_of_type(arguments[0]), **keywords}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema_of_type(argument) for argument in arguments]}
    if origin is list:
        return {"type": "array", "items": _schema_of_type(arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema_of_type(arguments[1])}
    if hint is Any:
        return {}
    if hint not in _SIMPLE_TYPES:
        raise FunctionRegistrationError(f"there is no JSON Schema for {hint!r}: give `input_schema`")
    return {"type": _SIMPLE_TYPES[hint]}
