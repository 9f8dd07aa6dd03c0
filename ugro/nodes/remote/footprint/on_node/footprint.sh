# usage: BASE_DIR; footprint.py adds `report` to it, or remove.sh and what uses the same eyes.
# Records of NUL-ended fields, because names may hold anything else. A thing is UGRO's if its name and its type are what
# the other scripts make: a link is never one of them, and never followed below BASE_DIR. Only `jobs` itself may be a link
# that the node's owner made to a larger disk: jobs run behind it, so it is followed like one at BASE_DIR.
base=$1; case $base in "~/"*) base=$HOME/${base#"~/"} ;; esac
here=$base # without links, once it was entered
jobs_at=$base/jobs # the same
read -r boot < /proc/sys/kernel/random/boot_id
say() { printf '%s\0' "$@"; }
number() { case $1 in '' | *[!0-9]*) return 1 ;; esac; }
plain() { [ -f "$1" ] && [ ! -L "$1" ]; }
folder() { [ -d "$1" ] && [ ! -L "$1" ]; }
enter() { # false: there is no base directory
    [ -e "$base" ] || return 1
    cd -P "$base" || exit 73
    here=$PWD jobs_at=$PWD/jobs
    if [ -L jobs ] && [ -d jobs ]; then jobs_at=$(cd -P jobs && pwd -P) || exit 73; fi
}
each() { # FOLDER DO [WORD]…: calls DO [WORD]… ENTRY for everything in a folder
    in=$1; shift
    for entry in "$in"/* "$in"/.[!.]* "$in"/..?*; do
        if [ -e "$entry" ] || [ -L "$entry" ]; then "$@" "$entry"; fi
    done
}
each_job() { # DO: calls DO with every folder that is named as a job's, or as one that was put aside
    [ -d jobs ] || return 0
    for job in jobs/job-*; do
        if is_job "$job"; then "$1" "$job"; fi
    done
}
each_run() { # JOB DO: calls DO with every run's folder
    for attempt in "$1"/[0-9]*; do
        number "${attempt##*/}" && folder "$attempt" || continue
        for run in "$attempt"/node-[0-9]*; do
            if is_run "$run"; then "$2" "$run"; fi
        done
    done
}
each_own() { # JOB DO: calls DO with everything the node side made; what says that it is complete or ours is at the ends
    for file in "$1/code.sha256" "$1/code.json"; do
        if plain "$file"; then "$2" "$file"; fi
    done
    for tree in "$1/code" "$1"/code.tmp-* "$1"/code.next-* "$1"/resume-*; do
        if is_tree "$tree"; then "$2" "$tree"; fi
    done
    each_run "$1" "$2"
    for file in "$1"/.uid.* "$1/uid"; do
        if plain "$file"; then "$2" "$file"; fi
    done
}
is_run() { number "${1##*/node-}" && folder "$1"; }
is_tree() { # whether this entry of a job's folder is code, as it is, comes or is replaced, or a checkpoint that was sent
    case ${1##*/} in
        code | code.tmp-* | code.next-*) folder "$1" ;;
        resume-*) number "${1##*/resume-}" && folder "$1" ;;
        *) return 1 ;;
    esac
}
is_own() { # whether this entry of a job's folder is the node side's; an attempt's folder is as far as runs are in it
    case ${1##*/} in
        uid | .uid.* | code.sha256 | code.json) plain "$1" ;;
        code* | resume-*) is_tree "$1" ;;
        *) number "${1##*/}" && folder "$1" ;;
    esac
}
is_mine() { # whether this entry of the base directory is the node side's, besides jobs/ and envs/
    case ${1##*/} in
        storage-id | .storage-id.* | owner | .owner.*) plain "$1" ;;
        *) return 1 ;;
    esac
}
is_setup() { # whether this is an environment that a setup command made, or its setup
    name_of_setup=${1##*/}
    case $name_of_setup in *[!0-9a-f]*) return 1 ;; esac
    [ ${#name_of_setup} -eq 32 ] && folder "$1"
}
each_setup() { # DO: calls DO with the folder of every such environment
    folder setups || return 0
    for setup in setups/*; do
        if is_setup "$setup"; then "$1" "$setup"; fi
    done
}
tell_setup() {
    used=0; if plain "$1/used"; then used=$(stat -c %Y "$1/used"); fi
    say setup "$1" "$(sizes "$1" | sum)" "$used"
}
is_env() { # whether this entry of envs/ is a Python environment that UGRO made or began, or what it needs for that
    case ${1##*/} in
        .cache | .python) folder "$1" ;;
        .uv-* | .*.making) plain "$1" ;;
        *) folder "$1" && { plain "$1/.ugro-env" || plain "${1%/*}/.${1##*/}.making"; } ;;
    esac
}
alive() { # PID STARTED BOOT
    number "$1" && [ "${3:-$boot}" = "$boot" ] || return 1
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    set -- "$2" ${stat##*) }
    [ "$2" != Z ] && [ "$2" != X ] && [ "${21}" = "$1" ]
}
recorded() { # RUN: prints the pids in its files that are alive
    pid=; started=; at_boot=
    if plain "$1/pid"; then read -r pid started at_boot < "$1/pid"; fi # false where the line has no end
    alive "$pid" "$started" "$at_boot" && echo "$pid"
    for file in "$1"/rank-*.pid; do
        plain "$file" || continue
        read -r pid started rest < "$file"
        alive "$pid" "$started" "$at_boot" && echo "$pid"
    done
    plain "$1/adopted" || return 0
    while read -r pid started; do
        alive "$pid" "$started" "$at_boot" && echo "$pid"
    done < "$1/adopted"
}
seek() { tokens=$(marked); }
marked() { # prints the pid and the run of every process that carries UGRO_RUN, but for this script's own
    own=$(cat "/proc/$$/stat"); own=$(session ${own##*) })
    grep -lz '^UGRO_RUN=' /proc/[0-9]*/environ 2>/dev/null | while IFS=/ read -r _ _ pid _; do
        stat=$(cat "/proc/$pid/stat" 2>/dev/null) || continue
        [ "$(session ${stat##*) })" != "$own" ] || continue
        token=$(grep -z '^UGRO_RUN=' "/proc/$pid/environ" 2>/dev/null | tr '\0' '\n' | head -n 1 | head -c 200)
        [ -z "$token" ] || printf '%s %s\n' "$pid" "${token#UGRO_RUN=}"
    done
}
session() { echo "$4"; }
uid_of() { if plain "$1/uid"; then head -n 1 "$1/uid" | head -c 200 | tr -d '\0'; fi; }
below() { # PID FOLDER: whether a process works in jobs/ or a folder of it, or was told of something in it
    real=$jobs_at${2#jobs}/
    case "$(readlink "/proc/$1/cwd" 2>/dev/null)/" in "$real"*) return 0 ;; esac
    cat "/proc/$1/cmdline" "/proc/$1/environ" 2>/dev/null | grep -qaF -e "$real" -e "$here/$2/" -e "$base/$2/"
}
is_of() { # JOB UID PID TOKEN: whether a process is of a run of this job that is here; a machine may be several nodes
    case $4 in "$2"/*) [ -n "$2" ] || return 1 ;; *) return 1 ;; esac
    rest=${4#*/}
    if number "${rest%%/*}" && is_run "$1/${rest%%/*}/node-${rest#*/}"; then return 0; fi
    below "$3" "$1"
}
running() { # JOB: prints the pids of what ran of it at the last `seek`, or is recorded and alive now
    uid=$(uid_of "$1")
    {
        each_run "$1" recorded
        printf '%s\n' "$tokens" | while read -r pid token; do
            if is_of "$1" "$uid" "$pid" "$token"; then echo "$pid"; fi
        done
    } | sort -nu
}
sizes() { find "$1" ! -type d -exec stat -c %s {} + 2>/dev/null; }
sum() { awk '{ bytes += $1 } END { printf "%.0f %d", bytes, NR }'; }
tell_job() {
    [ -n "$(each_own "$1" echo)" ] || return 0
    say job "${1#jobs/}" "$(uid_of "$1")" "$(each_own "$1" sizes | sum)" "$(running "$1" | tr '\n' ' ')"
}
each_link() { # JOB DO: calls DO with every link that lies where the node side has a folder
    if [ -L "$1" ]; then "$2" "$1"; return; fi
    for entry in "$1"/code "$1"/code.tmp-* "$1"/code.next-* "$1"/resume-* "$1"/[0-9]* "$1"/[0-9]*/node-[0-9]*; do
        if [ -L "$entry" ]; then "$2" "$entry"; fi
    done
}
tell_link() { say linked "$1"; }
tell_links() { # ENTRY of jobs/: of a folder that is a link itself no more than that it is there
    if is_job "$1"; then
        each_link "$1" tell_link
    elif is_linked_job "$1"; then
        say linked "$1"
        say job "${1#jobs/}" "$(uid_of "$1")" "0 0" "$(running "$1" | tr '\n' ' ')"
    fi
}
is_linked_job() { [ -L "$1" ] && named_as_job "$1" && plain "$1/uid"; }
tell_strange() { # ENTRY of a job's folder
    if ! is_own "$1"; then
        say foreign "$1"
    elif number "${1##*/}"; then
        each "$1" tell_unless is_run
    fi
}
tell_unless() { "$1" "$2" || say foreign "$2"; }
is_job() {
    named_as_job "$1" && folder "$1"
}
named_as_job() {
    number_of=${1#jobs/job-}
    [ "$number_of" != "$1" ] && number "${number_of%%.before-*}"
}
tell_rest() { # ENTRY of the base directory
    entry_of_base=${1#./}
    if [ "$entry_of_base" = jobs ] && [ -d jobs ]; then
        if [ -L jobs ]; then say foreign jobs; fi
        each jobs tell_links
        each jobs tell_unless is_job
        each_job tell_strange_in
    elif [ "$entry_of_base" = envs ] && folder envs; then
        each envs tell_env
    elif [ "$entry_of_base" = setups ] && folder setups; then
        each_setup tell_setup
        each setups tell_unless is_setup
    elif is_mine "$1"; then
        say other "$entry_of_base" "$(sizes "$1" | sum)"
    else
        say foreign "$entry_of_base"
    fi
}
tell_env() { if is_env "$1"; then say other "$1" "$(sizes "$1" | sum)"; else say foreign "$1"; fi; }
tell_strange_in() { each "$1" tell_strange; }
tell_processes() {
    printf '%s\n' "$tokens" | while read -r pid token; do
        number "$pid" && [ -e "/proc/$pid" ] || continue # it may have ended meanwhile
        place=elsewhere; if below "$pid" jobs; then place=here; fi
        say process "$pid" "$token" "$place" "$(cat "/proc/$pid/cmdline" 2>/dev/null | tr '\0' ' ' | head -c 200)"
    done
}
report() {
    seek
    if enter; then
        say base "$PWD" yes
        if plain storage-id; then say storage "$(head -c 100 storage-id | tr -d '\0')"; fi
        if plain owner; then say owner "$(head -c 1000 owner | tr -d '\0')"; fi
        each_job tell_job
        each . tell_rest
    else
        say base "$base" no
    fi
    tell_processes
    say end
}
