"""The files of secrets: their modes, what is refused, and what masks their values."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from ugro.common.errors import InputError
from ugro.common.models.event import EventKind
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


def test_masks_what_is_recorded(tmp_path: Path) -> None:
    store = MetadataStore(tmp_path)
    store.secrets.set("A", "value-1")
    store.jobs.reserve()
    store.timeline.note("gpu1", EventKind.LEFTOVERS, "ended what job-001 left running: x value-1")
    assert [event.message for event in store.timeline.of_cluster()] == ["ended what job-001 left running: x ****"]
