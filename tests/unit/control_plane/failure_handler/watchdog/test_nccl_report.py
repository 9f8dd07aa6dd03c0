"""What NCCL's report of a job says of ranks that differ, in the words of its RAS client."""

from __future__ import annotations

import pytest

from ugro.common.models.job import Rank
from ugro.control_plane.failure_handler.watchdog.nccl_report import Difference, difference

HEAD = """\
NCCL version 2.28.9 compiled with CUDA 13.0
CUDA runtime version 13000, driver version 13000

Job summary
===========
"""
COUNTS = "#0-0 (27a079b828ff1a75) MISMATCH\n  Communicator ranks have different collective operation counts\n"
ONE_BEHIND = (
    "  2 ranks have launched up to operation 6650\n"
    "  Rank 1 has launched up to operation 6649 -- GPU 0 managed by process 101 on node 10.0.0.2\n"
)
TWO_BEHIND = (
    "  26 ranks have launched up to operation 6650\n"
    "  2 ranks have launched up to operation 6649\n"
    "  Rank 0 -- GPU 0 managed by process 100 on node 10.0.0.1\n"
    "  Rank 2 -- GPU 2 managed by process 102 on node 10.0.0.1\n"
)
STATUS = (
    "#0-0 (27a079b828ff1a75) MISMATCH\n  Communicator ranks have different status\n"
    "  2 ranks have status RUNNING\n"
    "  Rank 1 has status FINALIZE -- GPU 0 managed by process 101 on node 10.0.0.2\n"
)


def ranks(*pids: int) -> list[Rank]:
    return [Rank(rank=rank, local_rank=0, node=f"n{rank}", gpu=None, pid=pid) for rank, pid in enumerate(pids)]


@pytest.mark.parametrize(
    ("report", "text", "rank"),
    [
        (COUNTS + ONE_BEHIND, "rank 1 is at operation 6649 of NCCL, others at 6650", 1),
        (COUNTS + TWO_BEHIND, "rank 0, rank 2 are at operation 6649 of NCCL, others at 6650", None),
        # only the first communicator counts: the ranks of the next one are others
        (COUNTS + ONE_BEHIND + "\n" + COUNTS + TWO_BEHIND, "rank 1 is at operation 6649 of NCCL, others at 6650", 1),
        (
            COUNTS + "  8 ranks have launched up to operation 5\n  9 ranks have launched up to operation 4\n",
            "9 ranks at operation 4 of NCCL, others at 5",
            None,
        ),
        (
            "DEAD\n  1 job process is considered dead (unreachable via the RAS network)\n"
            "  Process 102 on node 10.0.0.3 managing GPU 5\n",
            "rank 2 does not answer NCCL",
            2,
        ),
    ],
)
def test_ranks_that_differ(report: str, text: str, rank: int | None) -> None:
    assert difference(HEAD + "Errors\n======\n\n" + report, ranks(100, 101, 102)) == Difference(text, rank)


@pytest.mark.parametrize(
    "report", ["", HEAD, "\0" * 99, STATUS, COUNTS, COUNTS + "  4 ranks have launched up to operation 5\n"]
)
def test_nothing_differs(report: str) -> None:
    assert difference(report, ranks(100, 101, 102)) is None


def test_a_rank_is_known_by_its_pid_or_told_as_the_communicator_counts_it() -> None:
    told = "a communicator's rank 1 is at operation 6649 of NCCL, others at 6650"
    assert difference(COUNTS + ONE_BEHIND, ranks(100, 101, 101)) == Difference(told)
    assert difference(COUNTS + ONE_BEHIND, ranks(101, 102, 103)) == Difference(
        "rank 0 is at operation 6649 of NCCL, others at 6650", 0
    )
