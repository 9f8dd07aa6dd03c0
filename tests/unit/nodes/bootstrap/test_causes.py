"""The likely causes of a refused key, in order."""

from __future__ import annotations

from typing import Any

import pytest

from ugro.nodes.bootstrap.causes import likely_causes
from ugro.nodes.remote.account.account import Account, FileMode

SOUND = {"home": FileMode(0o755, 1000), "ssh": FileMode(0o700, 1000), "file": FileMode(0o600, 1000)}


def causes(**fields: Any) -> list[str]:
    given: dict[str, Any] = {"user": "ob", "uid": 1000, "home": "/home/ob", "modes": SOUND, "config": ()}
    found = likely_causes(Account(**(given | {"config_path": "/etc/ssh/sshd_config"} | fields)))
    assert all(cause.text and cause.remedy for cause in found)
    return [f"{cause.text} -> {cause.remedy}" for cause in found]


def test_names_the_log_where_nothing_is_wrong() -> None:
    assert causes() == ["sshd names its reason in its log -> sudo journalctl -u ssh -u sshd -n 20"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"modes": SOUND | {"home": FileMode(0o777, 1000)}}, "others can write /home/ob (mode 0777)"),
        ({"modes": SOUND | {"ssh": FileMode(0o700, 1001)}}, "sudo chown ob /home/ob/.ssh"),
        ({"config": ("AuthorizedKeysFile /k/%u",)}, "sudo tee -a /k/ob < /home/ob/.ssh/authorized_keys"),
        ({"config": ("authorizedkeysfile=none",)}, "sshd reads keys from none"),
        ({"config": ("PubkeyAuthentication no",)}, "PubkeyAuthentication no"),
        ({"config": ("AllowUsers ann ben",)}, "allowusers ann ben -> is ob among them?"),
        ({"config": ("AuthenticationMethods publickey,password",)}, "asks for more than a key"),
        ({"config": ("PermitRootLogin no",), "uid": 0, "modes": {}}, "PermitRootLogin no"),
        ({"config": None}, "sudo sshd -T -C user=ob"),
        ({"selinux": "Enforcing"}, "restorecon -RFv /home/ob/.ssh"),
        ({"selinux": "Enforcing", "filesystem": "nfs"}, "sudo setsebool -P use_nfs_home_dirs 1"),
        ({"filesystem": "nfs4"}, "is on nfs4"),
        ({"homeless": True, "modes": {}}, "sudo mkhomedir_helper ob"),
    ],
)
def test_names_the_likely_cause_first(fields: dict[str, Any], expected: str) -> None:
    assert expected in causes(**fields)[0]


def test_takes_usual_settings_for_no_cause() -> None:
    usual = ("AuthorizedKeysFile .ssh/authorized_keys .ssh/authorized_keys2", "PubkeyAuthentication yes")
    assert len(causes(config=(*usual, "AuthenticationMethods any", "PermitRootLogin no"), selinux="Permissive")) == 1


def test_quotes_what_the_machine_says() -> None:
    [cause, *_] = causes(home="/home/o b", modes={"home": FileMode(0o777, 1000)})
    assert cause.endswith("-> chmod go-w '/home/o b'")
