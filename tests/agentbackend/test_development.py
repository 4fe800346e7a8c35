"""The keys and logins that `make run` makes: random, kept, shared by checkouts of one database, for their owner's eyes only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings as project_settings
from django.contrib.auth import authenticate
from django.contrib.auth.models import User
from django.core.management import call_command

from agentbackend import development
from agentbackend.development import KEYS, KEYS_FILE, LOGINS, LOGINS_FILE, KeptValues, make_keys, make_passwords
from agentbackend.foundation.keyring import KeyRing
from audit.models import AuditEvent


def lines(file: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in file.read_text().splitlines() if not line.startswith("#"))


def test_keys_are_made_once_and_kept(tmp_path: Path) -> None:
    kept = KeptValues(tmp_path / ".local", None)
    first = make_keys(kept)
    assert first.keys() == KEYS.keys()
    assert make_keys(kept) == first == lines(tmp_path / ".local" / KEYS_FILE)


def test_keys_are_fit_for_their_settings(tmp_path: Path) -> None:
    made = make_keys(KeptValues(tmp_path, None))
    for name in ("VAULT_KEYS", "LEDGER_SIGNING_KEYS", "GATEWAY_SIGNING_KEYS"):
        KeyRing.parse(made[name], minimum_bytes=32)  # raises for a bad one
    assert len(made["DJANGO_SECRET_KEY"]) >= 50
    assert len(set(made.values())) == len(made)


def test_two_machines_get_different_keys(tmp_path: Path) -> None:
    one, other = (make_keys(KeptValues(tmp_path / name, None)) for name in ("one", "other"))
    assert not set(one.values()) & set(other.values())


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    make_keys(KeptValues(tmp_path / ".local", tmp_path / "shared"))
    assert (tmp_path / ".local").stat().st_mode & 0o777 == 0o700
    for folder in (".local", "shared"):
        assert (tmp_path / folder / KEYS_FILE).stat().st_mode & 0o777 == 0o600


def test_what_somebody_wrote_stays_and_only_what_is_missing_is_added(tmp_path: Path) -> None:
    file = tmp_path / KEYS_FILE
    file.write_text("# mine\nVAULT_KEYS=mine:abc")
    make_keys(KeptValues(tmp_path, None))
    assert file.read_text().startswith("# mine\nVAULT_KEYS=mine:abc\n")
    assert lines(file).keys() == KEYS.keys()


def test_a_second_checkout_takes_over_the_keys_and_logins_of_the_database(tmp_path: Path) -> None:
    first, second = (KeptValues(tmp_path / name, tmp_path / "shared") for name in ("first", "second"))
    assert make_keys(first) == make_keys(second)
    assert make_passwords(first) == make_passwords(second)
    assert lines(tmp_path / "second" / LOGINS_FILE).keys() == LOGINS.keys()


@pytest.fixture
def logins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No first logins yet, and a checkout of the test's own."""
    monkeypatch.setattr(development, "ROOT", tmp_path)
    remove_logins(tmp_path)
    yield
    remove_logins(tmp_path)


def remove_logins(checkout: Path) -> None:
    User.objects.filter(username__in=LOGINS).delete()
    for folder in (checkout / ".local", Path(project_settings.AGENTBACKEND_DATA_DIR)):
        (folder / LOGINS_FILE).unlink(missing_ok=True)


@pytest.mark.usefixtures("logins")
def test_the_seed_makes_a_login_for_each_group_and_only_admin_may_do_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call_command("seed_development")
    printed = capsys.readouterr().out
    for name, password in lines(tmp_path / ".local" / LOGINS_FILE).items():
        user = User.objects.get(username=name)
        assert user.check_password(password) and password in printed
        assert (user.is_staff, user.is_superuser) == (True, name == "admin")
        assert [group.name for group in user.groups.all()] == [LOGINS[name]]
        assert AuditEvent.objects.filter(action="console.added", target_kind="auth.user", target_id=user.pk).exists()
    assert f"http://localhost:{project_settings.PORT}/playground/" in printed


@pytest.mark.usefixtures("logins")
def test_a_password_that_was_changed_stays_when_the_seed_runs_again(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("seed_development")
    user = User.objects.get(username="operator")
    user.set_password("chosen-by-a-person")
    user.save()
    capsys.readouterr()
    call_command("seed_development")
    assert authenticate(username="operator", password="chosen-by-a-person") == user
    assert "(changed: manage.py changepassword operator)" in capsys.readouterr().out
