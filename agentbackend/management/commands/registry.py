"""`manage.py registry`: the registry and the agents as YAML files, out (`export`) and in (`apply`)."""

from __future__ import annotations

import getpass
import re
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.management.color import no_style
from django.db import OperationalError, connection, transaction

from audit.actor import Actor
from tools.configuration.applying import Outcome, PlanChangedError, Prune, apply_documents
from tools.configuration.json_schema import reference, schema_of_files
from tools.configuration.kinds import exported_kind, exported_kinds
from tools.configuration.reading import FileDocument, read_files
from tools.configuration.secrets import SecretInDocumentError
from tools.configuration.showing import as_json, plan_lines, summary
from tools.configuration.texts import shown
from tools.configuration.writing import (
    NothingOfThisNameError,
    WrittenDocument,
    in_one_file,
    write_file,
    write_folder,
    written_documents,
)
from tools.documents import UnknownKindError

PROBLEMS: Final = 1
CHANGES: Final = 2
WAITING: Final = 3

_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_YAML = (".yaml", ".yml")


class Command(BaseCommand):
    """Exit codes: 0 fine, 1 problems (nothing is written), 2 a dry run with --exit-code found changes, 3 some wait for a second person."""

    help = "Writes the registry and the agents as YAML, and makes them say what YAML files say."

    _is_under_way = False

    def add_arguments(self, parser: CommandParser) -> None:
        commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
        _add_export(commands.add_parser("export", help="write what the registry holds"))
        _add_apply(commands.add_parser("apply", help="make the registry say what files say"))
        schema = commands.add_parser("schema", help="write the JSON Schema of the files")
        schema.add_argument(
            "--format", choices=("json", "markdown"), default="json", help="markdown: tables of all fields"
        )

    def run_from_argv(self, argv: list[str]) -> None:
        """Usage errors end with 1: argparse's own 2 means changes here."""
        try:
            super().run_from_argv(argv)
        except SystemExit as end:
            if end.code == CHANGES and not self._is_under_way:
                sys.exit(PROBLEMS)
            raise

    def handle(self, *args: Any, **options: Any) -> None:
        self._is_under_way = True
        commands: dict[str, Callable[..., None]] = {
            "export": self._export,
            "apply": self._apply,
            "schema": self._schema,
        }
        commands[options["command"]](**options)

    # --- schema

    def _schema(self, *, format: str, **_: Any) -> None:
        if format == "markdown":
            self.stdout.write(reference())
        else:
            self.stdout.write(_json(schema_of_files()))

    # --- export

    def _export(self, *, kind: list[str], name: list[str], full: bool, output: str, **_: Any) -> None:
        _check_kinds(kind)
        try:
            with transaction.atomic():
                with connection.cursor() as cursor:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                documents = written_documents(kind, name, full=full)
        except (NothingOfThisNameError, SecretInDocumentError) as error:
            raise CommandError(str(error)) from error
        if not output or output == "-":
            self.stdout.write(in_one_file(documents), ending="")
            return
        try:
            self._write_to(Path(output), documents, is_everything=not kind and not name)
        except OSError as error:
            raise CommandError(f"{output}: it cannot be written: {error.strerror}.") from error

    def _write_to(self, output: Path, documents: list[WrittenDocument], *, is_everything: bool) -> None:
        if output.suffix.lower() in _YAML and not output.is_dir():
            write_file(output, in_one_file(documents))
            self.stderr.write(f"{len(documents)} documents written to {output}.")
            return
        if output.exists() and not output.is_dir():
            raise CommandError(f"{output}: expected a folder, or a name that ends with .yaml.")
        others = write_folder(output, documents)
        self.stderr.write(f"{len(documents)} documents written into {output}.")
        if others and is_everything:
            listed = "\n  ".join(map(str, others))
            self.stderr.write(
                f"These files there are of nothing in the registry; apply would make it again:\n  {listed}"
            )

    # --- apply

    def _apply(self, *, files: list[str], **options: Any) -> None:
        dry_run = options["dry_run"] or options["check"]
        prune = _prune(options)
        by = _actor(options["as_label"])
        documents, problems = read_files(files)
        if problems:
            self._end(Outcome(problems=tuple(problems)), options, dry_run=dry_run)
            return

        def run(*, dry_run: bool, expected: Outcome | None = None) -> Outcome:
            return apply_documents(
                documents,
                by=by,
                reason=options["reason"],
                prune=prune,
                dry_run=dry_run,
                expected=expected.changes if expected else None,
                details={"operating_system_user": _operating_system_user(), "files": _names_of(documents)},
            )

        try:
            if dry_run or options["yes"]:
                self._end(run(dry_run=dry_run), options, dry_run=dry_run)
                return
            plan = run(dry_run=True)
            agreed = self._agreed(plan, options)
            outcome = run(dry_run=False, expected=plan) if agreed else plan
        except PlanChangedError:
            raise CommandError(
                "The registry has changed since this plan was made: nothing was written. Try again."
            ) from None
        except OperationalError as error:
            raise CommandError(f"Nothing was written; try again: {str(error).splitlines()[0]}") from error
        self._end(outcome, options, dry_run=False, was_shown=agreed)

    def _agreed(self, plan: Outcome, options: dict[str, Any]) -> bool:
        """Whether a person agrees to the plan; not asked where there is nothing to agree to."""
        if plan.problems or not plan.changes:
            return False
        if options["format"] == "json" or not sys.stdin.isatty():
            raise CommandError(
                "Nothing was written: there is nobody to ask, so say --yes (or --dry-run to see the plan)."
            )
        self._write_warnings(plan)
        self._write_plan(plan, with_differences=True, forced=options["force_color"])
        self.stdout.write(summary(plan, done=False))
        try:
            answer = input("Write this? [y/N] ")
        except (EOFError, KeyboardInterrupt):
            answer = ""
        if answer.strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing was written.")
        return True

    def _end(self, outcome: Outcome, options: dict[str, Any], *, dry_run: bool, was_shown: bool = False) -> None:
        """Tell what was done, and end with the exit code that says it."""
        written = not dry_run and not outcome.problems and bool(outcome.changes)
        if options["format"] == "json":
            self.stdout.write(_json(as_json(outcome, dry_run=dry_run, written=written)))
        elif outcome.problems:
            self._write_warnings(outcome)
            self._write_problems(outcome)
        else:
            if not was_shown:
                self._write_warnings(outcome)
                self._write_plan(outcome, with_differences=dry_run or options["diff"], forced=options["force_color"])
            self.stdout.write(summary(outcome, done=not dry_run))
            if dry_run and outcome.changes:
                self.stdout.write("Nothing was written: this was a dry run.")
        if outcome.problems:
            sys.exit(PROBLEMS)
        if dry_run and outcome.changes and (options["exit_code"] or options["check"]):
            sys.exit(CHANGES)
        if not dry_run and outcome.waits:
            sys.exit(WAITING)

    def _write_warnings(self, outcome: Outcome) -> None:
        for warning in outcome.warnings:
            self.stderr.write(f"warning: {shown(str(warning))}")

    def _write_problems(self, outcome: Outcome) -> None:
        for problem in outcome.problems:
            self.stderr.write(shown(str(problem)))
        number = len(outcome.problems)
        self.stderr.write(f"{number} problem{'s' if number > 1 else ''}: nothing was written.")

    def _write_plan(self, outcome: Outcome, *, with_differences: bool, forced: bool) -> None:
        style = self.style if self.stdout.isatty() or forced else no_style()
        colours = {"+": style.SUCCESS, "-": style.ERROR, "~": style.WARNING, "!": style.NOTICE}

        def paint(sign: str, line: str) -> str:
            return str(colours[sign](line)) if sign in colours and line else line

        for line in plan_lines(outcome, paint=paint, with_differences=with_differences):
            self.stdout.write(line)


