# usage: NONCE [RUN_DIR…]
# Prints what the files of each run say, one fact a line; whether a pid is alive is judged with its start time.
# Runs stand between lines that begin with "@NONCE ", which no text in a file can forge; echo would heed its backslashes.
# /proc is read by the shell itself: a look starts few processes, however many ranks there are.
mark=@$1; shift
now=$(date +%s.%N 2>/dev/null); case $now in *N*) now=$(date +%s) ;; esac
read -r boot < /proc/sys/kernel/random/boot_id
echo "$mark clock $now $boot"
say() { # WORDS FILE: prints the words and the first line of the file, at most 256 bytes of it
    said=; read -r said < "$2"
    printf '%s %.256s\n' "$1" "$said"
}
stat_of() { # PID: sets stat to what follows the program's name, which may have newlines and brackets
    stat=
    while read -r line; do stat=$line; done 2>/dev/null < "/proc/$1/stat" || return
    stat=${stat##*) }
}
alive() { # PID STARTED: sets life to alive or gone, and state to the letter of the process
    life=gone; state=-
    stat_of "$1" || return
    set -- "$2" $stat
    if [ "$2" != Z ] && [ "$2" != X ] && [ "${21}" = "$1" ]; then life=alive; state=$2; fi
}
effort() { # PID: sets ticks, read and written of a process and its living descendants; of ended ones the parents tell
    ticks=0; read=0; written=0; seen=0; pids=$1
    while [ -n "$pids" ] && [ "$seen" -lt 64 ]; do
        set -- $pids; one=$1; shift; pids=$*; seen=$((seen + 1))
        stat_of "$one" || continue
        set -- $stat
        [ $# -gt 14 ] || continue
        ticks=$((ticks + ${12} + ${13} + ${14} + ${15}))
        while read -r word count; do
            case $word in
                rchar: | read_bytes:) read=$((read + count)) ;;
                wchar: | write_bytes:) written=$((written + count)) ;;
            esac
        done 2>/dev/null < "/proc/$one/io"
        children=; read -r children 2>/dev/null < "/proc/$one/task/$one/children"
        pids="$pids $children"; pids=${pids# }; pids=${pids% }
    done
}
for dir in "$@"; do
    case $dir in "~/"*) dir=$HOME/${dir#"~/"} ;; esac
    echo "$mark run"
    cd "$dir" 2>/dev/null || continue
    [ -s claim/uid ] && say claim claim/uid
    if [ -s pid ]; then
        read -r pid started at_boot < pid
        alive "$pid" "$started"
        printf '%s\n' "runner $pid $at_boot $life"
    fi
    [ -s exit ] && say exit exit
    [ -s time-limit ] && say time time-limit
    logs=
    ranks=0
    for file in rank-*.pid; do
        ranks=$((ranks + 1)); [ "$ranks" -le 4096 ] || break # a script may have made up any number of them
        rank=${file#rank-}; rank=${rank%.pid}
        case $rank in *[!0-9]*) continue ;; esac
        [ -s "$file" ] || continue
        read -r pid started < "$file"
        if [ -s "rank-$rank.exit" ]; then
            say "rank $rank $pid ended" "rank-$rank.exit"
        else
            alive "$pid" "$started"
            printf '%s\n' "rank $rank $pid $life"
            [ "$life" = alive ] || continue
            letter=$state
            effort "$pid"
            echo "effort $rank $letter $ticks $read $written"
            logs="$logs rank-$rank.log"
        fi
    done
    [ -n "$logs" ] && wc -c $logs 2>/dev/null
    for file in rank-*.limit rank-*.oom; do
        kind=${file##*.}; rank=${file#rank-}; rank=${rank%."$kind"}
        case $rank in *[!0-9]*) continue ;; esac
        say "$kind $rank" "$file"
    done
done
echo "$mark -"
