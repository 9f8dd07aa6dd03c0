# usage: RUN_DIR LINES BYTES
# Prints, for every log of a run, `FILE SIZE START`: from START on are its last LINES lines (0: however many), at most the
# last BYTES bytes. The log may grow meanwhile: what is beyond SIZE is not looked at.
cd "$(case $1 in "~/"*) echo "$HOME/${1#"~/"}" ;; *) echo "$1" ;; esac)" 2>/dev/null || exit 0
names=0
for file in log rank-*.log; do
    names=$((names + 1)); [ "$names" -le 4096 ] || break
    number=${file#rank-}; number=${number%.*}
    case $number in log) ;; '' | *[!0-9]*) continue ;; esac
    [ -f "$file" ] || continue
    size=$(wc -c < "$file"); count=$3
    [ "$count" -le "$size" ] || count=$size
    if [ "$2" -gt 0 ]; then
        count=$(tail -c "+$((size - count + 1))" "$file" | head -c "$count" | tail -n "$2" | wc -c)
    fi
    echo "$file $((size)) $((size - count))"
done
