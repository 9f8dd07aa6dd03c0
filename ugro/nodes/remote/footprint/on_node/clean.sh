# usage: BASE_DIR; follows footprint.sh and remove.sh, whose functions it uses.
# Removes what UGRO's node side made here, and reports what is there then. Nothing, if something runs: exit 75.
refuse_if_running() {
    pids=$(running "$1" | tr '\n' ' ')
    [ -z "$pids" ] && return
    echo "${1#jobs/} is running here (pid ${pids% })" >&2
    exit 75
}
clean_job() {
    [ -n "$(each_own "$1" echo)" ] || return 0 # the master makes a folder before it has anything to put there
    seek
    refuse_if_running "$1"
    drop_job "$1"
}
clean_mine() { if is_mine "$1"; then remove "$1"; fi; }
clean_env() { # what shows whose an environment is goes last
    if ! is_env "$1"; then return; fi
    case ${1##*/} in .*.making) ;; *) remove "$1" ;; esac
}
clean_marks() { case ${1##*/} in .*.making) if is_env "$1"; then remove "$1"; fi ;; esac; }
if enter; then
    seek
    each_job refuse_if_running
    each_job clean_job
    if folder jobs; then rmdir jobs 2>/dev/null; fi
    each_setup remove
    if folder setups; then rmdir setups 2>/dev/null; fi
    if folder envs; then each envs clean_env; each envs clean_marks; rmdir envs 2>/dev/null; fi
    each . clean_mine
    cd / && rmdir "$base" 2>/dev/null
fi
report
