# usage: RUN_DIR LIMIT TOTAL ERROR_LIMIT [FILE OFFSET]…
# Prints, for every log of a run, `FILE OFFSET COUNT` and then exactly COUNT bytes from OFFSET on: at most LIMIT of each,
# and TOTAL of all, in equal parts. The last line is `left BYTES`: how much more is there. Of an error file only the first
# ERROR_LIMIT bytes count: whatever a script writes there, no traceback is longer.
cd "$(case $1 in "~/"*) echo "$HOME/${1#"~/"}" ;; *) echo "$1" ;; esac)" 2>/dev/null || exit 0
limit=$2; total=$3; most=$4; shift 4
more() { # FILE [FILE OFFSET]…: sets offset, and count to what is there beyond it; fails where nothing is
    file=$1; shift
    # A name that a job made up must not pass for one of ours.
    number=${file#rank-}; number=${number%.*}
    case $number in log) ;; '' | *[!0-9]*) return 1 ;; esac
    [ -f "$file" ] && [ -s "$file" ] || return 1
    offset=0; previous=
    for word in "$@"; do
        [ "$previous" = "$file" ] && offset=$word
        previous=$word
    done
    count=$(wc -c < "$file")
    case $file in *.error) [ "$count" -le "$most" ] || count=$most ;; esac
    count=$((count - offset))
    [ "$count" -gt 0 ]
}
files=0; names=0
for file in log rank-*.log rank-*.error; do
    names=$((names + 1)); [ "$names" -le 4096 ] || break # a script may have made up any number of them
    more "$file" "$@" && files=$((files + 1))
done
[ "$files" -gt 0 ] || exit 0
total=$((total / files + 1))
[ "$limit" -le "$total" ] || limit=$total
left=0; names=0
for file in log rank-*.log rank-*.error; do
    names=$((names + 1)); [ "$names" -le 4096 ] || break
    more "$file" "$@" || continue
    if [ "$count" -gt "$limit" ]; then left=$((left + count - limit)); count=$limit; fi
    echo "$file $offset $count"
    tail -c "+$((offset + 1))" "$file" | head -c "$count"
done
echo "left $left"
