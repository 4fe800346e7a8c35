"""Import from OpenAPI documents: what becomes of operations, which documents are refused, and tools that were made so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import yaml
from asgiref.sync import sync_to_async

from agentbackend.foundation.outbound import OutboundPolicy
from audit.actor import Actor
from audit.models import AuditEvent
from tests.foundation.loopback import Answer, Seen, loopback
from tests.tools.support import Door
from tools.models import ChangeRequest, Tool
from tools.openapi.fetching import fetch_document
from tools.openapi.importing import Imported, Result, Source, import_operations
from tools.openapi.operations import Api, Choices, Operation, read_api
from tools.openapi.reading import MAX_BYTES, DocumentError, read_document
from tools.schemas import problems
from tools.versions import switch_tool

pytestmark = pytest.mark.usefixtures("reach")


def document(paths: dict[str, Any] | None = None, *, version: str = "3.1.0", **more: Any) -> dict[str, Any]:
    found = {
        "openapi": version,
        "info": {"title": "Pet Shop", "version": "1"},
        "servers": [{"url": "https://api.example.com/v1/"}],
    }
    return {**found, "paths": paths if paths is not None else {}, **more}


def read(doc: dict[str, Any], **choices: Any) -> Api:
    """As it would come from a file."""
    return read_api(read_document(orjson.dumps(doc)), Choices(**choices))


def only(operation: dict[str, Any], method: str = "get", path: str = "/x", **more: Any) -> Operation:
    """The document's single operation."""
    [found] = read(document({path: {method: {"operationId": "op", "responses": {}, **operation}}}, **more)).operations
    return found


def spec_of(*arguments: Any, **options: Any) -> dict[str, Any]:
    found = only(*arguments, **options)
    assert found.spec is not None, found.problem
    return found.spec


def query(name: str, schema: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": {"type": "string"} if schema is None else schema, **more}


def json_body(schema: Any, *, required: bool = True, media: str = "application/json") -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {media: {"schema": schema}}}}


# --- reading


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "empty"),
        (b"  \n", "empty"),
        (b"\xff\xfe", "not a text in UTF-8"),
        (b'{"openapi": ', "not JSON"),
        (b"[]", "not an object"),
        (b"just words", "not an object"),
        (b"a: [b", "neither JSON nor YAML"),
        (b"a: b: c", "line 1"),
        (b"a: 1\na: 2", "'a' twice"),
        (b"? [x]\n: 1", "key that is not a text"),
        (b"a: !!python/object/apply:os.system [id]", "tag that JSON does not know"),
        (b"a: !custom 5", "tag that JSON does not know"),
        (b"a: 1\n---\nb: 2", "more than one document"),
        (b"a: &x [*x]", "before it is complete"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "more than 64 levels"),
        (b"[" * 5000, "not JSON"),
        (b"a: " + b"[" * 1_000_000, "more than 64 levels"),
        (b"- " * 1_000_000, "more than 64 levels"),
        (b'{"a":[' + b"1," * 400_000 + b"1]}", "more than 300000 values"),
        (b"a: [" + b"1," * 400_000 + b"1]", "more than 300000 values"),
        (b" " * (MAX_BYTES + 1), "more than 4 MiB"),
        (b"{}", "does not say that it is OpenAPI 3.x"),
        (b'{"openapi": 3.1}', "does not say that it is OpenAPI 3.x"),
        (b'{"openapi": "4.0.0"}', "does not say that it is OpenAPI 3.x"),
        (b'{"swagger": "2.0"}', "Swagger 2.0"),
        (b'{"openapi": "3.0.0"}', "`info`"),
        (b'{"openapi": "3.0.0", "info": {}, "paths": []}', "`paths`"),
        (b'{"openapi": "3.0.0", "info": {}, "paths": {"/a": 5}}', "'/a' is not an object"),
        (b'{"openapi": "3.1.0", "info": {}}', "no operations"),
    ],
)  # fmt: skip
def test_a_document_that_cannot_be_used_is_refused_with_the_reason(data: bytes, told: str):
    with pytest.raises(DocumentError) as caught:
        read_api(read_document(data), Choices())

    assert told in str(caught.value)


