# Becomes the command "$@", with nothing on its stdin. Our own stdin stays open as long as the client is there: a
# watcher in the same process group ends the command once it closes. sshd itself ends nothing that has no terminal.
exec 3<&0 </dev/null
(
    exec >/dev/null 2>&1
    read -r _ <&3
    trap '' TERM
    kill -s 0 "$$" || exit 0 # it ended before, and what it left running stays
    kill -s TERM -- "-$$"
    sleep 2
    kill -s KILL -- "-$$"
) &
exec 3<&-
exec "$@"
