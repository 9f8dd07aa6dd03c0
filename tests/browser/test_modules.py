"""Tests of what the page computes before it draws: pure functions, run where they are used."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser.canned import Canned
from browser.conftest import watch
from browser.pages import open_canned
from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def page(chromium: Browser) -> Iterator[Page]:
    """One page for all: what is called in it keeps nothing."""
    faults: list[str] = []
    context = chromium.new_context()
    watch(context, faults)
    yield open_canned(context, Canned(), "#/nowhere")
    context.close()
    assert faults == []


def called(page: Page, module: str, function: str, *arguments: Any) -> Any:
    """What a function of a module returns."""
    call = "async ([module, name, given]) => (await import(`/static/app/${module}.js`))[name](...given)"
    return page.evaluate(call, [module, function, list(arguments)])


def test_shows_unknown_values_as_a_dash(page: Page) -> None:
    for function in ("number", "figure", "gib", "bytes", "duration", "clock"):
        for value in (None, float("nan")):
            assert called(page, "words", function, value) == "—", function


def test_numbers_are_short_and_have_units(page: Page) -> None:
    assert [called(page, "words", "duration", one) for one in (3, 75, 600, 7500, 200_000)] == [
        "3 s", "1 min 15 s", "10 min", "2 h 5 min", "2 d 7 h"
    ]  # fmt: skip
    assert [called(page, "words", "bytes", one) for one in (0, 999, 1500, 2.5e9)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 GB",
    ]
    assert [called(page, "words", "figure", one) for one in (0.0003, 0.52341, 12.34567, 41234.5, 1e9)] == [
        "3e-4", "0.52341", "12.346", "41,235", "1e9"
    ]  # fmt: skip
    assert called(page, "words", "shell", ["a.py", "--name", "it's"]) == """a.py --name 'it'"'"'s'"""


def test_an_axis_without_outliers(page: Page) -> None:
    points = [[x, 1 + x / 100] for x in range(98)] + [[98, 1e9], [99, None], [100, -1e9]]
    assert called(page, "series", "inner", [points]) == pytest.approx([1.0, 1.97])
    assert called(page, "series", "inner", [[[0, 5]], []]) == [4.5, 5.5]
    assert called(page, "series", "inner", [[[0, None]]]) is None


def test_smoothing_starts_unbiased_and_bridges_no_gap(page: Page) -> None:
    smooth = called(page, "series", "smoothed", [[0, 2], [1, 4], [2, None], [3, 10]], 0.5)
    assert smooth[0] == [0, 2] and smooth[1][1] == pytest.approx(10 / 3) and smooth[2:] == [[2, None], [3, 10]]
    assert called(page, "series", "smoothed", [[0, 1], [1, 2]], 0) == [[0, 1], [1, 2]]


def test_a_logarithmic_axis_hides_and_counts_what_has_no_place(page: Page) -> None:
    found = called(page, "series", "above", [[0, 1], [1, 0], [2, -3], [3, None]])
    assert found == {"points": [[0, 1], [1, None], [2, None], [3, None]], "hidden": 2}


def test_a_resumed_job_has_a_step_for_each_time(page: Page) -> None:
    steps = [{"start": 0, "end": 100}, {"start": 80, "end": 200}]
    times = [{"start": 1000, "end": 1100}, {"start": 2000, "end": 2240}]
    script = """async ([steps, times]) => {
        const of = (await import("/static/app/series.js")).stepOfTime(steps, times);
        return [1000, 1050, 1500, 2120].map(of);
    }"""
    assert page.evaluate(script, [steps, times]) == [0, 50, None, 140]


def test_a_delta_replaces_items_and_removes_those_that_are_null(page: Page) -> None:
    before = {"at": 1, "jobs": {"a": {"x": 1}, "b": {"x": 2}}, "queue": ["a"], "known": True}
    after = called(page, "live", "merged", before, {"at": 2, "jobs": {"a": None, "c": {"x": 3}}, "queue": []})
    assert after == {"at": 2, "jobs": {"b": {"x": 2}, "c": {"x": 3}}, "queue": [], "known": True}


def test_the_slowest_direction_of_the_fastest_backend_is_shown(page: Page) -> None:
    basis = {"latency_ms": 1, "measured_at": None}
    links = {
        str(at): {"source": source, "target": target, "backend": backend, "gbit_per_s": speed} | basis
        for at, (source, target, backend, speed) in enumerate(
            [("a", "b", "gloo", 2), ("b", "a", "gloo", 1), ("a", "b", "nccl", 9), ("b", "a", "nccl", 8)]
        )
    }
    (pair,) = called(page, "map", "linked", links)
    assert pair["ends"] == ["a", "b"] and pair["shown"]["gbit_per_s"] == 8 and len(pair["all"]) == 4


@pytest.mark.parametrize("count", [3, 4, 6, 7])
def test_nodes_stand_on_the_map_in_the_order_of_the_inventory(page: Page, count: int) -> None:
    nodes = [{"name": f"gpu{number}", "gpus": []} for number in range(count)]
    spots = called(page, "map", "layout", nodes, 900)["spots"]
    as_read = sorted(spots, key=lambda name: (round(spots[name]["y"], 3), spots[name]["x"]))
    assert as_read == [node["name"] for node in nodes]


def test_a_lane_tells_idle_from_free_and_from_unobserved(page: Page) -> None:
    def sample(minute: int, job: str | None, use: int | None) -> dict[str, Any]:
        at = f"2026-01-01T00:{minute:02}:00.000+00:00"
        return {"at": at, "job": job, "program": None, "utilization_percent": use}

    samples = [sample(1, "j", 90), sample(2, "j", 0), sample(3, None, 0), sample(13, None, None)]
    start = 1767225600000
    sums = called(page, "lanes", "sums", samples, start, start + 20 * 60_000)
    assert sums == {"held": 120, "busy": 60, "wasted": 60, "free": 60, "unseen": 600 + 420}
    columns = called(page, "lanes", "columns", samples, start, start + 20 * 60_000, 20)
    assert [bool(one) for one in columns[:6]] == [False, True, True, True, False, False]


def test_names_values_that_are_no_numbers(page: Page) -> None:
    line = {"points": [[1, 2], [2, None], [3, None]], "bad": [[2, "nan"], [3, "-inf"]]}
    assert called(page, "series", "noNumber", line) == "-inf"
    assert [called(page, "series", "noNumber", line, x) for x in (1, 2)] == [None, "NaN"]
    assert called(page, "series", "noNumber", {"points": [], "bad": []}) is None


def test_csv_quotes_names(page: Page) -> None:
    assert called(page, "series", "csv", "step", [{"label": 'a,"b"', "points": [[1, 2], [2, None]]}]).splitlines() == [
        "series,step,value",
        '"a,""b""",1,2',
        '"a,""b""",2,nan',
    ]


