"""Tests of the report's file: its scripts are those that its policy names, and no text ends them."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from ugro.cli.render.report import bundle, report_page

PAGE = report_page("a <b>", {"log": "</script><!--", "nothing": None})


def test_the_policy_names_the_one_script_and_the_one_style() -> None:
    policy = re.findall(r'Content-Security-Policy" content="([^"]+)"', PAGE)
    assert len(policy) == 1 and "default-src 'none'" in policy[0] and "unsafe" not in policy[0]
    (code,) = re.findall(r'<script type="module">(.*?)</script>', PAGE, re.S)
    (style,) = re.findall(r"<style>(.*?)</style>", PAGE, re.S)
    for text in (code, style):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy[0]


def test_no_text_ends_the_data() -> None:
    assert PAGE.count("</script>") == 2 and r"\u003c/script>\u003c!--" in PAGE
    assert "<title>a &lt;b&gt;</title>" in PAGE


def test_a_bundle_has_each_module_once_after_what_it_imports() -> None:
    code = bundle("app/report.js")
    names = re.findall(r'const out = modules\["([^"]+)"\]', code)
    assert len(names) == len(set(names)) and names[-1] == "app/report.js"
    assert names.index("vendor/preact.js") < names.index("app/html.js") < names.index("app/parts.js")
    assert not re.search(r"^(import|export)\b", code, re.M)


def test_a_report_refuses_values_that_are_no_numbers() -> None:
    with pytest.raises(ValueError):
        report_page("t", {"x": float("nan")})
