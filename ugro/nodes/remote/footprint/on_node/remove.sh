# Follows footprint.sh, whose functions it uses; what removes something follows it.
remove() {
    # What is mounted there is not ours, be it in the middle of a tree or at its top.
    [ "$(stat -c %d "./$1")" = "$(stat -c %d "./${1%/*}")" ] || return
    rm -rf $one_disk "./$1" 2>/dev/null && return
    # A job may have taken the right to write from its own folders.
    if folder "$1"; then find "$1" -type d ! -perm -700 -exec chmod u+rwx {} \; 2>/dev/null; fi
    rm -rf $one_disk "./$1"
}
drop_job() { # JOB: removes what the node side made of it, and its folder where nobody else has anything in it
    each_own "$1" remove
    for attempt in "$1"/[0-9]*; do
        if number "${attempt##*/}" && folder "$attempt"; then rmdir "$attempt" 2>/dev/null; fi
    done
    rmdir "$1" 2>/dev/null
}
one_disk=--one-file-system; rm -f $one_disk 2>/dev/null || one_disk=
