"""Registry files: YAML into values and back, what is wrong with a file's form, and what is said about the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as some

from tools.configuration.fields import described_fields
from tools.configuration.json_schema import reference, schema_of_files
from tools.configuration.kinds import exported_kinds
from tools.configuration.reading import MAX_FILE_BYTES, read_files
from tools.configuration.texts import shown
from tools.configuration.yaml_values import MAX_VALUES, arranged, read_yaml, write_yaml

texts = (
    some.text(some.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=30)
    | some.text(some.sampled_from("ab :\n -#'\"\t|>1e.0~\u2028\x85\ufeff\r"), max_size=150)
    | some.sampled_from(["yes", "on", "null", "1e3", "0o17", "0123", "2024-01-01", "1:30", "<<", "a " * 80, "\nx\n\n"])
)
numbers = some.integers(-(2**62), 2**62) | some.floats(-1e15, 1e15)
values = some.recursive(
    some.none() | some.booleans() | numbers | texts,
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(some.dictionaries(texts, values, min_size=1, max_size=4))
def test_what_is_written_is_read_again_by_us_and_by_readers_of_yaml_1_1(value: dict[str, Any]):
    written = write_yaml(value)

    documents, problems = read_yaml(written)
    assert not problems
    assert documents[0].value == value
    assert yaml.safe_load(written) == value


def test_long_texts_are_written_as_blocks_and_keys_in_one_order():
    value = {
        "text": "First line.\nSecond line.\n",
        "long": "word " * 30 + "end",
        "schema": {"required": ["a"], "type": 1},
    }

    assert write_yaml(arranged(value)).splitlines() == [
        "long: >-",
        "  " + "word " * 19 + "word",
        "  " + "word " * 10 + "end",
        "schema:",
        "  type: 1",
        "  required:",
        "    - a",
        "text: |",
        "  First line.",
        "  Second line.",
    ]


def test_words_that_only_look_like_values_are_texts():
    documents, problems = read_yaml("a: yes\nb: off\nc: 2024-01-01\nd: 1:30\ne: 1_000\nf: true\ng: 1e3\nh: ~")

    assert not problems
    assert documents[0].value == {
        "a": "yes", "b": "off", "c": "2024-01-01", "d": "1:30", "e": "1_000", "f": True, "g": 1000.0, "h": None,
    }  # fmt: skip


def test_an_alias_stands_for_what_its_anchor_names():
    documents, problems = read_yaml("a: &schema {type: object}\nb: *schema")

    assert not problems
    assert documents[0].value == {"a": {"type": "object"}, "b": {"type": "object"}}


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("a: 1\nb: [", 3, "This is not YAML: did not find expected node content"),
        ("a: 1\nb: c: d", 2, "This is not YAML: mapping values are not allowed"),
        ("a: \x07", 0, "This is not YAML: "),
        ("a: 1\nb: 2\na: 3", 3, "The key 'a' stands here twice."),
        ("x:\n  a: 1\n  a: 2", 3, "The key 'a' stands here twice."),
        ("a: !!python/object/apply:os.system [id]", 1, "python/object/apply:os.system' is not read"),
        ("a: 1\n12: 3", 2, "put '12' into quotation marks"),
        ("a: &a {b: 1}\nc:\n  <<: *a", 3, "Merge keys (<<) are not read"),
        ("a: *nowhere", 1, "There is no anchor 'nowhere' above."),
        ("a: &a [*a]", 1, "The anchor 'a' would hold itself."),
        ("a: 0123", 1, "0123 means different numbers to different readers"),
        ("a: .nan", 1, "numbers are finite and smaller than 2^63"),
        ("a: 1e999", 1, "numbers are finite and smaller than 2^63"),
        ("a: 9223372036854775808", 1, "numbers are finite and smaller than 2^63"),
        ("a: " + "9" * 5000, 1, "This number is too long."),
        ('a: "x\\0"', 1, "Texts cannot hold NUL"),
        ("a: " + "[" * 100 + "]" * 100, 1, "Values lie deeper than 64 levels."),
        ("[" * 100_000, 1, "Values lie deeper than 64 levels."),
    ],
)
def test_what_cannot_be_read_is_told_with_its_line(text: str, line: int, told: str):
    _, problems = read_yaml(text)

    assert any(told in problem.message and problem.line == line for problem in problems), problems


def test_a_text_that_multiplies_itself_is_bounded():
    lines = ["a: &a [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]" for i in range(20)]

    _, problems = read_yaml("\n".join(lines))

    assert [problem.message for problem in problems] == [
        f"There are more than {MAX_VALUES} values, those of aliases included."
    ]


def test_documents_before_an_error_of_yaml_are_still_read():
    documents, problems = read_yaml("a: 1\n---\n---\nb: 2\n---\nc: [")

    assert [(document.number, document.line, document.value) for document in documents] == [
        (1, 1, {"a": 1}),
        (3, 4, {"b": 2}),
    ]
    assert [problem.document for problem in problems] == [4]


# --- the form of a file

HEAD = "apiVersion: agentbackend/v1\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- 1", ":1: document 1: Expected an object with apiVersion, kind, name, spec."),
        ("kind: Role\nname: a", ":1: document 1, Role a, apiVersion: Expected agentbackend/v1."),
        (HEAD + "kind: Role", ":1: document 1, Role, name: Expected a text: what the thing is called."),
        (HEAD + "kind: Role\nname: 12", ":3: document 1, Role, name: Expected a text: what the thing is called."),
        (HEAD + "kind: [x]\nname: a", ":2: document 1, a, kind: Expected a text: the kind of thing, like Tool."),
        (HEAD + "kind: role\nname: a", ":2: document 1, role a, kind: There is no kind 'role'. Did you mean 'Role'?"),
        (HEAD + "kind: Credential\nname: A_KEY", "Things of the kind 'Credential' do not stand in files."),
        (HEAD + "kind: Role\nname: a\nspecs: {}", "specs: There is no field 'specs' here. Did you mean 'spec'?"),
        (HEAD + "kind: Role\nname: a\nspec: text", ":4: document 1, Role a, spec: Expected an object."),
        (
            HEAD + "kind: Role\nname: a\nspec:\n  inherit: [user]",
            ":5: document 1, Role a, inherit: There is no field 'inherit' of the kind Role. Did you mean 'inherits'?",
        ),
        (HEAD + "kind: Role\nname: a\nspec:\n  inherits: user", ":5: document 1, Role a, inherits: Expected a list."),
        (HEAD + "kind: Role\nname: a\nspec:\n  inherits: [1]", ":5: document 1, Role a, inherits: Expected a list."),
        (HEAD + "kind: Role\nname: a\nspec:\n  description:", ":5: document 1, Role a, description: Expected a text."),
        (HEAD + "kind: Tool\nname: a\nspec:\n  enabled: yes", "enabled: Expected true or false."),
        (HEAD + "kind: DenyRule\nname: a/b", ":1: document 1, DenyRule a/b, reason: This field is required."),
        (
            HEAD + "kind: Tool\nname: a",
            "handler: This field is required. Only tools that are functions of this service, under their names, may",
        ),
    ],
)
def test_what_is_wrong_with_a_document_is_told_with_file_line_document_name_and_field(
    tmp_path: Path, text: str, told: str
):
    file = tmp_path / "roles.yaml"
    file.write_text(text)

    documents, problems = read_files([str(file)])

    assert not documents
    assert any(told in str(problem) and str(problem).startswith(str(file)) for problem in problems), problems


def test_every_problem_of_every_file_is_told(tmp_path: Path):
    (tmp_path / "one.yaml").write_text("a: [")
    (tmp_path / "two.yml").write_text(f"{HEAD}kind: Role\nname: a\n---\n{HEAD}kind: Rule\nname: b\nspec: 1")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "three.yaml").write_bytes(b"a: 1\nb: \xff")
    (tmp_path / ".hidden.yaml").write_text("a: [")
    (tmp_path / "notes.txt").write_text("a: [")

    documents, problems = read_files([str(tmp_path), "no-such-file.yaml"])

    assert [document.name for document in documents] == ["a"]
    told = [str(problem).removeprefix(f"{tmp_path}/") for problem in problems]
    assert [line.split(": ")[0] for line in told] == [
        "no-such-file.yaml",
        "deep/three.yaml:2",
        "one.yaml:2",
        "two.yml:6",
        "two.yml:8",
    ]


def test_one_thing_may_stand_in_one_document_only(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(f"{HEAD}kind: Role\nname: twin")
    (tmp_path / "b.yaml").write_text(f"# again\n{HEAD}kind: Role\nname: twin")

    _, problems = read_files([str(tmp_path)])

    assert [str(problem) for problem in problems] == [
        f"{tmp_path}/b.yaml:2: document 1, Role twin: "
        f"The same thing stands in document 1 of {tmp_path}/a.yaml:1 already."
    ]


def test_a_file_that_is_named_twice_is_read_once(tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_text(f"{HEAD}kind: Role\nname: once")

    documents, problems = read_files([str(file), str(tmp_path)])

    assert ([document.name for document in documents], problems) == (["once"], [])


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path):
    file = tmp_path / "large.yaml"
    file.write_text("#" * (MAX_FILE_BYTES + 1))

    assert [str(problem) for problem in read_files([str(file)])[1]] == [
        f"{file}: It is larger than {MAX_FILE_BYTES} bytes."
    ]


def test_a_folder_without_files_is_a_mistake(tmp_path: Path):
    assert "There is no .yaml or .yml file in this folder." in str(read_files([str(tmp_path)])[1][0])


def test_a_problem_cannot_move_the_cursor_of_a_terminal():
    assert shown("a\x1b[2Jb\u202ec") == "a\\x1b[2Jb\\x202ec"


# --- the format, as it is published


def test_the_published_schema_is_that_of_the_code(project_root: Path):
    assert json.loads((project_root / "docs/registry.schema.json").read_text()) == schema_of_files()


def test_the_documentation_has_the_tables_of_the_code(project_root: Path):
    assert reference() in (project_root / "docs/configuration_as_code.md").read_text()


def test_every_field_has_a_meaning():
    silent = [
        f"{kind.name}.{field.name}"
        for kind in exported_kinds()
        for field in described_fields(kind)
        if not field.meaning
    ]

    assert silent == []


def test_the_kinds_of_the_issue_are_there():
    names = [kind.name for kind in exported_kinds()]
    assert {
        "Role", "RemoteServer", "Tool", "DenyRule", "ArgumentRule", "Guardrail", "Budget", "ModelProvider", "ModelPrice",
    } <= {*names}  # fmt: skip
    assert names[-1] == "Agent", "what refers to the others comes last"


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"kind": "Rolle"}, False),
        ({"apiVersion": "v2"}, False),
        ({"metadata": {}}, False),
        ({"name": "calculator_tool", "spec": None}, True),
        ({"spec": {"enabled": True}}, True),
        ({"spec": {"enabled": "yes"}}, False),
        ({"spec": {"time_out": 1}}, False),
        ({"spec": {"timeout_seconds": 601}}, False),
        ({"spec": {"side_effects": "some"}}, False),
        ({"spec": {"handler": {"function": "f"}}}, False),
        ({"spec": {"required_role": "", "output_schema": None}}, True),
        ({"spec": {"required_role": "a b"}}, False),
        ({"name": "a b"}, False),
        ({"kind": "DenyRule", "name": "a/*", "spec": {"reason": "r"}}, True),
        ({"kind": "DenyRule", "name": "*/b", "spec": {"reason": "r"}}, True),
        ({"kind": "DenyRule", "name": "a", "spec": {"reason": "r"}}, False),
        ({"kind": "DenyRule", "name": "a/b"}, False),
        ({"kind": "ArgumentRule", "name": "*/b", "spec": {"reason": "r", "schema": {}}}, False),
        ({"kind": "Agent", "name": "a", "spec": {"title": "A", "temperature": None}}, True),
        ({"kind": "Agent", "name": "a", "spec": {"title": "A", "temperature": 3}}, False),
    ],
)
def test_the_published_schema_knows_what_fits(change: dict[str, Any], fits: bool):
    document = {"apiVersion": "agentbackend/v1", "kind": "Tool", "name": "a_tool", "spec": {}, **change}

    assert jsonschema_rs.Draft202012Validator(schema_of_files()).is_valid(document) is fits


def test_the_examples_fit_the_published_schema(project_root: Path):
    validator = jsonschema_rs.Draft202012Validator(schema_of_files())
    for file in sorted((project_root / "examples/registry").glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            validator.validate(document)
