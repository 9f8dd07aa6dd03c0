"""Which faults happen when: a pure function of a seed, and the form in which they are written down and read again."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass

NODES = ("gpu-master", "gpu1", "gpu2")


@dataclass(frozen=True, order=True)
class Fault:
    """Something that happens, `at` seconds of simulated time after the start.

    `pick` chooses among what there is at that moment (ranks, jobs), in an order that does not depend on chance.
    """

    at: float
    kind: str
    node: str = ""
    pick: int = 0
    steps: int = 0
    ranks: int = 0
    policy: str = ""


SINGLE = {
    "kill_rank": 5,
    "kill_torchrun": 2,
    "kill_run": 2,
    "tear_checkpoint": 4,
    "kill_controller": 3,
    "drop_connections": 2,
    "submit": 10,
    "cancel": 1,
    "resume": 2,
    "approve": 2,
    "deny": 1,
}
"""Faults that are over at once, and what people do; how often each of them, relative to the others."""

LASTING = {
    "pause_rank": ("continue_ranks", 2),
    "unplug": ("plug", 3),
    "crash": ("plug", 2),
    "drain": ("undrain", 2),
    "hold": ("release", 1),
}
"""Those that something else ends after a while, and how often."""

EVERY = 45.0
"""Seconds of simulated time between two faults, on average."""

LASTS = (20.0, 180.0)
"""Seconds of simulated time until a lasting one is over."""

POLICIES = ("retry", "retry", "retry", "ask", "fail")


def schedule(seed: int, minutes: float) -> list[Fault]:
    """The faults of so many minutes of simulated time. A longer schedule of the same seed begins with a shorter one."""
    chance = random.Random(seed)
    kinds = SINGLE | {kind: weight for kind, (_, weight) in LASTING.items()}
    faults = [_submission(chance, 0.0, "retry"), _submission(chance, 0.0, "retry")]
    at = 0.0
    while (at := at + chance.expovariate(1 / EVERY)) < minutes * 60:
        [kind] = chance.choices(list(kinds), list(kinds.values()))
        node, pick, lasts = chance.choice(NODES), chance.randrange(1000), chance.uniform(*LASTS)
        if kind == "submit":
            faults.append(_submission(chance, at, chance.choice(POLICIES)))
            continue
        faults.append(Fault(round(at, 1), kind, node=node, pick=pick))
        if kind in LASTING:
            faults.append(Fault(round(at + lasts, 1), LASTING[kind][0], node=node, pick=pick))
    return sorted(fault for fault in faults if fault.at < minutes * 60)


def _submission(chance: random.Random, at: float, policy: str) -> Fault:
    ranks = chance.choice((1, 2, 2, 3))
    return Fault(round(at, 1), "submit", ranks=ranks, steps=chance.randrange(80, 280), policy=policy)


def written(fault: Fault, did: str) -> str:
    """One line of a log of faults: the fault, and what it came to."""
    return json.dumps({"fault": asdict(fault), "did": did})


def read_log(lines: Iterable[str]) -> list[Fault]:
    """The faults of a log, whatever else was written between them."""
    return [Fault(**entry["fault"]) for entry in map(json.loads, lines) if "fault" in entry]
