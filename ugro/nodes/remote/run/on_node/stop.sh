# usage: RUN_DIR RUN GRACE_SECONDS|look [began]
# Ends every process of a run: SIGTERM, up to GRACE_SECONDS of patience, SIGKILL. Prints `left PID…`, and before that
# `found PID WORDS` of each one that was there, outside of torchrun's own tree and no child of another. `look` only tells.
# Members carry UGRO_RUN in their environment, or are recorded (with their start times), or descend from a member, or
# share a session with one. Below reaper.py are all that ever descended from it; if that was killed, one may be missed
# that wiped its environment, in a session of its own, since `adopted` was written. `proved` comes last if none can be.
# `began` says that the run is known to have started: a folder without its files proves nothing then.
dir=$1; case $dir in "~/"*) dir=$HOME/${dir#"~/"} ;; esac
read -r boot < /proc/sys/kernel/random/boot_id
at_boot=; [ ! -s "$dir/pid" ] || read -r runner started at_boot < "$dir/pid"
recorded() { # prints `seed PID STARTED [ROLE]` of each process that is named in a file of this boot
    read -r keeper began_at its_boot 2>/dev/null < "$dir/setup.pid" && [ "$its_boot" = "$boot" ] &&
        echo "seed $keeper $began_at reaper" # it waits for the setup command as reaper.py does for torchrun
    [ "$at_boot" = "$boot" ] || return
    echo "seed $runner $started runner"
    read -r pid started agent since 2>/dev/null < "$dir/reaper.pid" &&
        printf '%s\n' "seed $pid $started reaper" "seed $agent $since agent"
    sed -n 's/^\([0-9]* [0-9]*\).*/seed \1/p' "$dir"/rank-*.pid "$dir/adopted" 2>/dev/null
}
members() { # prints `PID keeps|waits|works inside|below|outside`: runner and reaper keep, ancestors of what is recorded wait
    {
        recorded
        grep -lzxF "UGRO_RUN=$run" /proc/[0-9]*/environ 2>/dev/null
        cat /proc/[0-9]*/stat 2>/dev/null
    } | awk -v self="$$" '
        $1 == "seed" { recorded[$2] = $3; if ($4) role[$2] = $4; if ($4 == "agent") known = 1; next }
        /^\/proc\/[0-9]+\/environ$/ { split($0, part, "/"); marked[part[3]] = 1; next }
        /^[0-9]+ \(.*\) [A-Za-z] / {
            pid = $1; sub(/^.*\) /, "")
            if ($1 == "Z" || $1 == "X") next
            parent[pid] = $2; session[pid] = $4; started[pid] = $20
        }
        END {
            own = session[self]
            for (pid in recorded) if (recorded[pid] != started[pid]) { delete recorded[pid]; delete role[pid] }
            for (pid in parent) {
                if (session[pid] == own) delete parent[pid]
                else if (pid in marked || pid in recorded) member[pid] = 1
            }
            for (grown = 1; grown;) {
                grown = 0
                for (pid in member) in_session[session[pid]] = 1
                for (pid in parent)
                    if (!(pid in member) && (parent[pid] in member || (session[pid] > 1 && session[pid] in in_session)))
                        grown = member[pid] = 1
            }
            for (pid in member) if (pid in recorded)
                for (up = parent[pid]; up in member; up = parent[up]) waits[up] = 1
            for (pid in member) if (role[pid] == "runner" || role[pid] == "reaper") keeper[pid] = 1; else busy = 1
            for (pid in member) {
                for (up = pid; up in member && !(up in keeper) && role[up] != "agent";) up = parent[up]
                inside = pid in keeper || role[up] == "agent" || (up in keeper && !known)
                place = inside ? "inside" : parent[pid] in member && !(parent[pid] in keeper) ? "below" : "outside"
                print pid, (pid in keeper && busy ? "keeps" : pid in waits ? "waits" : "works"), place
            }
        }'
}
send() { # SIGNAL works|all
    members | while read -r pid role place; do
        if [ "$role" = works ] || { [ "$2" = all ] && [ "$role" != keeps ]; }; then kill "-$1" "$pid" 2>/dev/null; fi
    done
}
gone_within() { # TENTHS: of the seconds to wait. A look reads all processes of the node, so they get rarer after a second.
    tenths=$1; looks=0
    while [ -n "$(members)" ]; do
        [ "$tenths" -gt 0 ] || return 1
        looks=$((looks + 1)); pause=1
        [ "$looks" -le 10 ] || pause=5
        tenths=$((tenths - pause)); sleep "0.$pause"
    done
}
run=$2
[ "$3" = look ] || rm -f "$dir/secrets" "$dir"/secrets.* # of a run whose reaper never came to read them
found=$(members)
[ -z "$found" ] || printf '%s\n' "$found" | sort -n | while read -r pid role place; do
    [ "$place" = outside ] || continue
    words=$({ cat "/proc/$pid/cmdline" 2>/dev/null || :; } | head -c 500 | tr '\0\n' '\t ')
    printf '%s\n' "found $pid ${words:-$(cat "/proc/$pid/comm" 2>/dev/null)}"
done
[ "$3" != look ] || exit 0
[ -z "$found" ] || {
    send TERM all
    gone_within $(($3 * 10)) || {
        # First those that nobody waits for, so that their parents can still note how they ended.
        send KILL works
        gone_within 10 || { send KILL all; gone_within 30 || { send KILL all; gone_within 20; }; }
    }
}
left=
[ -z "$found" ] || left=$(members | while read -r pid role place; do echo "$pid"; done)
echo left $left
[ -n "$left" ] && exit
# A setup command may have left something as well, unless it was seen to the end, or the machine has been down since.
its_boot=; [ ! -s "$dir/setup.pid" ] || read -r keeper began_at its_boot < "$dir/setup.pid"
[ "$its_boot" != "$boot" ] || [ -e "$dir/setup.gone" ] || exit
# The reaper saw the last of them end; or nothing was ever started, as far as anybody knows; or the machine has been down since.
if [ -e "$dir/gone" ] || { [ ! -e "$dir/claim" ] && [ "$4" != began ]; } || { [ -n "$at_boot" ] && [ "$at_boot" != "$boot" ]; }; then
    echo proved
fi