def test_jobs_of_a_sweep_are_sorted_as_numbers_and_those_that_run_are_drawn_first(page: Page) -> None:
    values = [("1e-3", 0.5), ("0.01", None), ("1e-4", 0.25), ("auto", 0.75)]
    jobs = [
        {"id": f"job-{at}", "index": at, "state": "running" if at == 4 else "succeeded"}
        | {"values": {"lr": lr}, "metric": metric, "last": metric}
        for at, (lr, metric) in enumerate(values, 1)
    ]

    def order(column: str, down: bool = False) -> list[int]:
        return [one["index"] for one in called(page, "sweeps", "sorted", jobs, column, down)]

    assert (order("number", True), order("best"), order("best", True)) == ([4, 3, 2, 1], [3, 1, 4, 2], [4, 1, 3, 2])
    assert order("value lr") == [3, 1, 2, 4] and order("value no") == [1, 2, 3, 4]
    lowest = {"jobs": jobs, "highest": False}
    assert [one["index"] for one in called(page, "sweep", "drawn", lowest, 2)] == [3, 4]  # one runs, one is the best
    failed = {**lowest, "best": "job-1"}  # that of the lowest value failed
    assert [one["index"] for one in called(page, "sweep", "drawn", failed, 2)] == [1, 4]
    assert [called(page, "curves", "literal", name) for name in ("loss", "a[0]*?")] == ["loss", "a[[]0][*][?]"]


def test_no_command_has_a_name_that_a_terminal_would_obey(page: Page) -> None:
    assert called(page, "files", "pullLine", "job-001", "out/a b*.pt") == "ugro pull job-001 'out/a b\\*.pt'"
    for name in ("a\nb", "a\x1b[31m", "gpj.\u202eexe", "a "):
        assert called(page, "files", "pullLine", "job-001", name) is None
    assert called(page, "words", "visible", "a\nb\u202e\u2066<c>") == "a�b��<c>"
