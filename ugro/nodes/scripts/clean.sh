# usage: BASE_DIR; follows footprint.sh, whose functions it uses.
# Removes what UGRO's node side made here, and reports what is there then. Nothing, if something runs: exit 75.
refuse_if_running() {
    pids=$(running "$1" | tr '\n' ' ')
    [ -z "$pids" ] && return
    echo "${1#jobs/} is running here (pid ${pids% })" >&2
    exit 75
}
remove() {
    # What is mounted there is not ours, be it in the middle of a tree or at its top.
    [ "$(stat -c %d "./$1")" = "$(stat -c %d "./${1%/*}")" ] || return
    rm -rf $one_disk "./$1" 2>/dev/null && return
    # A job may have taken the right to write from its own folders.
    if folder "$1"; then find "$1" -type d ! -perm -700 -exec chmod u+rwx {} \; 2>/dev/null; fi
    rm -rf $one_disk "./$1"
}
clean_job() {
    [ -n "$(each_own "$1" echo)" ] || return 0 # the master makes a folder before it has anything to put there
    seek
    refuse_if_running "$1"
    each_own "$1" remove
    for attempt in "$1"/[0-9]*; do
        if number "${attempt##*/}" && folder "$attempt"; then rmdir "$attempt" 2>/dev/null; fi
    done
    rmdir "$1" 2>/dev/null
}
clean_mine() { if is_mine "$1"; then remove "$1"; fi; }
one_disk=--one-file-system; rm -f $one_disk 2>/dev/null || one_disk=
if enter; then
    seek
    each_job refuse_if_running
    each_job clean_job
    if folder jobs; then rmdir jobs 2>/dev/null; fi
    each . clean_mine
    cd / && rmdir "$base" 2>/dev/null
fi
report
