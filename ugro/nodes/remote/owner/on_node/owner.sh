# usage: BASE_DIR LINE takeover|respect
# Writes LINE into BASE_DIR/owner, unless another master's stands there and may not be taken over. Prints what stands.
umask 077
base=$1; case $base in "~/"*) base=$HOME/${base#"~/"} ;; esac
owner=$base/owner
standing() { head -n 1 "$owner" | head -c 1000; }
mkdir -p "$base" || exit 73
if [ -L "$owner" ] || { [ -e "$owner" ] && [ ! -f "$owner" ]; }; then
    echo "$owner is not a plain file: look who made it" >&2
    exit 73
fi
temp=$(mktemp "$base/.owner.XXXXXX") || exit 73
trap 'rm -f "$temp"' EXIT
printf '%s\n' "$2" 2>/dev/null > "$temp" || {
    echo "$temp cannot be written: No space left on device?" >&2
    exit 73
}
# A file system without links still refuses to make a file twice.
ln "$temp" "$owner" 2>/dev/null || [ -e "$owner" ] || (set -C; cat "$temp" > "$owner") 2>/dev/null
stands=$(standing) || exit 73
# An empty file is what a power cut leaves of a line.
if [ -z "$stands" ] || { [ "$3" = takeover ] && [ "${stands%% *}" != "${2%% *}" ]; }; then
    mv -f "$temp" "$owner" || exit 73
fi
standing
