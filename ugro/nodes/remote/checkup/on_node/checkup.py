"""Reports what a Python and its torch can do, in one object. Runs under any Python, also one without torch.

usage: checkup.py [cuda]
Without `cuda` no GPU is touched: a sick one would hold this process for good.
"""

from __future__ import annotations

import sys
import warnings
from typing import Any

from ugro.nodes.remote.on_node.answer import answer


def look(ask_cuda: bool) -> dict[str, Any]:
    """Return what is known without torch, and then what torch reports."""
    facts: dict[str, Any] = {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "executable": sys.executable,
        "torch": None,
        "torch_error": None,
        "distributed": False,
        "cuda": None,
        "cuda_available": None,
        "cuda_error": None,
        "devices": 0,
        "nccl": None,
        "archs": [],
    }
    try:
        import torch
    except Exception as error:
        # That there is no torch says itself; a torch that is there and broken has more to say.
        if not (isinstance(error, ModuleNotFoundError) and error.name == "torch"):
            facts["torch_error"] = words(error)
        return facts
    facts["torch"] = str(torch.__version__)
    facts["distributed"] = torch.distributed.is_available()
    facts["cuda"] = torch.version.cuda
    if torch.version.cuda:
        facts["nccl"] = nccl_version(torch)
        if ask_cuda:
            facts.update(cuda_facts(torch))
    return facts


def nccl_version(torch: Any) -> str | None:
    """`2.21.5`, or None where torch was built without NCCL."""
    try:
        version = torch.cuda.nccl.version()
    except Exception:
        return None
    return ".".join(str(part) for part in version) if isinstance(version, tuple) else str(version)


def cuda_facts(torch: Any) -> dict[str, Any]:
    """Whether torch can use the GPUs; if not, the warning in which it says why."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            available, devices, archs = torch.cuda.is_available(), torch.cuda.device_count(), torch.cuda.get_arch_list()
        except Exception as error:
            return {"cuda_available": False, "cuda_error": words(error)}
    said = [words(warning.message) for warning in caught if "CUDA" in str(warning.message)]
    return {
        "cuda_available": available,
        "cuda_error": said[0] if said and not available else None,
        "devices": devices,
        "archs": archs,
    }


def words(error: object) -> str:
    """An error or warning in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


if __name__ == "__main__":
    answer("checkup", look("cuda" in sys.argv[1:]))
