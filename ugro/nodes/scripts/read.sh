# usage: RUN_DIR LIMIT [FILE OFFSET]…
# Prints, for every log of a run, `FILE OFFSET COUNT` and then exactly COUNT bytes from OFFSET on, at most LIMIT of each.
cd "$(case $1 in "~/"*) echo "$HOME/${1#"~/"}" ;; *) echo "$1" ;; esac)" 2>/dev/null || exit 0
limit=$2; shift 2
for file in log rank-*.log rank-*.error; do
    # A name that a job made up must not pass for one of ours.
    number=${file#rank-}; number=${number%.*}
    case $number in log) ;; '' | *[!0-9]*) continue ;; esac
    [ -f "$file" ] || continue
    offset=0; previous=
    for word in "$@"; do
        [ "$previous" = "$file" ] && offset=$word
        previous=$word
    done
    count=$(($(wc -c < "$file") - offset))
    [ "$count" -gt 0 ] || continue
    [ "$count" -le "$limit" ] || count=$limit
    echo "$file $offset $count"
    tail -c "+$((offset + 1))" "$file" | head -c "$count"
done
