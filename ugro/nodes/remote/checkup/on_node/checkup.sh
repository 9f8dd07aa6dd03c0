# usage: NONCE [gpus]
# Prints what of this machine matters to a training that runs for days, one fact a line: "@NONCE name value". A line
# "@NONCE -" after each shows that it is whole.
# No foreign text can forge the nonce. With `gpus`, nvidia-smi is asked too: last, because it may hang.
mark=@$1
LC_ALL=C PATH=$PATH:/usr/sbin:/sbin:/usr/lib/wsl/lib:/usr/local/nvidia/bin
export LC_ALL PATH
say() { printf '%s\n' "$mark $*" "$mark -"; }
say_lines() { while IFS= read -r line; do say "$1" "$line"; done; }
bounded() { timeout -k 1 5 "$@" < /dev/null 2> /dev/null; }
there() { command -v "$1" > /dev/null; }
login1="org.freedesktop.login1 /org/freedesktop/login1 org.freedesktop.login1.Manager"

user=$(id -un)
say user "$user"
say open_files "$(ulimit -n)"
say shm "$(stat -f -c '%b %S' /dev/shm)"
if there rsync; then say rsync; fi
[ -z "$UGRO_SANDBOX" ] || say simulated

for interface in /sys/class/net/*; do
    say interface "${interface##*/}"
    if [ -e "$interface/wireless" ] || [ -e "$interface/phy80211" ]; then say wireless "${interface##*/}"; fi
done

for supply in /sys/class/power_supply/*; do
    [ -d "$supply" ] || continue
    words=
    for name in type scope online capacity status; do
        value=
        [ ! -r "$supply/$name" ] || read -r value < "$supply/$name"
        words="$words ${value:--}"
    done
    say supply "$words"
done
for lid in /proc/acpi/button/lid/*/state; do
    [ ! -e "$lid" ] || say lid
done
[ ! -r /sys/class/dmi/id/chassis_type ] || say_lines chassis < /sys/class/dmi/id/chassis_type

for folder in /etc/systemd/system /run/systemd/system; do
    for target in sleep suspend; do
        [ "$(readlink "$folder/$target.target")" != /dev/null ] || say masked "$target"
    done
done
# Without a name, `show-user` shows the login manager's own properties.
if there loginctl; then bounded loginctl --no-pager show-user | say_lines logind; fi
if there busctl; then bounded busctl call $login1 CanSuspend | say_lines can_suspend; fi
[ ! -e "/var/lib/systemd/linger/$user" ] || say linger
if there timedatectl; then bounded timedatectl show -p NTPSynchronized | say_lines ntp; fi
if there gsettings && grep -qsx gsd-power /proc/[0-9]*/comm; then
    for power in ac battery; do
        for what in type timeout; do
            bounded gsettings get org.gnome.settings-daemon.plugins.power "sleep-inactive-$power-$what" |
                say_lines "gnome_${power}_$what"
        done
    done
fi

ask() { timeout -k 2 10 nvidia-smi --format=csv,noheader --query-gpu="$1" < /dev/null 2>&1; }
if [ "$2" = gpus ] && there nvidia-smi; then
    # Older drivers do not know compute_cap, and refuse the whole question.
    said=$(ask uuid,persistence_mode,compute_cap) || [ "$?" -ne 2 ] || said=$(ask uuid,persistence_mode)
    printf '%s\n' "$said" | say_lines gpu
fi
say end