def test_aliases_count_with_all_that_they_stand_for():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]

    with pytest.raises(DocumentError, match="more than 300000 values"):
        read_document("\n".join(lines).encode())


def test_aliases_that_stand_for_little_are_followed():
    found = read_document(b"a: &a {b: [1, 2]}\nc: *a\nd: [*a]")

    assert found == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": [{"b": [1, 2]}]}


def test_yaml_is_read_by_the_rules_of_json():
    text = b"""
      version: 2020-01-01
      answer: no
      codes: {200: a, null: b}
      numbers: [1, -2, 1.5, 1e3, "5", 0x1F, 1_000, 12:30, .inf]
      words: [true, False, null, ~, '', on, 'true']
      merged: {<<: {a: 1}}
    """

    assert read_document(text) == {
        "version": "2020-01-01",
        "answer": "no",
        "codes": {"200": "a", "null": "b"},
        "numbers": [1, -2, 1.5, 1000.0, "5", "0x1F", "1_000", "12:30", ".inf"],
        "words": [True, False, None, None, "", "on", "true"],
        "merged": {"<<": {"a": 1}},
    }


@pytest.mark.parametrize("version", ["3.0.0", "3.0.4", "3.1.0", "3.1.1", "3.2.0"])
def test_json_and_yaml_of_all_3_x_give_the_same(version: str):
    doc = document(
        {"/pets/{id}": {"get": {"parameters": [{"name": "id", "in": "path", "required": True}]}}}, version=version
    )
    as_yaml = read_api(read_document(yaml.safe_dump(doc).encode()), Choices())

    assert as_yaml == read(doc)
    assert as_yaml.operations[0].spec is not None


@pytest.mark.parametrize(
    "target", ["https://evil.example/pets.json", "other.yaml#/Pet", "file:///etc/passwd", "//169.254.169.254/x"]
)
def test_a_document_that_refers_outside_itself_is_refused_whole(target: str):
    paths = {"/a": {"get": {}}, "/b": {"get": {"parameters": [query("q", {"$ref": target})]}}}

    with pytest.raises(DocumentError) as caught:
        read(document(paths))

    assert "refers outside itself" in str(caught.value)
    assert repr(target) in str(caught.value)


def test_an_example_that_looks_like_a_reference_is_none():
    schema = {"type": "object", "example": {"$ref": "https://example.com/a.json"}}

    assert only(json_body(schema), "post").spec is not None


def test_too_many_operations_are_refused():
    with pytest.raises(DocumentError, match="more than 900 operations"):
        read(document({f"/{number}": {"get": {}} for number in range(901)}))


# --- names and texts


def test_an_operation_becomes_a_tool_with_its_texts():
    operation = {
        "operationId": "listPets",
        "summary": "List pets",
        "description": "All of them.",
        "tags": ["pets", "x" * 60],
    }
    [found] = read(document({"/pets": {"get": operation}})).operations
    assert found.spec is not None

    assert (found.key, found.name, found.title) == ("GET /pets", "listPets", "List pets")
    assert found.spec["description"] == "List pets\n\nAll of them."
    assert (found.spec["enabled"], found.spec["tags"]) == (False, ["pets", "x" * 40])
    assert found.spec["handler"] == {"method": "GET", "url": "https://api.example.com/v1/pets"}


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        ({"operationId": "pets/list all"}, "pets_list_all"),
        ({"operationId": "x" * 200}, "x" * 64),
        ({"operationId": "ünï"}, "n"),
        ({"operationId": "!!"}, "operation"),
        ({"operationId": 5}, "get_pets_id"),
        ({}, "get_pets_id"),
    ],
)
def test_a_name_is_made_fit_for_a_tool(operation: dict[str, Any], name: str):
    parameters = [{"name": "id", "in": "path", "required": True}]
    [found] = read(document({"/pets/{id}": {"get": {**operation, "parameters": parameters}}})).operations

    assert (found.name, found.problem) == (name, "")


def test_names_are_unique_and_can_have_a_prefix():
    paths = {f"/{number}": {"get": {"operationId": "a" * 80}} for number in range(3)}
    names = [found.name for found in read(document(paths), prefix="shop_").operations]

    assert len(set(names)) == 3
    assert all(name.startswith("shop_a") and len(name) <= 64 for name in names)
    assert names[1].endswith("_2")


