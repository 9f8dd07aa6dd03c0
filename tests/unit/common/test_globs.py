"""Globs of files below a folder."""

from __future__ import annotations

import re

import pytest

from ugro.common.errors import JobSpecError
from ugro.common.globs import check_glob, glob_regex, literal_part
from ugro.common.job_spec import job_spec


@pytest.mark.parametrize(
    ("glob", "names", "others"),
    [
        ("out/**", ["out/x", "out/a/b.pt"], ["out", "outer/x", "a/out/x"]),
        ("out", ["out", "out/x", "out/a/b"], ["outer", "a/out"]),
        ("*.pt", ["a.pt"], ["a/b.pt", "apt"]),
        ("a/*/b?.txt", ["a/x/b1.txt"], ["a/b1.txt", "a/x/y/b1.txt"]),
        ("**/x.pt", ["x.pt", "a/b/x.pt"], ["a/yx.pt"]),
        ("!a", ["!a"], ["a"]),
        ("#a", ["#a"], ["a"]),
        ("ep[1-3]", ["ep2"], ["ep4"]),
        (r"a\[1\].txt", ["a[1].txt"], ["a1.txt"]),
    ],
)
def test_fits_the_paths_that_a_glob_names(glob: str, names: list[str], others: list[str]) -> None:
    regex = re.compile(glob_regex(check_glob(glob)))
    assert [name for name in names if not regex.search(name)] == []
    assert [name for name in others if regex.search(name)] == []


def test_knows_below_which_folder_a_glob_is() -> None:
    assert [literal_part(glob) for glob in ("out/**", "*.pt", "a/b/c?", "a/b")] == ["out", "", "a/b", "a/b"]


@pytest.mark.parametrize("glob", ["", ".", "/", "/x", "~/x", "..", "a/../b", "a\nb"])
def test_refuses_globs_that_lead_out_of_the_folder_or_name_nothing(glob: str) -> None:
    with pytest.raises(ValueError, match=r"is expected|leads out"):
        check_glob(glob)
    with pytest.raises(JobSpecError, match="--outputs: "):
        job_spec(script="t.py", outputs=(glob,))


def test_keeps_declared_outputs_once_and_in_their_shortest_form() -> None:
    assert job_spec(script="t.py", outputs=("./out/", "out", "*.pt")).outputs == ("out", "*.pt")
    assert job_spec(script="t.py", outputs="out/**").outputs == ("out/**",)
