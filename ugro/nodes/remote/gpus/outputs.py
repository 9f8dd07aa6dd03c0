"""nvidia-smi as it is on a node: its GPUs asked one by one, and its outputs word for word, for those who check what
UGRO makes of them.
"""

from __future__ import annotations

import re
import secrets

from ugro.common.models.node import NodeView
from ugro.nodes.remote.answers import read_sections
from ugro.nodes.remote.gpus.gpu_monitor import PROBE_SCRIPT, hear, parse_probe
from ugro.nodes.transport import Transport

WITHIN = 60.0

_CSV = "nvidia-smi --format=csv,nounits --query"
OUTPUTS = {
    "list": "nvidia-smi -L",
    "gpus": f"{_CSV}-gpu=index,uuid,memory.total,memory.used,memory.free,utilization.gpu,temperature.gpu,"
    "driver_version,power.draw,mig.mode.current,clocks.sm,clocks.mem,clocks_event_reasons.active,name",
    "gpus-old-names": f"{_CSV}-gpu=index,uuid,clocks_throttle_reasons.active,name",
    "unknown-field": f"{_CSV}-gpu=index,no.such.field",
    "processes": f"{_CSV}-compute-apps=gpu_uuid,pid,used_memory,process_name",
    "checkup": "nvidia-smi --format=csv,noheader --query-gpu=uuid,persistence_mode,compute_cap",
    "table": "nvidia-smi",
}
"""Each output by its name, and the command."""

_UUID = re.compile(r"(GPU|MIG)-[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


async def look_one_by_one(transport: Transport) -> NodeView:
    """Ask a node for its view, with a question of its own for each GPU, as where one of them hides all others.

    Raises:
        NodeError: as `gpu_monitor.look`.
    """
    nonce = secrets.token_hex(8)
    heard = await hear(transport, PROBE_SCRIPT, (transport.node.base_dir, nonce, "10", "each"), nonce, WITHIN)
    return parse_probe(transport.name, heard.text, heard.began_at, heard.ended_at, nonce)


async def capture(transport: Transport) -> dict[str, str]:
    """Return each output by its name, with its exit code in the last line. UUIDs are replaced by made-up ones.

    Raises:
        NodeError: as `Transport.run` does.
    """
    nonce = secrets.token_hex(8)
    lines = ["PATH=$PATH:/usr/lib/wsl/lib:/usr/local/nvidia/bin"]
    for name, command in OUTPUTS.items():
        lines += [f'echo "@$1 {name}"', f'timeout -k 2 10 {command} < /dev/null 2>&1; echo "exit $?"']
    outcome = await transport.run("\n".join([*lines, 'echo "@$1 -"']), (nonce,), timeout=WITHIN)
    known: dict[str, str] = {}

    def made_up(match: re.Match[str]) -> str:
        return known.setdefault(match[0], f"{match[1]}-00000000-0000-0000-0000-{len(known) + 1:012x}")

    sections = read_sections(outcome.text, nonce)
    return {one.name: "".join(f"{_UUID.sub(made_up, line)}\n" for line in one.lines) for one in sections}
