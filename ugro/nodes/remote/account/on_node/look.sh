# usage: NONCE
# Reports what decides whether sshd lets a key in: owners and modes, SELinux, and the lines of its configuration that
# can be read. Changes nothing.
say() { printf '@%s %s\n' "$1" "$2"; }
state() { # FIELD PATH: mode, owner, kind
    found=$(stat -c '%a %u %F' -- "$2" 2>/dev/null) || return 0
    say "$nonce" "$1 $found"
}
nonce=$1
say "$nonce" "user $(id -un) $(id -u)"
say "$nonce" "home"
printf '%s\n' "$HOME"
if cd "$HOME" 2>/dev/null && [ "$(pwd -P)" != / ]; then
    state mode.home .
    [ -L .ssh ] && { say "$nonce" link.ssh; readlink .ssh; }
    state mode.ssh .ssh/.
    state mode.file .ssh/authorized_keys
    say "$nonce" "filesystem $(stat -f -c %T . 2>/dev/null)"
else
    say "$nonce" homeless
fi
command -v getenforce >/dev/null 2>&1 && say "$nonce" "selinux $(getenforce 2>/dev/null)"
# The sshd that serves this session may have a configuration of its own: its command line names it.
config=/etc/ssh/sshd_config
pid=$PPID
steps=0
while [ "${pid:-0}" -gt 1 ] && [ $steps -lt 12 ]; do
    words=$(tr '\0' ' ' 2>/dev/null < "/proc/$pid/cmdline") || break
    case $words in
        *sshd*" -f "*)
            config=${words#*" -f "}
            config=${config%%" "*}
            break
            ;;
    esac
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status" 2>/dev/null)
    steps=$((steps + 1))
done
if [ -r "$config" ]; then
    say "$nonce" "sshd $config"
    cat "$config" "${config%/*}"/sshd_config.d/*.conf 2>/dev/null | head -c 65536 | tr -d '\r' |
        grep -iE '^[[:space:]]*(AuthorizedKeys(File|Command)|PubkeyAuthentication|(Allow|Deny)(Users|Groups)|PermitRootLogin|StrictModes|AuthenticationMethods|Match)[[:space:]=]'
else
    say "$nonce" "sshd-unread $config"
fi
say "$nonce" end
