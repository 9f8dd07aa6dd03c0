"""Reports what the Python that runs it can do: its torch, and whether a product of matrices comes out right.

usage: interpreter.py DEVICE
DEVICE is the UUID of a GPU, `cpu`, or `none`: then nothing is computed. It answers twice: what it knows before it
computes (which may crash or hang), and then what came of that.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import sys
import time
from typing import Any

from ugro.nodes.remote.on_node.answer import answer

DEVICE = sys.argv[1] if __name__ == "__main__" else "none"
if DEVICE not in ("cpu", "none"):  # has to be known before CUDA starts
    os.environ["CUDA_VISIBLE_DEVICES"] = DEVICE

SIZE = 512  # rows and columns: enough for the kernels that a training uses, and a few MiB
TOLERANCE = 0.05  # of the largest number in the product: TF32 has 10 bits


def facts() -> dict[str, Any]:
    """Return what is known without computing anything."""
    found: dict[str, Any] = {
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "executable": sys.executable,
        "prefix": os.path.realpath(sys.prefix),
        "machine": platform.machine(),
        "can_make": importlib.util.find_spec("venv") is not None and importlib.util.find_spec("ensurepip") is not None,
        "torch": None,
        "torch_error": None,
        "distributed": False,
        "cuda": None,
        "archs": [],
    }
    try:
        import torch
    except BaseException as error:
        if not (isinstance(error, ModuleNotFoundError) and error.name == "torch"):
            found["torch_error"] = words(error)
        return found
    try:
        found["distributed"] = torch.distributed.is_available()
        found["cuda"] = torch.version.cuda
        if torch.version.cuda and DEVICE not in ("cpu", "none"):
            found["archs"] = list(torch.cuda.get_arch_list())
        found["torch"] = str(torch.__version__)
    except BaseException as error:  # a folder that is called torch is imported, too
        found["torch_error"] = words(error)
    return found


def matmul() -> dict[str, Any]:
    """Multiply two matrices on the device and compare with the product of the CPU."""
    import torch

    began = time.perf_counter()
    found: dict[str, Any] = {"device": "CPU", "passed": False, "error": None, "seconds": 0.0}
    try:
        one, other = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
        device = torch.device("cpu")
        if DEVICE != "cpu":
            device = torch.device("cuda", 0)
            found["device"] = torch.cuda.get_device_name(device)
        expected = one @ other
        product = (one.to(device) @ other.to(device)).cpu()
        difference = float((product - expected).abs().max() / expected.abs().max())
        found["passed"] = difference < TOLERANCE  # not where it is no number
        if not found["passed"]:
            found["error"] = f"the product is wrong by {difference:.2g}"
    except BaseException as error:
        found["error"] = words(error)
    found["seconds"] = time.perf_counter() - began
    return found


def words(error: BaseException) -> str:
    """An error in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


if __name__ == "__main__":
    known = facts()
    answer("interpreter", known)
    if known["torch"] and DEVICE != "none":
        answer("matmul", matmul())
