"""Secret values in what goes to people: masked in lines, documents and pieces of a stream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from ugro.common.job_spec import JobSpec
from ugro.common.masking import MASK, Masker
from ugro.common.models.job_state import JobState
from ugro.service.schemas.logs import LogLine, NumberedLine, Span, UnfinishedLine
from ugro.service.schemas.queue import Hold

TOKEN = "hf_abcdef"
LETTERS = st.text("ab", min_size=6, max_size=9)


def test_masks_values_as_programs_print_them() -> None:
    masker = Masker([TOKEN, 'a"b\\c/d e', "short"])
    assert masker.text(f"token={TOKEN}, {TOKEN}{TOKEN}") == f"token={MASK}, {MASK}{MASK}"
    assert masker.text("https://x/?q=a%22b%5Cc%2Fd%20e") == f"https://x/?q={MASK}"
    assert masker.text(r'{"a": "a\"b\\c/d e"}') == f'{{"a": "{MASK}"}}'
    assert masker.text("a short one") == "a short one"
    assert not Masker(["short"]) and Masker().text("x") == "x" and Masker().piece(b"x") == (b"x", b"")


def test_masks_each_line_of_a_value_of_several() -> None:
    key = "-----BEGIN-----\nMIIEvQIBADANBgkqh\nkiG9w0BAQEF\n"
    masker = Masker([key])
    assert masker.text(f"found:\n{key}!") == f"found:\n{MASK}!"
    assert masker.text("line 2: MIIEvQIBADANBgkqh, line 3: kiG9w0BAQEF") == f"line 2: {MASK}, line 3: kiG9w0BAQEF"


@given(st.lists(LETTERS, max_size=3), st.text("ab", max_size=60), st.lists(st.integers(0, 60), max_size=5))
@example(["aaaaaa", "aaaaaaa"], "aaaaaaaaaaaaaab", [6, 7])
@example(["abaaba", "baabab"], "abaababaabab", [3])
def test_masks_pieces_as_the_whole(values: list[str], text: str, cuts: list[int]) -> None:
    masker, places = Masker(values), [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]

    async def pieces() -> AsyncIterator[bytes]:
        for begin, end in itertools.pairwise(places):
            yield text[begin:end].encode()

    async def joined() -> bytes:
        return b"".join([part async for part in masker.stream(pieces())])

    assert asyncio.run(joined()) == masker.data(text.encode()) == masker.text(text).encode()


def test_masks_texts_of_documents_and_no_words_of_ugro() -> None:
    spec = JobSpec(script="t.py", args=("--token", TOKEN), env={"A": f"x{TOKEN}"})
    found = Masker([TOKEN]).document(spec)
    assert (found.args, found.env) == (("--token", MASK), {"A": f"x{MASK}"})
    assert spec.args[1] == TOKEN
    plain = JobSpec(script="t.py")
    assert Masker([TOKEN]).document(plain) is plain
    assert Masker(["running"]).document({"state": JobState.RUNNING, "why": "running"})["state"] is JobState.RUNNING
    assert Masker(["default"]).document(JobSpec(script="t.py", on_failure={"default": "retry"})).on_failure.default
    assert Masker([TOKEN]).document([(TOKEN, 3, None, {"k": [TOKEN.encode()]})]) == [
        (MASK, 3, None, {"k": [MASK.encode()]})
    ]
    assert Masker(["release-1"]).document(Hold(job="release-1")).job == MASK


def test_masks_the_part_of_a_value_where_a_line_was_cut() -> None:
    masker = Masker([TOKEN])
    begun = UnfinishedLine(line=LogLine(rank=0, node_rank=0, text="token hf_abc"), number=1)
    assert masker.document(begun).line.text == f"token {MASK}"
    ended = begun.line
    assert masker.document(ended).text == "token hf_abc"
    assert masker.document(replace(ended, text="x" * 20_000 + "hf_ab")).text.endswith(f"x{MASK}")
    cut = NumberedLine(rank=0, number=1, offset=0, text="bcdef and hf_a", before=3, after=5)
    assert masker.document(cut).text == f"{MASK} and {MASK}"
    assert masker.document(replace(cut, before=0, after=0)).text == "bcdef and hf_a"
    bold = (Span(text="hf_", class_="bold"), Span(text="abcdef", class_=""))
    styled = NumberedLine(rank=0, number=1, offset=0, text=TOKEN, spans=bold)
    assert [span.text for span in masker.document(styled).spans] == [MASK]
