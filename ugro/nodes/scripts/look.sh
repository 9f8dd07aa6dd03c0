# usage: NONCE [RUN_DIR…]
# Prints what the files of each run say, one fact a line; whether a pid is alive is judged with its start time.
# Runs stand between lines that begin with "@NONCE ", which no text in a file can forge; echo would heed its backslashes.
mark=@$1; shift
now=$(date +%s.%N 2>/dev/null); case $now in *N*) now=$(date +%s) ;; esac
read -r boot < /proc/sys/kernel/random/boot_id
echo "$mark clock $now $boot"
alive() {
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || { echo gone; return; }
    set -- "$2" ${stat##*) }
    if [ "$2" != Z ] && [ "$2" != X ] && [ "${21}" = "$1" ]; then echo alive; else echo gone; fi
}
for dir in "$@"; do
    case $dir in "~/"*) dir=$HOME/${dir#"~/"} ;; esac
    echo "$mark run"
    cd "$dir" 2>/dev/null || continue
    [ -s claim/uid ] && printf '%s\n' "claim $(cat claim/uid)"
    if [ -s pid ]; then
        read -r pid started at_boot < pid
        printf '%s\n' "runner $pid $at_boot $(alive "$pid" "$started")"
    fi
    [ -s exit ] && printf '%s\n' "exit $(cat exit)"
    for file in rank-*.pid; do
        rank=${file#rank-}; rank=${rank%.pid}
        case $rank in *[!0-9]*) continue ;; esac
        [ -s "$file" ] || continue
        read -r pid started < "$file"
        if [ -s "rank-$rank.exit" ]; then
            printf '%s\n' "rank $rank $pid ended $(cat "rank-$rank.exit")"
        else
            printf '%s\n' "rank $rank $pid $(alive "$pid" "$started")"
        fi
    done
    for file in rank-*.limit; do
        rank=${file#rank-}; rank=${rank%.limit}
        case $rank in *[!0-9]*) continue ;; esac
        limit=''; read -r limit _ < "$file"
        printf '%s\n' "limit $rank $limit"
    done
done
echo "$mark -"
