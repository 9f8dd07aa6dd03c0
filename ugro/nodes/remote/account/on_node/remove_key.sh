# usage: NONCE; on stdin: the key's base64, then the mark of lines that UGRO added
# Removes the lines of authorized_keys that have both, and reports how many they were.
nonce=$1
say() { printf '@%s %s\n' "$nonce" "$1"; }
refuse() {
    rm -f "$temp"
    echo "$1" >&2
    exit 73
}
IFS= read -r blob && IFS= read -r mark || refuse "no key was received"
umask 077
temp=
file=$HOME/.ssh/authorized_keys
removed=0
left=0
if [ -f "$file" ]; then
    temp=$(mktemp "$file.ugro.XXXXXX") || refuse "$HOME/.ssh cannot be written"
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
            *"$blob"*"$mark"*)
                removed=$((removed + 1))
                continue
                ;;
            *"$blob"*) left=$((left + 1)) ;;
        esac
        printf '%s\n' "$line" || refuse "$temp cannot be written"
    done < "$file" > "$temp"
    if [ $removed -gt 0 ]; then
        if [ -L "$file" ]; then
            cat "$temp" > "$file" || refuse "$file cannot be written"
        else
            chmod "$(stat -c %a "$file")" "$temp" && mv -f "$temp" "$file" || refuse "$file cannot be replaced"
            if command -v restorecon >/dev/null 2>&1; then restorecon -F "$file" >/dev/null 2>&1; fi
        fi
    fi
    rm -f "$temp"
fi
say "removed $removed"
say "left $left"
say end