def _add_export(parser: ArgumentParser) -> None:
    parser.add_argument("--kind", action="append", default=[], help="only things of this kind (may be repeated)")
    parser.add_argument("--name", action="append", default=[], help="only things of this name (may be repeated)")
    parser.add_argument("--full", action="store_true", help="write out defaults, too")
    parser.add_argument(
        "-o", "--output", default="", metavar="FILE|FOLDER",
        help="a name that ends with .yaml: one file; else a folder, with a file for each thing (standard output)",
    )  # fmt: skip


def _add_apply(parser: ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="files, folders of .yaml files, or - for the standard input"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and write nothing")
    parser.add_argument("--check", action="store_true", help="the same as --dry-run --exit-code")
    parser.add_argument("--exit-code", action="store_true", help="a dry run that finds changes ends with 2")
    parser.add_argument("--diff", action="store_true", help="show each field before and after, as a dry run does")
    parser.add_argument(
        "--prune", action="store_true", help="remove what no file has, of each --kind; tools are switched off"
    )
    parser.add_argument("--kind", action="append", default=[], help="with --prune: of which kinds (may be repeated)")
    parser.add_argument(
        "--name", action="append", default=[],
        help="with --prune: only these; needed for user, admin and tools that come from code (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--reason", default="", help="why: stands in the audit trail, in versions and proposals")
    parser.add_argument(
        "--as", dest="as_label", default="", metavar="NAME", help="who the audit trail says it was: command:NAME"
    )
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json: for machines")


def _check_kinds(names: Sequence[str]) -> None:
    for name in names:
        try:
            exported_kind(name)
        except UnknownKindError as error:
            raise CommandError(f"--kind: {error}") from error


def _prune(options: dict[str, Any]) -> Prune:
    _check_kinds(options["kind"])
    if options["prune"] and not options["kind"]:
        kinds = ", ".join(kind.name for kind in exported_kinds())
        raise CommandError(f"--prune: say of which kinds with --kind; there are {kinds}.")
    if not options["prune"] and (options["kind"] or options["name"]):
        raise CommandError("--kind and --name belong to --prune; what is applied, the files say.")
    return Prune(frozenset(options["kind"]), frozenset(options["name"]))


def _actor(label: str) -> Actor:
    """The name of the operating system's user is no code of ours: it stands in the details only."""
    if label and not _LABEL.fullmatch(label):
        raise CommandError("--as: expected at most 64 letters, digits and . _ : -")
    return Actor(id=f"command:{label}" if label else "command", kind="system", role="system")


def _operating_system_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return "unknown"


def _names_of(documents: Sequence[FileDocument]) -> list[str]:
    return sorted({document.file for document in documents})


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
