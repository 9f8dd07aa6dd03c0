"""ssh_config(5) as UGRO understands it, option by option, beside what the OpenSSH client says itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from places import DOCS

from ugro.common.config import NodeConfig
from ugro.common.errors import (
    AuthenticationFailed,
    HostKeyChanged,
    HostKeyUnknown,
    KeyUnusable,
    NodeError,
    TurnedAway,
    Unreachable,
)
from ugro.nodes.code_sync.rsync import ssh_command
from ugro.nodes.transport.ssh import SshTransport
from ugro.nodes.transport.ssh_config import SshSettings, find_route
from ugro.nodes.transport.ssh_options import BY_NAME, OPTIONS, OptionUse, not_honoured
from ugro.testing.ssh_server import ScriptedServer, new_key

pytestmark = pytest.mark.skipif(not shutil.which("ssh"), reason="no OpenSSH client is installed here")


@pytest.fixture
async def server(tmp_path: Path, home: Path) -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer(tmp_path, "server").listen() as found:
        yield found


Write = Callable[..., NodeConfig]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write an ssh_config, and return a node that is reached with it."""

    def node(config: str, known: str = "", address: str = "gpu", **more: Any) -> NodeConfig:
        (tmp_path / "known").write_text(known)
        (tmp_path / "config").write_text(config + "\n")
        return NodeConfig(name="gpu1", address=address, ssh_config=str(tmp_path / "config"), **more)

    return node


async def reach(node: NodeConfig) -> str:
    transport = SshTransport(node)
    try:
        return (await transport.run("echo reached", timeout=10)).text
    finally:
        await transport.close()


async def refused(node: NodeConfig, kind: type[NodeError]) -> NodeError:
    with pytest.raises(kind) as refusal:
        await reach(node)
    assert type(refusal.value) is kind
    return refusal.value


async def said_by(*command: str) -> bytes:
    """The output of a real `ssh`, whose servers are in this process."""
    null, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=null, stdout=pipe)
    return (await process.communicate())[0]


def base(server: ScriptedServer, folder: Path, key: bool = True) -> str:
    """The part of an ssh_config that every test of a server needs."""
    lines = f"HostName 127.0.0.1\nPort {server.port}\nUserKnownHostsFile {folder}/known\nGlobalKnownHostsFile none\n"
    return lines + (f"IdentityFile {folder}/server\nIdentitiesOnly yes\nIdentityAgent none\n" if key else "")


# The table


def test_every_option_of_the_installed_ssh_is_in_the_table() -> None:
    said = subprocess.run(["ssh", "-G", "-F", "none", "x"], capture_output=True, text=True, check=True).stdout
    names = {line.partition(" ")[0].lower() for line in said.splitlines()}
    assert names <= {*BY_NAME, "host"}
    assert len(OPTIONS) == len(BY_NAME)
    assert all(
        option.note
        for option in OPTIONS
        if option.use in (OptionUse.AT_LOGIN, OptionUse.AT_HOST_KEY, OptionUse.REFUSED)
    )
    values: dict[str, tuple[str, ...]] = {}
    for line in said.splitlines():
        name, _, value = line.partition(" ")
        values[name.lower()] = (*values.get(name.lower(), ()), value)
    named = not_honoured(values, OptionUse.AT_LOGIN, OptionUse.AT_HOST_KEY, OptionUse.REFUSED)
    assert not named, "no default is worth a word"


def test_the_docs_have_every_option() -> None:
    page = (DOCS / "ssh_config.md").read_text()
    for option in OPTIONS:
        assert f"`{option.name}`" in page, option.name


# Resolution


async def test_a_file_is_read_as_ssh_reads_it(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "included").write_text(
        f"Host gpu\n  User of-include\n  IdentityFile {tmp_path}/second # and a comment\n"
    )
    monkeypatch.setenv("WHERE", "there")
    node = write(
        f"""
Include {tmp_path}/included
Match originalhost gpu exec "test %n = gpu"
  IdentityFile "{tmp_path}/with space/%n-%r-%p-%h" # a comment
  Port=2200
  HostName = %h.example
Match host other
  IdentityFile /never
Host *
  IdentityFile /${{WHERE}}/key
  UserKnownHostsFile {tmp_path}/a "{tmp_path}/b c/d"
"""
    )
    (tmp_path / "b c").mkdir()
    (tmp_path / "b c/d").touch()
    [found] = await find_route(node)
    assert (found.host, found.port, found.user) == ("gpu.example", 2200, "of-include")
    assert [found.path(name) for name in found.all("identityfile")] == [
        f"{tmp_path}/second",
        f"{tmp_path}/with space/gpu-of-include-2200-gpu.example",
        "/there/key",
    ]
    assert found.files("userknownhostsfile") == [f"{tmp_path}/a", f"{tmp_path}/b c/d"]


