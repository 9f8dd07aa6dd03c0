# usage: BASE_DIR SECONDS [NAME]…; follows footprint.sh and remove.sh, whose functions it uses.
# Without a NAME: says of each environment that setup commands made and nothing used for so long, what it is. With names:
# removes those, each where that is still so, and says of it: absent, running (it is used by now), left (something could
# not be removed) or gone. What is set up just now has a sign of life each two seconds; what runs with it names it in its
# environment. So much is seen of this machine alone: the caller knows which jobs run where the same folder is shared.
newest() { stat -c %Y "$1" "$1/used" "$1/done" "$1/log" "$1/claim" "$1/claim/beat" 2>/dev/null | sort -n | tail -n 1; }
is_old() { # SETUP
    seen=$(newest "$1"); number "$seen" && [ $(($(date +%s) - seen)) -ge "$idle" ] || return 1
    ! grep -qzs "^UGRO_ENV_DIR=.*/$1/env\$" /proc/[0-9]*/environ
}
tell_old() { if is_old "$1"; then tell_setup "$1"; fi; }
remove_old() { # NAME
    if ! is_setup "setups/$1" || ! folder setups; then say removal "$1" absent; return; fi
    if ! is_old "setups/$1"; then say removal "$1" running; return; fi
    rm -f "setups/$1/done" # what is cut short is none that a job finds
    remove "setups/$1"
    if [ -e "setups/$1" ]; then say removal "$1" left; else say removal "$1" gone; fi
}
idle=$2; shift 2
if ! enter; then
    for name in "$@"; do say removal "$name" absent; done
elif [ $# -eq 0 ]; then
    if plain storage-id; then say storage "$(head -c 100 storage-id | tr -d '\0')"; fi
    each_setup tell_old
else
    for name in "$@"; do remove_old "$name"; done
fi
say end
