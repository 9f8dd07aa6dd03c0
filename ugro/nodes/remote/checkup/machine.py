"""What a machine says of power, sleep, logout, interfaces and limits: `on_node/checkup.sh` collects, this reads."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from pydantic import Field

from ugro.common.errors import CommandTimedOut, LinkLost, NodeRefused
from ugro.common.models.record import Record
from ugro.nodes.remote.answers import read_sections
from ugro.nodes.remote.bundle import load
from ugro.nodes.transport import Transport
from ugro.nodes.transport.base import OUTPUT_LIMIT

TIMEOUT = 40.0

PORTABLE_CHASSIS = {"8", "9", "10", "14", "30", "31", "32"}
"""SMBIOS types: portable, laptop, notebook, sub-notebook, tablet, convertible, detachable."""

_GPU_ROW = re.compile(r"(GPU-[0-9A-Fa-f-]{8,64}), ([^,]+)(?:, (\d{1,3}\.\d{1,2}))?")

Said = Mapping[str, list[str]]
"""The values of each name that checkup.sh printed."""


class Power(Record):
    """What could take the machine away in its sleep.

    `lid_action` and `idle_action` are what logind would do; `can_sleep` is False where nothing can send the machine to
    sleep, None where that is unknown. `desktop_sleep` is when GNOME suspends an idle machine, in seconds.
    """

    laptop: bool = False
    lid: bool = False
    lid_action: str | None = None
    on_battery: bool = False
    battery_percent: int | None = None
    can_sleep: bool | None = None
    idle_action: str | None = None
    idle_after: str | None = None
    desktop_sleep: int | None = None


class MachineReport(Record):
    """The machine's answer to a checkup; None where it does not say.

    `simulated`: it is one of the sandbox's. `open_files` is None where there is no limit. `kills_at_logout`: logind
    ends what a user's session leaves behind. `persistence` and `compute_caps` are by UUID of the GPU. `complete` is
    False when the answer ended early.
    """

    user: str
    simulated: bool = False
    open_files: int | None = None
    shm_mib: int | None = None
    rsync: bool = False
    interfaces: tuple[str, ...] = ()
    wireless: tuple[str, ...] = ()
    clock_synchronized: bool | None = None
    linger: bool = False
    kills_at_logout: bool | None = None
    power: Power = Power()
    persistence: dict[str, bool] = Field(default_factory=dict)
    compute_caps: dict[str, str] = Field(default_factory=dict)
    complete: bool = True


async def ask_machine(transport: Transport, *, with_gpus: bool) -> MachineReport:
    """Ask a machine, nvidia-smi only if `with_gpus`. What came before a question that hangs counts.

    Raises:
        NodeRefused: the answer cannot be understood.
        NodeError: as `Transport.run` does.
    """
    nonce = secrets.token_hex(8)
    heard = bytearray()

    def keep(stream: str, chunk: bytes) -> None:
        if stream == "stdout" and len(heard) < OUTPUT_LIMIT:
            heard.extend(chunk)

    args = (nonce, "gpus") if with_gpus else (nonce,)
    try:
        await transport.run(load("checkup/checkup.sh"), args, timeout=TIMEOUT, on_output=keep)
    except (CommandTimedOut, LinkLost):
        if not heard:
            raise
    machine = parse_machine(heard.decode("utf-8", "replace"), nonce)
    if machine is None:
        raise NodeRefused(transport.name, "its answer to a checkup cannot be understood", "a Linux machine is expected")
    return machine


def parse_machine(output: str, nonce: str) -> MachineReport | None:
    """Understand the output of checkup.sh; None if it says nothing."""
    said: dict[str, list[str]] = {}
    for section in read_sections(output, nonce):
        said.setdefault(section.name, []).append(section.rest)
    if "user" not in said:
        return None
    user = said["user"][0]
    logind = dict(line.partition("=")[::2] for line in said.get("logind", []))
    gpus = list(filter(None, map(_GPU_ROW.fullmatch, said.get("gpu", []))))
    return MachineReport(
        user=user,
        simulated="simulated" in said,
        open_files=_whole(_one(said, "open_files")),
        shm_mib=_shm_mib(_one(said, "shm")),
        rsync="rsync" in said,
        interfaces=tuple(said.get("interface", ())),
        wireless=tuple(said.get("wireless", ())),
        clock_synchronized={"yes": True, "no": False}.get(_one(said, "ntp").removeprefix("NTPSynchronized=")),
        linger="linger" in said,
        kills_at_logout=_kills(logind, user) if logind else None,
        power=_power(said, logind),
        persistence={match[1]: match[2] == "Enabled" for match in gpus if match[2] in ("Enabled", "Disabled")},
        compute_caps={match[1]: match[3] for match in gpus if match[3]},
        complete="end" in said,
    )


def _kills(logind: Mapping[str, str], user: str) -> bool:
    """logind's own rule. Lingering does not help: what it kills is the session's scope, where sshd's commands live."""
    if user in (logind.get("KillExcludeUsers") or "root").split():
        return False
    if only := logind.get("KillOnlyUsers", "").split():
        return user in only
    return logind.get("KillUserProcesses") == "yes"


def _power(said: Said, logind: Mapping[str, str]) -> Power:
    supplies = [words for line in said.get("supply", []) if len(words := line.split(maxsplit=4)) == 5]
    # A mouse has a battery too: its scope is Device.
    batteries = [supply for supply in supplies if supply[0] == "Battery" and supply[1] != "Device"]
    plugged = any(kind != "Battery" and online == "1" for kind, _, online, _, _ in supplies)
    on_battery = any(status == "Discharging" for *_, status in batteries) and not plugged
    return Power(
        laptop=bool(batteries or "lid" in said or PORTABLE_CHASSIS & set(said.get("chassis", []))),
        lid="lid" in said,
        lid_action=_lid_action(logind, on_battery),
        on_battery=on_battery,
        battery_percent=next((_whole(percent) for *_, percent, _ in batteries), None),
        can_sleep=_can_sleep(said),
        idle_action=logind.get("IdleAction"),
        idle_after=logind.get("IdleActionUSec"),
        desktop_sleep=_desktop_sleep(said, "battery" if on_battery else "ac"),
    )


def _lid_action(logind: Mapping[str, str], on_battery: bool) -> str | None:
    if logind.get("Docked") == "yes":
        return logind.get("HandleLidSwitchDocked")
    plugged_in = None if on_battery else logind.get("HandleLidSwitchExternalPower")
    return plugged_in or logind.get("HandleLidSwitch")


def _can_sleep(said: Said) -> bool | None:
    if "masked" in said or _one(said, "can_suspend") == 's "na"':
        return False
    return True if "can_suspend" in said else None


def _desktop_sleep(said: Said, power: str) -> int | None:
    if _one(said, f"gnome_{power}_type").strip("'") in ("", "nothing", "blank"):
        return None
    return _whole(_one(said, f"gnome_{power}_timeout")) or None


def _one(said: Said, name: str) -> str:
    return said.get(name, [""])[0]


def _whole(word: str) -> int | None:
    return int(word) if re.fullmatch(r"[0-9]{1,15}", word) else None


def _shm_mib(words: str) -> int | None:
    blocks, _, size = words.partition(" ")
    count, block_size = _whole(blocks), _whole(size)
    return None if count is None or block_size is None else count * block_size // 2**20