async def test_the_inventory_comes_before_the_file(write: Write) -> None:
    [found] = await find_route(write("Host gpu\n  User a\n  Port 1\n", user="b", port=2))
    assert (found.user, found.port) == ("b", 2)
    assert found.by_hand.endswith("-p 2 -l b gpu")
    [found] = await find_route(write("Host gpu\n  IdentityFile ~/a\n", user="b", identity_file="~/my key"))
    assert found.by_hand.endswith(f"-l b -i '{Path('~/my key').expanduser()}' gpu")


async def test_reports_a_mistake_with_its_line(write: Write) -> None:
    error = await refused(write("Host gpu\n  Prot 22\n"), KeyUnusable)
    assert "line 2" in error.message and "prot" in error.message and error.hint.startswith("correct it")
    error = await refused(write("", "").model_copy(update={"ssh_config": "/nowhere/at all"}), KeyUnusable)
    assert "/nowhere/at all does not exist" in error.message


async def test_jump_hosts_have_settings_of_their_own(write: Write) -> None:
    node = write(
        "Host gpu\n  ProxyJump u@b:2022,c # two\nHost b\n  HostName b.example\n  ProxyJump a\n"
        "Host c\n  User see\n  ProxyCommand never\n  ProxyJump never\nHost a\n  ProxyCommand nc %h %p\n"
    )
    route = await find_route(node)
    assert [hop.label for hop in route] == ["a", "u@b:2022", "c", "gpu"]
    assert [hop.host for hop in route] == ["a", "b.example", "c", "gpu"]
    assert (route[1].user, route[1].port, route[2].user) == ("u", 2022, "see")
    assert [hop.get("proxycommand") for hop in route] == ["nc %h %p", "", "", ""]
    rsync = ssh_command(node, route)
    assert sum("StrictHostKeyChecking=yes" in word for word in rsync) == 2, "the node's, and in its ProxyCommand"
    assert rsync[-1].count("StrictHostKeyChecking=yes") == 3 or any(
        word.count("StrictHostKeyChecking=yes") == 3 for word in rsync
    )
    circle = write("Host gpu\n  ProxyJump a\nHost a\n  ProxyJump b\nHost b\n  ProxyJump a\n")
    assert "more than 8 hosts" in (await refused(circle, KeyUnusable)).message