@pytest.mark.parametrize(
    ("method", "side_effects", "retries"),
    [("get", "idempotent", 1), ("head", "idempotent", 1), ("put", "unsafe", 0), ("delete", "unsafe", 0),
        ("post", "unsafe", 0), ("patch", "unsafe", 0)],
)  # fmt: skip
def test_only_what_reads_is_taken_to_be_repeatable(method: str, side_effects: str, retries: int):
    spec = spec_of({}, method)

    assert (spec["side_effects"], spec["max_retries"]) == (side_effects, retries)


# --- arguments


def test_parameters_become_arguments_in_their_places():
    parameters = [
        {"name": "pet-id", "in": "path", "required": True, "schema": {"type": "integer"}, "description": "Which."},
        query("filter[kind]", required=True),
        query("tags", {"type": "array", "items": {"type": "string"}}),
        query("ids", {"type": "array", "items": {"type": "integer"}}, explode=False),
        {"name": "where", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}},
        {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
        {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
    ]
    spec = spec_of({"parameters": parameters}, path="/pets/{pet-id}")

    assert spec["handler"]["url"] == "https://api.example.com/v1/pets/{pet-id}"
    assert spec["handler"]["parameters"] == {
        "pet-id": {"in": "path"},
        "filter_kind": {"in": "query", "name": "filter[kind]"},
        "tags": {"in": "query"},
        "ids": {"in": "query", "lists": "comma"},
        "where": {"in": "query", "lists": "json"},
        "X-Trace": {"in": "header"},
    }
    schema = spec["input_schema"]
    assert (schema["required"], schema["additionalProperties"]) == (["pet-id", "filter_kind"], False)
    assert schema["properties"]["pet-id"] == {"type": "integer", "description": "Which."}


def test_parameters_of_the_same_name_in_two_places_are_two_arguments():
    parameters = [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}, query("id")]
    spec = spec_of({"parameters": parameters}, path="/a/{id}")

    assert spec["handler"]["parameters"] == {"id": {"in": "path"}, "id_2": {"in": "query", "name": "id"}}


def test_a_parameter_of_the_operation_takes_the_place_of_the_paths():
    item = {
        "parameters": [query("q", {"type": "string"}), query("r")],
        "get": {"parameters": [query("q", {"type": "integer"})]},
    }
    [found] = read(document({"/x": item})).operations
    assert found.spec is not None

    assert found.spec["input_schema"]["properties"] == {"q": {"type": "integer"}, "r": {"type": "string"}}


def test_the_fields_of_a_body_stand_beside_the_parameters():
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    }
    spec = spec_of({**json_body(schema), "parameters": [query("dry")]}, "post")

    assert set(spec["input_schema"]["properties"]) == {"dry", "name", "age"}
    assert spec["input_schema"]["required"] == ["name"]
    assert spec["handler"]["parameters"]["name"] == {"in": "body"}
    assert spec["handler"]["body"] == "json"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"q": {}}},
        {"type": "array", "items": {"type": "integer"}},
        {"oneOf": [{"type": "object"}, {"type": "string"}]},
        {"allOf": [{"type": "object", "properties": {"a": {}}}]},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "object"},
        {},
    ],
)
def test_a_body_whose_fields_cannot_stand_there_is_one_argument(schema: dict[str, Any]):
    spec = spec_of({**json_body(schema), "parameters": [query("q"), query("body")]}, "put")

    assert spec["handler"]["body_argument"] == "body_2"
    assert spec["input_schema"]["properties"]["body_2"] == schema
    assert spec["input_schema"]["required"] == ["body_2"]


def test_a_body_that_may_be_left_out_keeps_what_it_needs_together():
    schema = {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}
    spec = spec_of(json_body(schema, required=False), "post")

    assert spec["handler"]["body_argument"] == "body"
    assert "required" not in spec["input_schema"]


def test_a_form_and_other_json_are_sent_as_the_document_says():
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}

    assert spec_of(json_body(schema, media="application/x-www-form-urlencoded"), "post")["handler"]["body"] == "form"
    patch = spec_of(json_body(schema, media="application/merge-patch+json; charset=utf-8"), "patch")["handler"]
    assert patch["headers"] == {"Content-Type": "application/merge-patch+json"}


