# usage: command.sh nothing|input COMMAND [ARG]...
# Runs the command, in this process with nothing on its stdin, or beside this one with what comes as `input`: lines with
# a number of bytes, each followed by those bytes, and a 0 at the end.
# Our own stdin stays open as long as the client is there: a watcher in the same process group ends the command once it
# closes. sshd itself ends nothing that has no terminal. A command that never reads its input keeps the watcher from
# seeing that: where the client was killed, it ends by itself.
given=$1
shift
exec 3<&0 </dev/null
watch() {
    exec >/dev/null 2>&1
    cat <&3
    trap '' TERM
    kill -s 0 "$$" || exit 0 # it ended before, and what it left running stays
    kill -s TERM -- "-$$"
    sleep 2
    kill -s KILL -- "-$$"
}
pass_on() {
    exec 2>/dev/null # for good: a shell that comes back from a redirection keeps the old one open until then
    while read -r size <&3 && [ "$size" -gt 0 ]; do
        head -c "$size" <&3 || break # the command reads no more
    done
    watch
}
if [ "$given" = nothing ]; then
    watch &
    exec 3<&-
    exec "$@"
fi
{ pass_on & } | {
    exec 3<&-
    exec "$@"
}
