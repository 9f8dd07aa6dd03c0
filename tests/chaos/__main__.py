"""`make chaos SEED=…`: many faults on a sandbox of its own; `LOG=…` lets those of a log happen again."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from chaos.faults import read_log, schedule
from chaos.world import SPEED, world


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which faults happen")
    parser.add_argument("--minutes", type=float, default=180.0, help="of simulated time")
    parser.add_argument("--speed", type=float, default=SPEED, help="how much faster than simulated time")
    parser.add_argument("--log", type=Path, help="the log of a run whose faults are to happen again")
    asked = parser.parse_args()
    faults = read_log(asked.log.read_text().splitlines()) if asked.log else schedule(asked.seed, asked.minutes)
    root = Path(tempfile.mkdtemp(prefix="ugro-chaos-"))
    path = root / "faults.jsonl"
    origin = f"those of {asked.log}" if asked.log else f"seed {asked.seed}"
    print(f"{len(faults)} faults ({origin}), in {faults[-1].at / asked.speed:.0f} s; their log: {path}", flush=True)
    with open(path, "w", encoding="utf-8") as log:
        print(json.dumps({"seed": asked.seed, "minutes": asked.minutes, "speed": asked.speed}), file=log)
        with world(root, log) as made:
            made.play(faults, asked.speed)
    if made.wrong:
        print(*path.read_text().splitlines()[-40:], *made.wrong, sep="\n")
        print(f"{origin}: {len(made.wrong)} things are wrong; to see it again: make chaos LOG={path}", file=sys.stderr)
        return 1
    print("every job finished or failed honestly; nothing was lost or left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