# --- schemas


def input_of(schema: Any, version: str = "3.1.0", **components: Any) -> dict[str, Any]:
    operation = {"parameters": [query("q", schema)]}
    return spec_of(operation, version=version, components={"schemas": components})["input_schema"]


@pytest.mark.parametrize(
    ("schema", "converted"),
    [
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "nullable": True, "enum": ["a"]}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"nullable": True, "anyOf": [{"type": "string"}]}, {"anyOf": [{"anyOf": [{"type": "string"}]}, {"type": "null"}]}),
        ({"type": "integer", "minimum": 1, "exclusiveMinimum": True}, {"type": "integer", "exclusiveMinimum": 1}),
        ({"type": "integer", "maximum": 9, "exclusiveMaximum": False}, {"type": "integer", "maximum": 9}),
        (
            {"type": "string", "example": "x", "xml": {}, "x-internal": 1, "externalDocs": {}, "discriminator": {"propertyName": "a"}},
            {"type": "string"},
        ),
        ({"type": "array", "items": [{"type": "string"}]}, {"type": "array", "prefixItems": [{"type": "string"}]}),
    ],
)  # fmt: skip
def test_words_of_openapi_3_0_become_json_schema(schema: dict[str, Any], converted: dict[str, Any]):
    assert input_of(schema, "3.0.3")["properties"]["q"] == converted


def test_references_come_along_under_defs_and_only_what_is_used():
    found = input_of(
        {"$ref": "#/components/schemas/A"},
        A={"type": "array", "items": {"$ref": "#/components/schemas/B"}},
        B={"type": "string"},
        C={},
    )

    assert found["properties"]["q"] == {"$ref": "#/$defs/A"}
    assert found["$defs"] == {"A": {"type": "array", "items": {"$ref": "#/$defs/B"}}, "B": {"type": "string"}}


def test_a_recursive_schema_stays_one():
    tree = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#/components/schemas/Tree"}}},
    }
    spec = spec_of(json_body({"$ref": "#/components/schemas/Tree"}), "post", components={"schemas": {"Tree": tree}})
    schema = orjson.dumps(spec["input_schema"])

    assert problems(schema, {"children": [{"children": [{"children": []}]}]}) == []
    assert problems(schema, {"children": [{"children": [{"children": "leaf"}]}]}) != []


def test_names_that_clash_under_defs_are_kept_apart():
    doc = {
        "/x": {
            "get": {
                "parameters": [
                    query("a", {"$ref": "#/components/schemas/A b"}),
                    query("b", {"$ref": "#/components/schemas/A_b"}),
                ]
            }
        }
    }
    [found] = read(
        document(doc, components={"schemas": {"A b": {"type": "string"}, "A_b": {"type": "integer"}}})
    ).operations
    assert found.spec is not None

    assert found.spec["input_schema"]["$defs"] == {"A_b": {"type": "string"}, "A_b_2": {"type": "integer"}}


def test_what_only_the_other_direction_has_is_left_out():
    pet = {
        "type": "object",
        "required": ["id", "name"],
        "properties": {
            "id": {"type": "integer", "readOnly": True},
            "name": {"type": "string"},
            "pin": {"type": "string", "writeOnly": True},
            "made": {"$ref": "#/components/schemas/Stamp"},
        },
    }
    reference = {"$ref": "#/components/schemas/Pet"}
    responses = {"201": {"description": "", "content": {"application/json": {"schema": reference}}}}
    components = {"schemas": {"Pet": pet, "Stamp": {"type": "string", "readOnly": True}}}
    spec = spec_of({**json_body(reference), "responses": responses}, "post", components=components)

    assert (set(spec["input_schema"]["properties"]), spec["input_schema"]["required"]) == ({"name", "pin"}, ["name"])
    assert set(spec["output_schema"]["$defs"]["Pet"]["properties"]) == {"id", "name", "made"}


