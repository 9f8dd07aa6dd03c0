"""Every option of ssh_config(5) and what UGRO does about it: data alone, for the code, the tests and the docs.

The options are those of OpenSSH 9.2 and what later versions added. `ssh -G` has resolved them by the time they count
here: `Host`, `Match`, `Include`, `Tag`, canonical names and prefixes of lists (`+ - ^`) are its work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class OptionUse(StrEnum):
    """What becomes of an option. The three last ones are named to the person when they are set and matter."""

    HONOURED = "honoured"
    IGNORED = "harmless to ignore"
    AT_LOGIN = "not honoured; named when the login fails"
    AT_HOST_KEY = "not honoured; named when the host key is refused"
    REFUSED = "not honoured; a node that sets it is refused"


@dataclass(frozen=True)
class Option:
    """One option. `note` says why, or what to do instead; with a value among `unset` it counts as not set.

    One that is about a `method` to log in matters only where sshd offers that.
    """

    name: str
    use: OptionUse
    note: str = ""
    unset: tuple[str, ...] = ("", "no", "false", "none")
    method: str = ""


def _options(use: OptionUse, note: str, *names: str) -> list[Option]:
    return [Option(name, use, note) for name in names]


OPTIONS: tuple[Option, ...] = (
    # Which settings count is decided by `ssh -G`.
    *_options(OptionUse.HONOURED, "by `ssh -G`", "Host", "Match", "Include", "IgnoreUnknown", "Tag"),
    *_options(
        OptionUse.HONOURED,
        "by `ssh -G`",
        *("CanonicalDomains", "CanonicalizeFallbackLocal", "CanonicalizeHostname", "CanonicalizeMaxDots"),
        "CanonicalizePermittedCNAMEs",
    ),
    # The way there
    *_options(OptionUse.HONOURED, "", "Hostname", "Port", "User", "AddressFamily", "BindAddress", "BindInterface"),
    *_options(OptionUse.HONOURED, "each jump host with its own settings", "ProxyJump"),
    *_options(OptionUse.HONOURED, "what it says on stderr is shown when the connection fails", "ProxyCommand"),
    *_options(
        OptionUse.HONOURED, "", "ConnectTimeout", "ConnectionAttempts", "TCPKeepAlive", "Compression", "RekeyLimit"
    ),
    *_options(OptionUse.HONOURED, "the connection is refused with its text", "RefuseConnection"),
    Option("ProxyUseFdpass", OptionUse.REFUSED, "use a ProxyCommand that passes the data on, or ProxyJump"),
    *_options(OptionUse.IGNORED, "UGRO's own (5 s, 3 times) notices a lost node soon", "ServerAliveInterval"),
    *_options(OptionUse.IGNORED, "as ServerAliveInterval", "ServerAliveCountMax"),
    *_options(OptionUse.IGNORED, "the system's default serves as well", "IPQoS"),
    *_options(OptionUse.HONOURED, "as far as UGRO's SSH library has them", "Ciphers", "MACs", "KexAlgorithms"),
    # Who we are
    *_options(OptionUse.HONOURED, "all of them, in ssh's order", "IdentityFile", "CertificateFile"),
    *_options(OptionUse.HONOURED, "", "IdentitiesOnly", "IdentityAgent", "PubkeyAcceptedAlgorithms", "RequiredRSASize"),
    Option("PubkeyAcceptedKeyTypes", OptionUse.HONOURED, "the old name of PubkeyAcceptedAlgorithms"),
    Option(
        "PubkeyAuthentication",
        OptionUse.REFUSED,
        "UGRO logs in with a key alone: set it to yes",
        unset=("", "yes", "true", "unbound", "host-bound"),
    ),
    Option("PreferredAuthentications", OptionUse.HONOURED, "a list without publickey refuses the node"),
    Option("PKCS11Provider", OptionUse.AT_LOGIN, "load its keys into the agent: ssh-add -s PROVIDER"),
    Option(
        "SecurityKeyProvider",
        OptionUse.AT_LOGIN,
        "load the security key into the agent: ssh-add",
        unset=("", "no", "none", "internal", "$SSH_SK_PROVIDER"),
    ),
    Option(
        "GSSAPIAuthentication", OptionUse.AT_LOGIN, "UGRO logs in with a key: ssh-copy-id", method="gssapi-with-mic"
    ),
    Option("HostbasedAuthentication", OptionUse.AT_LOGIN, "UGRO logs in with a key: ssh-copy-id", method="hostbased"),
    *_options(OptionUse.IGNORED, "part of GSSAPIAuthentication", "GSSAPIDelegateCredentials", "GSSAPIKeyExchange"),
    *_options(
        OptionUse.IGNORED,
        "part of GSSAPIAuthentication",
        *("GSSAPIClientIdentity", "GSSAPIServerIdentity", "GSSAPIRenewalForcesRekey", "GSSAPITrustDns"),
        "GSSAPIKexAlgorithms",
    ),
    *_options(
        OptionUse.IGNORED,
        "part of HostbasedAuthentication",
        *("EnableSSHKeysign", "HostbasedAcceptedAlgorithms", "HostbasedKeyTypes"),
    ),
    *_options(
        OptionUse.IGNORED,
        "UGRO asks for no password",
        *("BatchMode", "PasswordAuthentication", "KbdInteractiveAuthentication", "KbdInteractiveDevices"),
        *("ChallengeResponseAuthentication", "NumberOfPasswordPrompts"),
    ),
    *_options(OptionUse.IGNORED, "UGRO adds nothing to the agent", "AddKeysToAgent"),
    # Who the node is
    *_options(
        OptionUse.HONOURED, "", "UserKnownHostsFile", "GlobalKnownHostsFile", "HostKeyAlias", "HostKeyAlgorithms"
    ),
    *_options(OptionUse.HONOURED, "a file of public keys; a binary list (KRL) refuses the node", "RevokedHostKeys"),
    Option(
        "StrictHostKeyChecking",
        OptionUse.AT_HOST_KEY,
        "UGRO trusts no key without your confirmation: ugro trust",
        unset=("", "ask", "yes", "true"),
    ),
    *_options(
        OptionUse.AT_HOST_KEY, "its keys must stand in a known_hosts file", "KnownHostsCommand", "VerifyHostKeyDNS"
    ),
    *_options(OptionUse.AT_HOST_KEY, "UGRO checks every host key", "NoHostAuthenticationForLocalhost"),
    *_options(OptionUse.IGNORED, "the name alone counts, as is ssh's default", "CheckHostIP"),
    *_options(OptionUse.IGNORED, "`ugro trust` writes plain names; hashed ones are read", "HashKnownHosts"),
    *_options(OptionUse.IGNORED, "only `ugro trust` writes to known_hosts", "UpdateHostKeys"),
    *_options(OptionUse.IGNORED, "UGRO's SSH library has its own list", "CASignatureAlgorithms"),
    *_options(OptionUse.IGNORED, "UGRO shows SHA256 fingerprints", "FingerprintHash", "VisualHostKey"),
    # What a session is
    *_options(OptionUse.HONOURED, "but for LANG and LC_*: UGRO reads what programs print", "SendEnv", "SetEnv"),
    *_options(
        OptionUse.IGNORED,
        "UGRO runs its own commands, without a terminal",
        *("RemoteCommand", "RequestTTY", "SessionType", "StdinNull", "ForkAfterAuthentication", "EscapeChar"),
        *("EnableEscapeCommandline", "ObscureKeystrokeTiming", "LocalCommand", "PermitLocalCommand"),
    ),
    *_options(
        OptionUse.IGNORED,
        "UGRO forwards nothing",
        *("ForwardAgent", "ForwardX11", "ForwardX11Timeout", "ForwardX11Trusted", "XAuthLocation"),
        *("LocalForward", "RemoteForward", "DynamicForward", "ClearAllForwardings", "ExitOnForwardFailure"),
        *("GatewayPorts", "PermitRemoteOpen", "StreamLocalBindMask", "StreamLocalBindUnlink"),
        *("Tunnel", "TunnelDevice", "ChannelTimeout"),
    ),
    *_options(OptionUse.IGNORED, "UGRO keeps connections itself", "ControlMaster", "ControlPath", "ControlPersist"),
    *_options(OptionUse.IGNORED, "", "LogLevel", "LogVerbose", "SyslogFacility", "VersionAddendum", "WarnWeakCrypto"),
)

BY_NAME: Mapping[str, Option] = {option.name.lower(): option for option in OPTIONS}


def not_honoured(values: Mapping[str, Sequence[str]], *uses: OptionUse, offered: Sequence[str] = ()) -> list[str]:
    """Return the options of these uses that are set, each as a sentence for people: what is set, and what to do.

    `values` are by lower-case name, as `ssh -G` prints them; `offered` are the methods to log in that sshd names.
    """
    found = [(option, value) for name, option in BY_NAME.items() for value in values.get(name, ())[:1]]
    return [
        f"{option.name} {value} is not honoured ({option.note})"
        for option, value in found
        if option.use in uses and value.lower() not in option.unset and (not option.method or option.method in offered)
    ]
