"""The files of secrets: their modes, what is refused, and what masks their values."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ugro.common.errors import InputError, StateError
from ugro.common.job_spec import JobSpec
from ugro.common.models.code_version import CodeVersion
from ugro.common.models.event_kind import EventKind
from ugro.common.models.job_state import JobState
from ugro.control_plane import transitions
from ugro.control_plane.metadata_store import MetadataStore
from ugro.control_plane.metadata_store.secrets import LARGEST, SecretExposed, SecretMissing, SecretStore


@pytest.fixture
def secrets(tmp_path: Path) -> SecretStore:
    return SecretStore(tmp_path / "home")


def test_keeps_values_where_only_their_owner_reads_them(secrets: SecretStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert not secrets.set("HF_TOKEN", "hf_a\nb") and secrets.set("HF_TOKEN", "hf_c")
    finally:
        os.umask(before)
    folder = tmp_path / "home/secrets"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / "HF_TOKEN")] == [0o700, 0o600]
    assert secrets.values({"A": "HF_TOKEN"}) == {"A": "hf_c"}
    assert [one.name for one in secrets.all()] == ["HF_TOKEN"] and secrets.missing(["HF_TOKEN", "x"]) == ["x"]
    secrets.remove("HF_TOKEN")
    assert secrets.all() == [] and list(folder.iterdir()) == []


def test_refuses_to_read_what_others_may_read(secrets: SecretStore, tmp_path: Path) -> None:
    secrets.set("A", "value-1")
    folder = tmp_path / "home/secrets"
    for path, mode, private in ((folder / "A", 0o640, 0o600), (folder, 0o755, 0o700)):
        path.chmod(mode)
        with pytest.raises(SecretExposed) as caught:
            secrets.value("A")
        assert caught.value.message == f"others may read {path} (mode 0{mode:o})"
        assert caught.value.hint == f"if you still trust it: chmod {private:o} {path}" and caught.value.exit_code == 4
        path.chmod(private)
    assert secrets.value("A") == "value-1"
    (folder / "B").symlink_to(folder / "A")
    with pytest.raises(Exception, match="Too many levels of symbolic links"):
        secrets.value("B")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("../x", "value-1", "'../x' is no name of a secret"),
        (".x", "value-1", "'.x' is no name of a secret"),
        ("A=value-1", "value-1", "'A' is no name of a secret"),
        ("A", "", "the value of A is empty"),
        ("A", "value-1\0", "the value of A has a NUL byte"),
        ("A", "value-1" * LARGEST, "the value of A is larger than 64 KiB"),
    ],
)
def test_refuses_what_is_no_secret(secrets: SecretStore, name: str, value: str, problem: str) -> None:
    with pytest.raises(InputError) as caught:
        secrets.set(name, value)
    assert caught.value.message.startswith(problem) and "value-1" not in f"{caught.value.message}{caught.value.hint}"
    assert secrets.all() == []


def test_names_what_is_not_set(secrets: SecretStore) -> None:
    with pytest.raises(SecretMissing) as caught:
        secrets.require(["A"])
    assert (caught.value.message, caught.value.hint) == ("the secret A is not set", "set it: ugro secret set A")
    with pytest.raises(SecretMissing, match="the secret A is not set"):
        secrets.remove("A")


def test_masks_what_is_set_now(secrets: SecretStore, tmp_path: Path) -> None:
    assert not secrets.masker
    secrets.set("A", "value-1")
    assert secrets.masker.text("value-1 value-2") == "**** value-2" and secrets.masker is secrets.masker
    secrets.set("A", "value-2")
    assert secrets.masker.text("value-1 value-2") == "value-1 ****"
    (tmp_path / "home/secrets/A").chmod(0o644)
    assert secrets.masker.text("value-2") == "****"
    secrets.remove("A")
    assert secrets.masker.text("value-2") == "value-2"


def test_passes_over_foreign_files_that_are_no_text(secrets: SecretStore, tmp_path: Path) -> None:
    secrets.set("GOOD", "value-1")
    folder = tmp_path / "home/secrets"
    (folder / "junk").write_bytes(b"\xb6\xff")
    (folder / "junk").chmod(0o600)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff")).write_bytes(b"\xfe")
    assert secrets.masker.text("value-1") == "****" and [one.name for one in secrets.all()] == ["GOOD", "junk"]
    with pytest.raises(StateError, match="junk is no text in UTF-8") as caught:
        secrets.value("junk")
    assert caught.value.hint == "set it again: ugro secret set junk"
    secrets.remove("junk")


def test_masks_what_is_recorded(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.secrets.set("A", "value-1")
    store.jobs.reserve()
    store.timeline.note("gpu1", EventKind.LEFTOVERS, "ended what job-001 left running: x value-1")
    assert [event.message for event in store.timeline.of_cluster()] == ["ended what job-001 left running: x ****"]


def test_makes_a_token_when_it_is_needed_and_forgets_it(secrets: SecretStore) -> None:
    name = "ugro-token-0123456789ab"
    with pytest.raises(SecretMissing):
        secrets.value(name)  # reading makes none
    assert secrets.missing([name, "x"]) == ["x"]
    secrets.require([name])
    (made,) = secrets.values({"JUPYTER_TOKEN": name}).values()
    assert len(made) == 64 and secrets.value(name) == made and secrets.masker.text(f"a {made}") == "a ****"
    secrets.set("ugro-token-short", "value-1")
    secrets.forget_tokens([name, "ugro-token-short"])
    assert [one.name for one in secrets.all()] == ["ugro-token-short"]


def test_forgets_the_token_of_a_job_with_its_end_unless_another_has_it(tmp_path: Path) -> None:
    store, name = MetadataStore(tmp_path), "ugro-token-0123456789ab"
    spec = JobSpec(script="t.py", secrets=(f"JUPYTER_TOKEN={name}",))
    code = CodeVersion(directory=str(tmp_path), files=1, size_bytes=1)
    jobs = [store.jobs.submit(store.jobs.reserve(), spec, code, now=1.0) for _ in range(2)]
    store.secrets.require([name])
    store.jobs.save(*transitions.end(jobs[0], JobState.CANCELLED, "as requested", 2.0, "as requested"))
    assert store.secrets.value(name)
    store.jobs.save(*transitions.end(jobs[1], JobState.CANCELLED, "as requested", 3.0, "as requested"))
    assert store.secrets.all() == []
