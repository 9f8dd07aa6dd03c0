"""Reading training metrics from log lines: CPU time of a line, next to `json.loads` of a short one in the same rounds.

The target is three jobs that print 1,000 lines a second each in less than 5 % of a core: 16 µs a line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from benchmarks.report import CPU, Row, clocked, in_turns, median_ms, ratio
from ugro.control_plane.training_metrics.line_reader import LineReader

GROUP = "metrics in log lines"
LINES, ROUNDS = 20_000, 7
DOCUMENT = '{"step": 12, "loss": 2.31, "learning_rate": 0.0001, "grad_norm": 1.25}'

TRAINERS = {
    "key=value": ("epoch=3 step={n} loss=0.52 lr=1e-4", 16.0),
    "Hugging Face Trainer": (
        "{{'loss': '0.7157', 'grad_norm': '12.79', 'learning_rate': '4e-05', 'epoch': '0.1'}}",
        16.0,
    ),
    "nanoGPT": ("iter {n}: loss 3.1234, time 123.45ms, mfu 41.10%", 16.0),
    "tqdm": (" 12%|█▏   | {n}/100000 [01:00<07:20,  2.0it/s, loss=2.1]\r", 4.0),
    "torchtitan": (
        "[titan] 2025-06-04 08:51:58,557 - root - INFO - step: {n}  loss: 10.7069  memory: 30.99GiB(32.62%)  tps: 7,034"
        "  mfu: 41.19%",
        30.0,
    ),
    "lines without values": (
        "2025-06-04 08:51:58,557 - root - INFO - Fetching shard {n} of 128 from s3://bucket/key",
        3.0,
    ),
}
"""Lines, and how many times that of `json.loads` their time may be."""


def measure() -> Iterator[Row]:
    """The rows of this benchmark."""
    texts = {name: "\n".join(line.format(n=n) for n in range(LINES)) + "\n" for name, (line, _) in TRAINERS.items()}
    lines = zip(*(text.splitlines(keepends=True) for text in texts.values()), strict=True)
    mixed = "".join("".join(one) for one in lines)

    def loads() -> None:
        for _ in range(LINES):
            json.loads(DOCUMENT)

    acts = {name: clocked(lambda text=text: LineReader().feed(text, 0.0)) for name, text in texts.items()}
    acts |= {"all": clocked(lambda: LineReader().feed(mixed, 0.0)), "json": clocked(loads)}
    times = in_turns(acts, ROUNDS)
    base = median_ms(times["json"], CPU) * 1000 / LINES
    for name, (_, limit) in TRAINERS.items():
        each = median_ms(times[name], CPU) * 1000 / LINES
        note = f"{each:.1f} µs a line; json.loads {base:.1f} µs"
        yield Row(GROUP, f"{name}, to json.loads", ratio(times[name], times["json"], CPU), "×", limit, note=note)
    each = median_ms(times["all"], CPU) * 1000 / LINES / len(TRAINERS)
    found = ratio(times["all"], times["json"], CPU)
    note = f"{each:.1f} µs a line; 3,000 lines/s: {each * 0.3:.1f} % of a core"
    yield Row(GROUP, "all of them in one log, to json.loads", found and found / len(TRAINERS), "×", 14.0, note=note)
