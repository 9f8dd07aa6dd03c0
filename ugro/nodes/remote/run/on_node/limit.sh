# usage: RUN_DIR LINE
# Writes LINE, the time limit of a run, whole or not at all. Ranks that were started without that file never read it.
cd "$(case $1 in "~/"*) echo "$HOME/${1#"~/"}" ;; *) echo "$1" ;; esac)" || exit 73
if [ ! -f time-limit ]; then
    echo "they keep the one that they were started with" >&2
    exit 75
fi
fresh=$(mktemp .time-limit.XXXXXX) || exit 73
trap 'rm -f "$fresh"' EXIT
printf '%s\n' "$2" 2>/dev/null > "$fresh" || { echo "$PWD cannot be written: No space left on device?" >&2; exit 73; }
mv -f "$fresh" time-limit
