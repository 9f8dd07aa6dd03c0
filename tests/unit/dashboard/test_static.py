"""Tests of the dashboard's files: vendored ones are as recorded, all are in the wheel, and none fetches anything."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from places import ROOT

STATIC = ROOT / "ugro/dashboard/static"
VENDOR = STATIC / "vendor"
OWN = sorted(path for path in STATIC.rglob("*") if path.is_file() and VENDOR not in path.parents)
LARGEST = 60_000
"""Bytes of our own files, compressed."""


@pytest.mark.parametrize("folder", [VENDOR, ROOT / "tests/browser/vendor"], ids=["page", "tests"])
def test_vendored_files_are_those_of_the_record(folder: Path) -> None:
    recorded = {
        name: digest
        for one in json.loads((folder / "vendor.json").read_text())
        for name, digest in one["files"].items()
    }
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    del found["vendor.json"]
    assert found == recorded


def test_vendored_files_need_no_evaluation_and_no_bare_import() -> None:
    for path in VENDOR.glob("*.js"):
        text = path.read_text()
        assert not re.search(r"\beval\(|new Function|sourceMappingURL", text), path.name
        assert not re.search(r"""\bfrom\s*["'](?!\./)""", text), path.name


def test_own_files_fetch_nothing_from_elsewhere_and_set_no_markup() -> None:
    for path in OWN:
        text = path.read_text()
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert path.suffix != ".js" or len(text.splitlines()) <= 400, path


def test_own_files_are_small() -> None:
    assert len(gzip.compress(b"".join(path.read_bytes() for path in OWN))) < LARGEST


def test_every_import_leads_to_a_file() -> None:
    for path in [*OWN, *VENDOR.glob("*.js")]:
        if path.suffix == ".js":
            for target in re.findall(
                r"""^(?:import|export)\b[^"';]*?from\s*["']([^"']+)["']""", path.read_text(), re.M
            ):
                assert (path.parent / target).resolve().is_file(), f"{path.name}: {target}"


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_modules_are_well_formed() -> None:
    for path in OWN:
        if path.suffix == ".js":
            checked = subprocess.run(
                ["node", "--check", "--input-type=module"], input=path.read_bytes(), capture_output=True
            )
            assert checked.returncode == 0, f"{path}: {checked.stderr.decode()}"


def test_the_wheel_has_every_file(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "ugro", tree / "ugro", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = f"import setuptools.build_meta as made; print(made.build_wheel({str(tmp_path)!r}))"
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", build],
        cwd=tree,
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": ""},
    )
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name.removeprefix("ugro/dashboard/static/") for name in wheel.namelist() if "/static/" in name}
    assert packed == {str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()}
