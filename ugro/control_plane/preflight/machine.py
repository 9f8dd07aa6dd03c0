"""The machine of one node: its clock, disk, power and network; and where this machine keeps UGRO's state."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ugro.common.config import NodeConfig
from ugro.common.models.node import NodeView
from ugro.common.text import duration, size
from ugro.control_plane.preflight.findings import Remark, info, ok, problem, warning
from ugro.nodes.remote.checkup.checkup import ClockReading
from ugro.nodes.remote.checkup.machine import MachineReport, Power
from ugro.nodes.remote.run.process_manager import PeerRoute

CLOCK_WARNING_SECONDS = 0.5
DISK_WARNING_MIB = 10 * 1024
DISK_PROBLEM_MIB = 1024
SHM_WARNING_MIB = 1024
OPEN_FILES_WARNING = 1024
"""Fewer than what Linux gives unless configured; DataLoader workers share tensors through open files."""

LOGIND = "/etc/systemd/logind.conf there, and restart systemd-logind"
STAY_AWAKE = "sudo systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target"
ABSENT = ("suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate", "sleep", "poweroff", "halt")

_REMOTE = re.compile(r"nfs|fuse|v9fs|9p|smb|cifs|afs|ceph|lustre|gpfs|gfs|beegfs|panfs|vboxsf")


def judge_clock(clock: ClockReading | None, machine: MachineReport | None) -> Iterator[Remark]:
    """Whether the node's clock agrees with this machine's, as far as could be measured."""
    if clock is None or abs(clock.offset) <= max(CLOCK_WARNING_SECONDS, 2 * clock.uncertainty):
        yield ok("reachable", "answers" if clock is None else "answers, and its clock is right")
        return
    by = f"{abs(clock.offset):.1f} s" if abs(clock.offset) < 60 else duration(abs(clock.offset))
    way = "ahead of" if clock.offset > 0 else "behind"
    why = ", and is not synchronized" if machine and machine.clock_synchronized is False else ""
    hint = "on the machine whose clock is wrong: sudo timedatectl set-ntp true"
    yield warning("clock", f"its clock is {by} {way} this machine's{why}", hint)


def judge_disk(view: NodeView, base_dir: str) -> Iterator[Remark]:
    """Whether there is room for code, logs and checkpoints."""
    free = view.disk_free_mib
    if free is None:
        return
    text = f"{size(free)} free for {base_dir}"
    hint = f"earlier jobs lie in {base_dir}/jobs; or set 'base_dir' of this node to where there is room"
    if free >= DISK_WARNING_MIB:
        yield ok("disk", text)
    else:
        yield (problem if free < DISK_PROBLEM_MIB else warning)("disk", f"only {text}", hint)


def judge_machine(machine: MachineReport) -> Iterator[Remark]:
    """Whether processes survive the logout, and the limits they live in."""
    if not machine.complete:
        yield warning("machine", "it did not answer everything in time", "does nvidia-smi or systemd hang there?")
    if machine.kills_at_logout:
        text = f"a training would end with the connection: logind ends what {machine.user} leaves (KillUserProcesses)"
        lingering = " (that the user lingers does not help)" if machine.linger else ""
        yield problem("logout", text, f"put KillUserProcesses=no into {LOGIND}{lingering}")
    else:
        yield ok("logout", "what is started there outlives the connection")
    if machine.shm_mib is None or machine.shm_mib < SHM_WARNING_MIB:
        text = "there is no /dev/shm" if machine.shm_mib is None else f"/dev/shm has only {size(machine.shm_mib)}"
        hint = "sudo mount -o remount,size=8G /dev/shm; for a container: --shm-size=8g"
        yield warning("shm", f"{text}: DataLoader workers and NCCL may need more", hint)
    if machine.open_files is not None and machine.open_files < OPEN_FILES_WARNING:
        hint = f"a line in /etc/security/limits.conf there: {machine.user} soft nofile 65536"
        yield warning("open files", f"a process may have only {machine.open_files} open files (ulimit -n)", hint)
    if not machine.rsync:
        yield info("rsync", "no rsync there: code is sent through SSH itself, which works as well")


def judge_power(power: Power) -> Iterator[Remark]:
    """Whether the machine may go away: lid, idleness, an empty battery."""
    if power.on_battery:
        charge = "" if power.battery_percent is None else f" ({power.battery_percent} %)"
        yield warning("battery", f"it runs on battery{charge}, which also slows its GPU", "plug it in")
    if power.can_sleep is False:
        return
    if power.laptop and power.lid_action in ABSENT:
        hint = f"leave it open, or put HandleLidSwitch=ignore into {LOGIND}"
        yield warning("sleep", f"a laptop: closing the lid means {power.lid_action}", hint)
    elif power.lid and power.lid_action is None:
        yield info("sleep", "a laptop: what closing the lid does could not be read")
    if power.idle_action in ABSENT:
        after = f" after {power.idle_after}" if power.idle_after else ""
        hint = f"put IdleAction=ignore into {LOGIND}; or {STAY_AWAKE}"
        yield warning("sleep", f"idle means {power.idle_action}{after} (logind's IdleAction)", hint)
    if power.desktop_sleep:
        text = f"its desktop (GNOME) suspends it after {duration(power.desktop_sleep)} without keyboard and mouse"
        yield warning("sleep", text, f"its Settings, Power: no automatic suspend; or {STAY_AWAKE}")


def judge_network(node: NodeConfig, way: PeerRoute | None, machine: MachineReport) -> Iterator[Remark]:
    """Whether the interface towards the other nodes is there, and has a cable."""
    interface = node.interface or (way.interface if way else None)
    if node.interface and machine.interfaces and node.interface not in machine.interfaces:
        hint = f"correct 'interface' of this node; it has {', '.join(machine.interfaces)}"
        yield problem("network", f"there is no interface {node.interface}, which the inventory names", hint)
    elif interface in machine.wireless:
        hint = "use a cable: gradients are exchanged at every step, and all nodes wait for the slowest"
        yield warning("network", f"trains over Wi-Fi ({interface})", hint)
    elif way and way.interface == "lo" and not machine.simulated:
        hint = "set 'address' or 'train_address' of that node to an address that other machines reach"
        yield warning("network", f"the other node's address {way.peer} is this machine itself", hint)
    elif interface:
        yield ok("network", f"trains over {interface}")


def judge_state(folder: str, file_system: str | None) -> Remark:
    """Whether the state directory lies where file locks can be trusted; None is a file system that does not answer."""
    if file_system and not _REMOTE.match(file_system):
        return ok("state", f"the state directory {folder} lies on a local disk ({file_system})")
    how = f"lies on {file_system}, where file locks cannot be trusted" if file_system else "does not answer"
    return problem("state", f"the state directory {folder} {how}", "set UGRO_HOME to a folder on a local disk")