@pytest.mark.parametrize(
    ("responses", "output"),
    [
        ({"200": {"content": {"application/json": {"schema": {"type": "array"}}}}}, {"type": "array"}),
        ({"2XX": {"content": {"application/json": {"schema": {"type": "array"}}}}, "default": {}}, {"type": "array"}),
        ({"200": {"content": {"application/json": {}}}}, None),
        ({"200": {"content": {"application/json": {"schema": True}}}}, None),
        ({"200": {"content": {"application/json": {"schema": {"type": "array"}}}}, "204": {}}, None),
        ({"200": {"content": {"application/json": {"schema": {}}, "text/csv": {}}}}, None),
        ({"200": {"content": {"application/json": {"schema": {"pattern": "("}}}}}, None),
        ({"200": {"content": {"application/json": {"schema": {"$ref": "#/gone"}}}}}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_the_output_schema_is_that_of_the_single_json_answer(responses: dict[str, Any], output: Any):
    assert spec_of({"responses": responses})["output_schema"] == output


def test_output_schemas_can_be_left_out():
    responses = {"200": {"content": {"application/json": {"schema": {"type": "array"}}}}}
    [found] = read(document({"/x": {"get": {"responses": responses}}}), with_output_schemas=False).operations

    assert found.spec is not None
    assert found.spec["output_schema"] is None


# --- servers and security


@pytest.mark.parametrize(
    ("servers", "choices", "url"),
    [
        ([{"url": "https://a.example.com"}], {}, "https://a.example.com/x"),
        ([{"url": "https://a.example.com/v1/"}, {"url": "https://b.example.com"}], {}, "https://a.example.com/v1/x"),
        ([{"url": "/v2"}], {"document_url": "https://docs.example.com/api/openapi.json"}, "https://docs.example.com/v2/x"),
        ([{"url": "../v2"}], {"document_url": "https://docs.example.com/api/openapi.json"}, "https://docs.example.com/v2/x"),
        ([], {"document_url": "https://docs.example.com/api/openapi.json"}, "https://docs.example.com/x"),
        (
            [{"url": "https://{place}.example.com/{base}", "variables": {"place": {"default": "eu"}, "base": {"default": "v3"}}}],
            {}, "https://eu.example.com/v3/x",
        ),
        ([{"url": "/v2"}], {"base_url": "https://own.example.com/api/"}, "https://own.example.com/api/x"),
    ],
)  # fmt: skip
def test_the_address_is_the_servers_with_the_path(servers: list[Any], choices: dict[str, str], url: str):
    [found] = read(document({"/x": {"get": {}}}, servers=servers), **choices).operations
    assert found.spec is not None, found.problem

    assert found.spec["handler"]["url"] == url


def test_the_nearest_servers_count():
    item = {
        "servers": [{"url": "https://path.example.com"}],
        "get": {},
        "put": {"servers": [{"url": "https://op.example.com"}]},
    }
    found = read(document({"/x": item})).operations

    assert [operation.spec and operation.spec["handler"]["url"] for operation in found] == [
        "https://path.example.com/x",
        "https://op.example.com/x",
    ]


SCHEMES = {
    "api_key": {"type": "apiKey", "in": "header", "name": "X-Key"},
    "queryKey": {"type": "apiKey", "in": "query", "name": "key"},
    "token": {"type": "http", "scheme": "Bearer"},
    "login": {"type": "http", "scheme": "basic"},
    "oauth": {"type": "oauth2", "flows": {}},
    "session": {"type": "apiKey", "in": "cookie", "name": "sid"},
    "mutual": {"type": "mutualTLS"},
}


@pytest.mark.parametrize(
    ("security", "credentials"),
    [
        ([{"api_key": []}], [{"name": "PET_SHOP_API_KEY", "placement": "header", "parameter": "X-Key"}]),
        ([{"queryKey": []}], [{"name": "PET_SHOP_QUERY_KEY", "placement": "query", "parameter": "key"}]),
        ([{"token": []}], [{"name": "PET_SHOP_TOKEN", "placement": "bearer"}]),
        ([{"login": []}], [{"name": "PET_SHOP_LOGIN", "placement": "basic"}]),
        ([{"oauth": ["read"]}], [{"name": "PET_SHOP_OAUTH", "placement": "bearer"}]),
        ([{"session": []}, {"token": []}], [{"name": "PET_SHOP_TOKEN", "placement": "bearer"}]),
        ([{}, {"token": []}], [{"name": "PET_SHOP_TOKEN", "placement": "bearer"}]),
        ([{"session": []}, {}], []),
        ([], []),
    ],
)
def test_security_schemes_become_credentials(security: list[Any], credentials: list[dict[str, str]]):
    spec = spec_of({"security": security}, components={"securitySchemes": SCHEMES})

    assert spec["handler"].get("credentials", []) == credentials
    assert spec["required_credentials"] == [entry["name"] for entry in credentials]


def test_the_documents_security_counts_where_an_operation_says_nothing_and_names_can_be_chosen():
    doc = document({"/x": {"get": {}}}, components={"securitySchemes": SCHEMES}, security=[{"token": []}])
    api = read(doc, credentials={"token": "SHOP_KEY"})
    [found] = api.operations
    assert found.spec is not None

    assert found.spec["required_credentials"] == ["SHOP_KEY"]
    assert {scheme.name: bool(scheme.problem) for scheme in api.schemes} == {
        "api_key": False, "queryKey": False, "token": False, "login": False, "oauth": False, "session": True, "mutual": True,
    }  # fmt: skip


# --- operations that cannot be imported


@pytest.mark.parametrize(
    ("method", "path", "operation", "told"),
    [
        ("options", "/x", {}, "OPTIONS requests are not made"),
        ("trace", "/x", {}, "TRACE requests are not made"),
        ("get", "/{id}", {}, "{id}, which the document does not describe"),
        ("get", "/x", {"parameters": [{"name": "id", "in": "path", "required": True}]}, "The path has no {id}"),
        ("get", "/x", {"parameters": [{"in": "query"}]}, "no `name` or no `in`"),
        ("get", "/x", {"parameters": [{"$ref": "#/components/parameters/gone"}]}, "leads to nothing"),
        ("get", "/x", {"parameters": [query("q", {"$ref": "#/components/schemas/gone"})]}, "leads to nothing"),
        ("get", "/x", {"parameters": [query("q", {"$ref": "#/components/schemas/Loop"})]}, "in a circle"),
        ("get", "/x", {"parameters": [query("q", {"$ref": "#anchor"})]}, "none by JSON Pointer"),
        ("get", "/x", {"parameters": [query("q", {"type": "object"}, required=True)]}, "is an object"),
        ("get", "/x", {"parameters": [query("q", {"type": "array"}, required=True, style="pipeDelimited")]}, "'pipeDelimited'"),
        ("get", "/x", {"parameters": [{"name": "sid", "in": "cookie", "required": True}]}, "'cookie'"),
        ("get", "/x", {"parameters": [query("q", {"$id": "https://example.com/a"})]}, "uses $id"),
        ("get", "/x", {"parameters": [query("q", {"type": "string", "pattern": "("})]}, "input_schema: "),
        ("get", "/x", {"parameters": [query("q", {"type": "strnig"})]}, "input_schema: "),
        ("get", "/x", {"parameters": [query("q", {"description": "x", "enum": ["y" * 70_000]})]}, "larger than 65536 bytes"),
        ("post", "/x", {"requestBody": {"content": {"multipart/form-data": {}}}}, "Its body is multipart/form-data"),
        ("post", "/x", {"requestBody": {"content": {"application/xml": {}}}}, "Its body is application/xml"),
        ("post", "/x", {"requestBody": {}}, "not described"),
        ("get", "/x", {"responses": {"200": {"content": {"image/png": {}}}}}, "image/png, which a tool cannot read"),
        ("get", "/x", {"security": [{"session": []}]}, "session (apiKey in cookie)"),
        ("get", "/x", {"security": [{"gone": []}]}, "not described"),
        ("get", "/x", {"servers": [{"url": "https://{a}.example.com"}]}, "'a' has no default"),
        ("get", "/x", {"servers": [{"url": "http://127.0.0.1:8000"}]}, "OUTBOUND_ALLOWED_HOSTS"),
        ("get", "/x", {"servers": [{"url": "http://169.254.169.254/"}]}, "OUTBOUND_ALLOWED_HOSTS"),
        ("get", "/x", {"servers": [{"url": "https://user:pass@api.example.com/"}]}, "without a login"),
        ("get", "/x", {"servers": [{"url": "/only/a/path"}]}, "give a base address"),
        ("get", "/x/../y", {}, "no . or .."),
        ("get", "/x#y", {}, "fragment"),
    ],
)  # fmt: skip
def test_an_operation_that_cannot_become_a_tool_is_listed_with_the_reason(
    reach: Any, method: str, path: str, operation: dict[str, Any], told: str
):
    reach(OutboundPolicy())
    components = {"schemas": {"Loop": {"$ref": "#/components/schemas/Loop"}}, "securitySchemes": SCHEMES}
    doc = document({path: {method: operation}, "/good": {"get": {}}}, components=components)
    bad, good = read(doc).operations

    assert bad.spec is None
    assert told in bad.problem
    assert good.spec is not None


@pytest.mark.parametrize(
    "part",
    [None, 5, "text", [], {"parameters": 5}, {"parameters": [5]}, {"responses": []}, {"security": 5}, {"tags": 5}],
)
def test_a_broken_operation_does_no_harm_to_others(part: Any):
    found = read(document({"/a": {"get": part}, "/b": {"get": {}}})).operations

    assert found[-1].spec is not None


def test_optional_parts_that_cannot_be_sent_are_left_out_and_noted():
    parameters = [{"name": "sid", "in": "cookie"}, query("deep", {"type": "object"}, style="deepObject")]
    found = only({"parameters": parameters, "deprecated": True, **json_body({})})
    assert found.spec is not None

    assert found.spec["input_schema"]["properties"] == {}
    assert [note.split(":")[0] for note in found.notes] == [
        "The optional parameter 'sid' is left out", "The optional parameter 'deep' is left out",
        "The body that the document describes is left out", "The document calls this operation deprecated.",
    ]  # fmt: skip


def test_operations_that_all_refer_to_something_large_end_soon():
    large = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(5000)}}
    paths = {f"/{number}": {"post": json_body({"$ref": "#/components/schemas/Large"})} for number in range(200)}
    found = read(document(paths, components={"schemas": {"Large": large}})).operations

    assert all("too large" in operation.problem for operation in found)


# --- fetching


async def test_a_document_is_fetched_and_its_server_resolved_against_its_address():
    doc = document({"/x": {"get": {}}}, servers=[{"url": "/api"}])

    def answer(seen: Seen) -> Answer:
        if seen.target == "/docs":
            return Answer(302, headers={"location": "/files/openapi.json"})
        return Answer(body=orjson.dumps(doc))

    async with loopback(answer) as site:
        fetched = await fetch_document(f"{site.url}/docs")
        [found] = read_api(read_document(fetched.data), Choices(document_url=fetched.url)).operations

    assert fetched.url == f"{site.url}/files/openapi.json"
    assert found.spec is not None
    assert found.spec["handler"]["url"] == f"{site.url}/api/x"


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(404), "status 404"),
        (Answer(body=b"x" * (MAX_BYTES + 1)), "more than 4 MiB"),
        (Answer(302, headers={"location": "http://10.0.0.1/"}), "may not be reached"),
    ],
)
async def test_a_document_that_cannot_be_fetched_is_told(answer: Answer, told: str):
    async with loopback(lambda seen: answer) as site:
        with pytest.raises(DocumentError, match=told):
            await fetch_document(f"{site.url}/docs")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://169.254.169.254/latest", "may not be reached"),
        ("http://2130706434/", "may not be reached"),
        ("http://user:pass@api.example.com/", "may not be reached"),
        ("file:///etc/passwd", "reached"),
        ("no address", "reached"),
        ("http://127.0.0.1:1/", "cannot be reached"),
    ],
)
async def test_an_address_that_leads_nowhere_or_inside_is_told(url: str, told: str):
    with pytest.raises(DocumentError) as caught:
        await fetch_document(url)

    assert told in str(caught.value)
    assert "pass" not in str(caught.value).replace("passwd", "")


