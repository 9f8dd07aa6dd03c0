"""Why a key login fails although the key is installed: the likely causes, in order, from what the machine shows. Pure.

sshd refuses silently: it names its reason in its own log alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ugro.nodes.remote.account.account import Account

USUAL_FILES = (".ssh/authorized_keys", "%h/.ssh/authorized_keys", "~/.ssh/authorized_keys")
NETWORK = ("nfs", "nfs4", "fuseblk", "lustre", "fuse.glusterfs", "ceph", "smb2", "cifs")


@dataclass(frozen=True)
class LikelyCause:
    """A cause, and the command that would end it. Commands with sudo are for an administrator; UGRO runs none."""

    text: str
    remedy: str


def likely_causes(account: Account) -> list[LikelyCause]:
    """Return the likely causes, the most certain first; the last one is where sshd itself names its reason."""
    return [*_modes(account), *_configured(account), *_system(account), _log(account)]


def _modes(account: Account) -> Iterator[LikelyCause]:
    if account.homeless:
        yield LikelyCause(
            f"the home directory {account.home} does not exist", f"sudo mkhomedir_helper {shlex.quote(account.user)}"
        )
    paths = {"home": account.home, "ssh": f"{account.home}/.ssh", "file": f"{account.home}/.ssh/authorized_keys"}
    for name, path in paths.items():
        found = account.modes.get(name)
        if found is None:
            continue
        quoted = shlex.quote(path)
        if found.uid not in (account.uid, 0):
            owner = f"{path} belongs to another user (uid {found.uid})"
            yield LikelyCause(owner, f"sudo chown {shlex.quote(account.user)} {quoted}")
        elif found.open_to_others:
            yield LikelyCause(
                f"others can write {path} (mode {found.mode:04o}), and sshd then uses no key of it (StrictModes)",
                f"chmod go-w {quoted}",
            )


def _configured(account: Account) -> Iterator[LikelyCause]:
    where = account.config_path
    if account.config is None:
        show = (
            f"sudo sshd -T -C user={shlex.quote(account.user)} | grep -i -e authorizedkeys -e pubkey -e allow -e deny"
        )
        yield LikelyCause(f"{where or 'its configuration'} may not be read, and may keep keys elsewhere", show)
        return
    said = [line.replace("=", " ", 1).split() for line in account.config]
    options = [(words[0].lower(), words[1:]) for words in said if words]
    matched = any(name == "match" for name, _ in options)
    for name, values in options:
        words = " ".join(values)
        if name == "pubkeyauthentication" and words.lower() == "no":
            yield LikelyCause(f"{where} has PubkeyAuthentication no", "sudo sed -i /^PubkeyAuthentication/d " + where)
        elif name == "authorizedkeysfile" and not {*values} & {*USUAL_FILES}:
            first = _expanded(values[0] if values else "none", account)
            add = f"sudo tee -a {shlex.quote(first)} < {shlex.quote(account.home + '/.ssh/authorized_keys')}"
            yield LikelyCause(
                f"sshd reads keys from {words}, not from ~/.ssh/authorized_keys (AuthorizedKeysFile in {where})", add
            )
    for name, values in options:
        words = " ".join(values)
        if name == "permitrootlogin" and account.uid == 0 and words.lower() not in ("yes", "prohibit-password"):
            yield LikelyCause(
                f"{where} has PermitRootLogin {words}", "log in as another user: ugro node add USER@ADDRESS"
            )
        elif name in ("allowusers", "denyusers", "allowgroups", "denygroups"):
            yield LikelyCause(f"{where} limits who may log in: {name} {words}", f"is {account.user} among them?")
        elif name == "authenticationmethods" and words.lower() not in ("any", "publickey"):
            yield LikelyCause(f"{where} asks for more than a key: AuthenticationMethods {words}", "see `next`")
    if matched:
        yield LikelyCause(f"{where} has rules for some users or addresses (Match)", "do they concern this login?")


def _expanded(path: str, account: Account) -> str:
    tokens = {"%u": account.user, "%h": account.home, "%U": str(account.uid), "%%": "%"}
    for token, value in tokens.items():
        path = path.replace(token, value)
    return path if path.startswith("/") else f"{account.home}/{path}"


def _system(account: Account) -> Iterator[LikelyCause]:
    if account.selinux == "Enforcing":
        again = f"restorecon -RFv {shlex.quote(account.home + '/.ssh')}"
        if account.filesystem in NETWORK:
            again = "sudo setsebool -P use_nfs_home_dirs 1"
        yield LikelyCause("SELinux may keep sshd from reading ~/.ssh", again)
    elif account.filesystem in NETWORK:
        yield LikelyCause(
            f"the home directory is on {account.filesystem}, which sshd may not be able to read as root",
            "sudo cat ~/.ssh/authorized_keys there shows whether it can",
        )


def _log(account: Account) -> LikelyCause:
    return LikelyCause("sshd names its reason in its log", "sudo journalctl -u ssh -u sshd -n 20")