async def test_without_an_openssh_client_the_file_is_read_too(
    write: Write, server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    node = write(base(server, tmp_path), server.known())
    assert await reach(node) == "reached\n"
    error = await refused(write("Host gpu\n  IdentityFile k # comment\n"), KeyUnusable)
    assert "install the OpenSSH client" in error.hint


# Options that are honoured, against a server


async def test_keys_are_offered_as_ssh_offers_them(server: ScriptedServer, write: Write, tmp_path: Path) -> None:
    for name in ("wrong", "wrong2"):
        new_key(tmp_path / name)
    config = base(server, tmp_path, key=False) + "IdentityAgent none\n"
    several = "".join(f"IdentityFile {tmp_path}/{name} # {name}\n" for name in ("missing", "wrong", "wrong2", "server"))
    assert await reach(write(config + several, server.known())) == "reached\n"
    error = await refused(
        write(f"{config}IdentityFile {tmp_path}/wrong\nUser ob\n", server.known()), AuthenticationFailed
    )
    assert "ob@127.0.0.1 does not accept our key" in error.message and f"{tmp_path}/wrong" in error.message
    assert f"ssh-copy-id -i {tmp_path}/wrong.pub -F {tmp_path}/config gpu" in error.hint
    node = write(config + several, server.known(), identity_file=str(tmp_path / "wrong"))
    assert "wrong2" not in (await refused(node, AuthenticationFailed)).message


async def test_keys_that_cannot_be_used_are_named(server: ScriptedServer, write: Write, tmp_path: Path) -> None:
    config = base(server, tmp_path, key=False) + "IdentityAgent none\n"
    new_key(tmp_path / "locked", passphrase="secret")
    error = await refused(write(f"{config}IdentityFile {tmp_path}/locked\n", server.known()), KeyUnusable)
    assert f"{tmp_path}/locked is encrypted, and no agent holds it" in error.message and "ssh-add" in error.hint
    (tmp_path / "garbage").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n")
    error = await refused(write(f"{config}IdentityFile {tmp_path}/garbage\n", server.known()), KeyUnusable)
    assert f"{tmp_path}/garbage cannot be used" in error.message
    error = await refused(write(f"{config}IdentityFile {tmp_path}/server.pub\n", server.known()), KeyUnusable)
    assert "is a public key, and no agent holds its private one" in error.message
    error = await refused(write(f"{config}IdentityFile none\n", server.known()), AuthenticationFailed)
    assert "there is none" in error.message and "ssh-keygen -t ed25519" in error.hint
    error = await refused(
        write(f"{config}PubkeyAcceptedAlgorithms rsa-sha2-512\nIdentityFile {tmp_path}/server\n", server.known()),
        KeyUnusable,
    )
    assert "PubkeyAcceptedAlgorithms leaves out" in error.message
    (tmp_path / "server").chmod(0o644)
    server.allowed.clear()
    error = await refused(write(f"{config}IdentityFile {tmp_path}/server\n", server.known()), AuthenticationFailed)
    assert f"chmod 600 {tmp_path}/server" in error.message


async def test_an_agent_is_asked_where_the_file_says(
    server: ScriptedServer, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = tmp_path / "agent sock"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            await asyncio.sleep(0.01)
        for name in ("other", "server"):
            if name == "other":
                new_key(tmp_path / name)
            environment = os.environ | {"SSH_AUTH_SOCK": str(socket)}
            subprocess.run(["ssh-add", "-q", tmp_path / name], env=environment, check=True, stderr=subprocess.DEVNULL)
        public = tmp_path / "only.pub"
        (tmp_path / "server.pub").rename(public)
        (tmp_path / "server").unlink()
        config = base(server, tmp_path, key=False)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        assert await reach(write(f'{config}IdentityAgent "{socket}"\n', server.known())) == "reached\n"
        monkeypatch.setenv("MY_AGENT", str(socket))
        assert await reach(write(f"{config}IdentityAgent $MY_AGENT\n", server.known())) == "reached\n"
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        assert await reach(write(config, server.known())) == "reached\n"
        one = f"{config}IdentitiesOnly yes\nIdentityFile {public}\n"
        assert await reach(write(one, server.known())) == "reached\n"
        await refused(write(f"{config}IdentityAgent none\n", server.known()), AuthenticationFailed)
        await refused(
            write(f"{config}IdentitiesOnly yes\nIdentityFile {tmp_path}/other\n", server.known()), AuthenticationFailed
        )
    finally:
        agent.terminate()
        agent.wait()


async def test_a_certificate_is_shown(write: Write, tmp_path: Path, home: Path) -> None:
    authority = new_key(tmp_path / "ca")
    server = ScriptedServer(tmp_path, "server")
    server.allowed = set()
    key = asyncssh.read_public_key(tmp_path / "server.pub")
    authority.generate_user_certificate(key, "me", principals=["ob"]).write_certificate(tmp_path / "me-cert.pub")

    class Door(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def validate_ca_key(self, username: str, key: asyncssh.SSHKey) -> bool:
            return key == authority.convert_to_public()

        def public_key_auth_supported(self) -> bool:
            return True

    async with server.listen(server_factory=Door):
        config = base(server, tmp_path) + "User ob\n"
        await refused(write(config, server.known()), AuthenticationFailed)
        assert await reach(write(f"{config}CertificateFile {tmp_path}/me-cert.pub\n", server.known())) == "reached\n"


@pytest.mark.parametrize(
    "known",
    ["alias {key}\n", "|hashed|", "@cert-authority *.nowhere ssh-ed25519 AAAA\nalias {key}\n"],
    ids=["plain", "hashed", "with others"],
)
async def test_the_alias_alone_names_the_host_key(
    server: ScriptedServer, write: Write, tmp_path: Path, known: str
) -> None:
    line = known.format(key=server.public)
    config = base(server, tmp_path) + "HostKeyAlias Alias\n"
    if known == "|hashed|":
        (tmp_path / "plain").write_text(f"alias {server.public}\n")
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", tmp_path / "plain"], check=True, capture_output=True)
        line = (tmp_path / "plain").read_text()
    assert await reach(write(config, line)) == "reached\n"
    [found] = await find_route(write(config, line))
    assert found.known_as == "alias"
    await refused(write(config, server.known()), HostKeyUnknown)


async def test_host_keys_are_never_taken_on_trust(server: ScriptedServer, write: Write, tmp_path: Path) -> None:
    config = base(server, tmp_path)
    for option in (
        "StrictHostKeyChecking no",
        "StrictHostKeyChecking accept-new",
        "NoHostAuthenticationForLocalhost yes",
        f"KnownHostsCommand /bin/echo '{server.known().strip()}'",
        "VerifyHostKeyDNS yes",
    ):
        error = await refused(write(f"{config}{option}\n"), HostKeyUnknown)
        assert f"{option.split()[0]} " in error.message and "is not honoured" in error.message, option
    other = new_key(tmp_path / "other").export_public_key().decode()
    await refused(write(config, f"[127.0.0.1]:{server.port} {other}"), HostKeyChanged)
    revoked = f"@revoked * {server.public}\n"
    assert "REVOKED" in (await refused(write(config, server.known() + revoked), HostKeyChanged)).message
    (tmp_path / "revoked").write_text(f"# old\n{server.public}\n")
    node = write(f"{config}RevokedHostKeys {tmp_path}/revoked\n", server.known())
    assert "REVOKED" in (await refused(node, HostKeyChanged)).message
    (tmp_path / "revoked").write_bytes(b"SSHKRL\n\0")
    assert "KRL" in (await refused(node, KeyUnusable)).message
    (tmp_path / "revoked").unlink()
    assert "No such file" in (await refused(node, KeyUnusable)).message
    await refused(write(config.replace(f"{tmp_path}/known", "none"), server.known()), HostKeyUnknown)
    await refused(write(config, f"127.0.0.2 {server.public}\n"), HostKeyUnknown)


async def test_several_known_hosts_files_count(server: ScriptedServer, write: Write, tmp_path: Path) -> None:
    (tmp_path / "global").write_text(server.known())
    config = base(server, tmp_path).replace(
        "GlobalKnownHostsFile none", f"GlobalKnownHostsFile /nowhere {tmp_path}/global"
    )
    assert await reach(write(config)) == "reached\n"
    config = base(server, tmp_path).replace(f"{tmp_path}/known", f"/nowhere {tmp_path}/known")
    assert await reach(write(config, server.known())) == "reached\n"


async def test_a_host_certificate_is_checked(write: Write, tmp_path: Path, home: Path) -> None:
    authority = new_key(tmp_path / "ca")
    server = ScriptedServer(tmp_path, "server")
    line = f"@cert-authority * {authority.export_public_key().decode()}"
    for principal, reached in (("127.0.0.1", True), ("elsewhere", False)):
        certificate = authority.generate_host_certificate(server.host_key, "host", principals=[principal])
        async with server.listen(server_host_keys=[(server.host_key, certificate)]):
            node = write(base(server, tmp_path), line)
            if reached:
                assert await reach(node) == "reached\n"
            else:
                assert "certificate is not valid" in (await refused(node, HostKeyUnknown)).message


HONOURED = {
    "Ciphers aes256-ctr": ("send_cipher", "aes256-ctr"),
    "Ciphers -chacha20*,aes128*,aes192*": ("send_cipher", "aes256-ctr"),
    "Ciphers ^aes256-gcm@openssh.com": ("send_cipher", "aes256-gcm@openssh.com"),
    "Ciphers aes256-ctr\nMACs hmac-sha2-512": ("send_mac", "hmac-sha2-512"),
    "Ciphers chacha20-poly1305@openssh.com": ("send_cipher", "chacha20-poly1305@openssh.com"),
    "Ciphers chacha20-poly1305@openssh.com,aes256-gcm@openssh.com": ("send_cipher", "aes256-gcm@openssh.com"),
    "Ciphers aes256-ctr,aes256-gcm@openssh.com": ("send_cipher", "aes256-ctr"),
    "Compression yes": ("send_compression", "zlib@openssh.com"),
    "Compression no": ("send_compression", "none"),
    "User ob": ("username", "ob"),
    "AddressFamily inet\nBindAddress 127.0.0.3": ("sockname", "127.0.0.3"),
    "BindInterface lo": ("sockname", "127.0.0.1"),
    "ConnectTimeout 3\nConnectionAttempts 2\nTCPKeepAlive no\nRekeyLimit 1G 1h": ("username", None),
    "KexAlgorithms curve25519-sha256\nHostKeyAlgorithms ssh-ed25519": ("username", None),
    "RequestTTY force\nRemoteCommand false\nSessionType none\nForwardAgent yes\nForwardX11 yes": ("username", None),
    "LocalForward 127.0.0.1:1 x:1\nExitOnForwardFailure yes\nControlMaster auto\nControlPath /x": ("username", None),
    "PermitLocalCommand yes\nLocalCommand touch /nowhere/x\nVisualHostKey yes\nLogLevel DEBUG3": ("username", None),
    "GSSAPIAuthentication yes\nPKCS11Provider /nowhere\nPreferredAuthentications gssapi-with-mic,publickey": (
        "username",
        None,
    ),
    "CheckHostIP yes\nHashKnownHosts yes\nUpdateHostKeys yes\nFingerprintHash md5\nIPQoS none": ("username", None),
}


@pytest.mark.parametrize("option", HONOURED)
async def test_an_option_is_honoured_or_does_no_harm(
    server: ScriptedServer, write: Write, tmp_path: Path, option: str
) -> None:
    transport = SshTransport(write(f"{base(server, tmp_path)}{option}\n", server.known()))
    try:
        assert (await transport.run("echo reached")).text == "reached\n"
        assert transport._connection
        name, wanted = HONOURED[option]
        found = transport._connection.get_extra_info(name)
        assert wanted is None or wanted in (found, found[0])
    finally:
        await transport.close()


REFUSED = {
    "PubkeyAuthentication no": "PubkeyAuthentication false is not honoured",
    "PreferredAuthentications password": "leaves out publickey",
    "ProxyCommand true\nProxyUseFdpass yes": "ProxyUseFdpass yes is not honoured",
    "Ciphers aes128-cbc\nMACs umac-64@openssh.com": "",
    "RequiredRSASize 99999": "",
}


@pytest.mark.parametrize("option", list(REFUSED)[:3])
async def test_names_options_that_cannot_be_honoured(
    server: ScriptedServer, write: Write, tmp_path: Path, option: str
) -> None:
    error = await refused(write(f"{base(server, tmp_path)}{option}\n", server.known()), KeyUnusable)
    assert REFUSED[option] in error.message and f"ssh -G -F {tmp_path}/config gpu" in error.hint


async def test_small_rsa_keys_are_left_out(server: ScriptedServer, write: Write, tmp_path: Path) -> None:
    server.allowed = {new_key(tmp_path / "rsa", "ssh-rsa", key_size=2048).public_data}
    config = base(server, tmp_path, key=False) + f"IdentityAgent none\nIdentityFile {tmp_path}/rsa\n"
    assert await reach(write(config, server.known())) == "reached\n"
    error = await refused(write(f"{config}RequiredRSASize 3000\n", server.known()), KeyUnusable)
    assert "2048 bits, fewer than RequiredRSASize" in error.message


async def test_the_environment_is_sent_but_for_the_language(
    server: ScriptedServer, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "t")
    monkeypatch.setenv("LC_ALL", "C")
    config = f'{base(server, tmp_path)}SendEnv LC_* MY_*\nSetEnv "A=b c" D=e\n'
    assert await reach(write(config, server.known())) == "reached\n"
    assert server.environments[-1] == {"MY_TOKEN": "t", "A": "b c", "D": "e"}


async def test_a_proxy_command_carries_the_connection_and_its_errors_are_shown(
    server: ScriptedServer, write: Write, tmp_path: Path
) -> None:
    relay = tmp_path / "re lay"
    relay.write_text(
        "#!/bin/sh\necho a warning >&2\nexec python3 -c 'import socket,sys,threading,os\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
        "def up():\n while d:=os.read(0,65536): s.sendall(d)\n s.shutdown(1)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        'while d:=s.recv(65536): os.write(1,d)\n\' "$1" "$2"\n'
    )
    relay.chmod(relay.stat().st_mode | stat.S_IXUSR)
    config = base(server, tmp_path)
    assert await reach(write(f'{config}ProxyCommand "{relay}" %h %p # comment\n', server.known())) == "reached\n"
    assert await reach(write(f"{config}ProxyCommand none\n", server.known())) == "reached\n"
    error = await refused(write(f"{config}ProxyCommand echo no way >&2; exit 1\n", server.known()), Unreachable)
    assert "its ProxyCommand says: no way" in error.message
    error = await refused(write(f"{config}ProxyCommand /no/such/program\n", server.known()), Unreachable)
    assert "/no/such/program" in error.message


async def test_each_jump_host_is_reached_with_its_own_keys(
    server: ScriptedServer, write: Write, tmp_path: Path, home: Path
) -> None:
    async with (
        ScriptedServer(tmp_path, "jump").listen() as jump,
        ScriptedServer(tmp_path, "last jump").listen() as last,
    ):
        (tmp_path / "known of jump").write_text(f"the-jump {jump.public}\n")
        config = f"""
Host gpu
  ProxyJump hop@jump,last:{last.port} # two of them
  {base(server, tmp_path).replace(chr(10), chr(10) + "  ")}
Host jump
  HostName 127.0.0.1
  Port {jump.port}
  HostKeyAlias the-jump
  UserKnownHostsFile "{tmp_path}/known of jump"
  IdentityFile {tmp_path}/jump # its own
  IdentityAgent none
Host last
  HostName 127.0.0.1
  User second
  UserKnownHostsFile {tmp_path}/known
  IdentityFile "{tmp_path}/last jump"
  IdentityAgent none
"""
        node = write(config, server.known() + last.known())
        assert await reach(node) == "reached\n"
        assert (jump.users, last.users) == (["hop"], ["second"])
        rsync = ssh_command(node, await find_route(node))
        for command in (["ssh", "-o", "BatchMode=yes", "-F", f"{tmp_path}/config"], rsync):
            assert await said_by(*command, "gpu", "echo by ssh") == b"by ssh\n"
        assert (jump.users, last.users) == (["hop"] * 3, ["second"] * 3)
        del jump.forwards[1:], last.forwards[1:]
        assert (jump.forwards, last.forwards) == ([("127.0.0.1", last.port)], [("127.0.0.1", server.port)])
        error = await refused(write(config, server.known()), HostKeyUnknown)
        assert f"the host key of the jump host last:{last.port}" in error.message
        by_hand = error.hint.partition(": ")[2]
        assert by_hand.startswith(f"ssh -F {tmp_path}/config -p {last.port} -J ") and by_hand.endswith(" last")
        last.allowed.clear()
        error = await refused(write(config, server.known() + last.known()), AuthenticationFailed)
        assert "the jump host second@127.0.0.1 does not accept our key" in error.message
        assert not SshTransport(node).peer_address


# Logins that fail


async def test_shows_what_a_server_says_that_refuses_the_connection(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"Not allowed at this time\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as door:
        port = door.sockets[0].getsockname()[1]
        error = await refused(write(f"HostName 127.0.0.1\nPort {port}\nConnectTimeout 1\n"), TurnedAway)
    assert "it says: Not allowed at this time" in error.message and "PerSourcePenalties" in error.hint


async def test_reports_a_server_that_takes_no_keys(write: Write, tmp_path: Path, home: Path) -> None:
    server = ScriptedServer(tmp_path, "server")

    class NoKeys(asyncssh.SSHServer):
        def begin_auth(self, username: str) -> bool:
            return True

        def password_auth_supported(self) -> bool:
            return True

    async with server.listen(server_factory=NoKeys):
        error = await refused(write(base(server, tmp_path), server.known()), AuthenticationFailed)
        assert "takes no keys, only: " in error.message and "password" in error.message


def test_a_label_of_settings_is_as_typed() -> None:
    settings = SshSettings("me@there", "there", {"port": ("2200",), "hostname": ("h",)}, ("-F", "a b", "-l", "me"))
    assert settings.by_hand == "ssh -F 'a b' -l me there"
    assert settings.known_as == "[h]:2200"