# --- creating


def administrator() -> Actor:
    return Actor(id=f"console:{uuid4().hex[:8]}", role="admin")


def imported(doc: dict[str, Any], by: Actor) -> tuple[list[Imported], str]:
    """All operations of a document, under a name of this test's own."""
    prefix = f"t{uuid4().hex[:8]}_"
    operations = read(doc, prefix=prefix).operations
    return import_operations(
        operations, Source("petshop.json", "d" * 64, "Pet Shop", "1"), by=by, reason="for a test"
    ), prefix


def test_chosen_operations_become_tools_that_are_off_and_recorded():
    by = administrator()
    doc = document({"/a": {"get": {"operationId": "a"}}, "/b": {"options": {"operationId": "b"}}})
    done, prefix = imported(doc, by)

    assert [(item.result, bool(item.message)) for item in done] == [(Result.CREATED, False), (Result.FAILED, True)]
    tool = Tool.objects.get(name=f"{prefix}a")
    assert tool.current_version is not None
    assert (tool.enabled, tool.current_version.handler_type, tool.current_version.created_by) == (
        False,
        "http_endpoint",
        by.id,
    )
    assert tool.current_version.change_note == "for a test"
    recorded = AuditEvent.objects.filter(actor_id=by.id).values_list("action", flat=True)
    assert {"tool.published", "openapi.imported"} <= set(recorded)


def test_a_tool_that_is_there_is_not_touched():
    by = administrator()
    doc = document({"/a": {"get": {"operationId": "a"}}})
    done, _ = imported(doc, by)
    [again] = import_operations([done[0].operation], Source("x", "d" * 64), by=by)

    assert (again.result, "already" in again.message) == (Result.FAILED, True)
    assert Tool.objects.get(name=done[0].operation.name).versions.count() == 1


def test_where_changes_need_a_second_person_tools_are_proposed(settings: Any):
    settings.FOUR_EYES = ["tools"]
    by = administrator()
    [done], prefix = imported(document({"/a": {"get": {"operationId": "a"}}}), by)

    assert done.result is Result.PROPOSED
    assert not Tool.objects.filter(name=f"{prefix}a").exists()
    assert ChangeRequest.objects.get(name=f"{prefix}a").proposed_by == by.id
    [again] = import_operations([done.operation], Source("x", "d" * 64), by=by)
    assert again.result is Result.FAILED


async def test_an_imported_tool_does_what_the_document_says(door: Door):
    """From the document to the request that a call makes."""
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "tag": {"type": "string", "nullable": True}},
    }
    parameters = [
        {"name": "shop", "in": "path", "required": True, "schema": {"type": "string"}},
        query("dry", {"type": "boolean"}),
    ]
    answered = {"200": {"content": {"application/json": {"schema": {"type": "object", "required": ["id"]}}}}}
    operation = {"operationId": "add", "parameters": parameters, **json_body(schema), "responses": answered}

    async with loopback(lambda seen: Answer(body=b'{"id": 7}', headers={"content-type": "application/json"})) as site:
        doc = document(
            {"/shops/{shop}/pets": {"post": operation}}, version="3.0.3", servers=[{"url": f"{site.url}/v1"}]
        )
        [done], _ = await sync_to_async(imported)(doc, administrator())
        assert done.result is Result.CREATED, done.message
        tool = await Tool.objects.aget(name=done.operation.name)
        await sync_to_async(switch_tool)(tool, enabled=True, by=administrator())
        refused = await door.call(tool.name, {"shop": "a/b"})
        result = await door.call(tool.name, {"shop": "a/b", "dry": True, "name": "Rex", "tag": None})

    assert "name" in refused.content
    assert (result.content, len(site.seen)) == ('{"id":7}', 1)
    assert site.seen[0].target == "/v1/shops/a%2Fb/pets?dry=true"
    assert json.loads(site.seen[0].body) == {"name": "Rex", "tag": None}


def test_a_document_as_people_write_them_is_imported_whole():
    """An example of ours with what common documents hold: components, tags, several servers, schemes, forms, uploads."""
    data = (Path(__file__).parent / "openapi_bookshop.yaml").read_bytes()
    found = read_api(read_document(data), Choices()).operations

    assert {operation.name: operation.problem for operation in found if operation.problem} == {
        "uploadCover": "Its body is multipart/form-data: tools send JSON and forms.",
        "getCover": "It answers with image/png, which a tool cannot read.",
    }
    assert sorted(operation.name for operation in found if operation.spec) == [
        "addBook", "deleteBook", "getBook", "listBooks", "login", "replaceBook",
    ]  # fmt: skip
