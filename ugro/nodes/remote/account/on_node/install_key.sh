# usage: NONCE follow|stop; on stdin: the key's base64, then its line for authorized_keys
# Appends the line unless the key is there. `stop`: not where .ssh is a link. Modes that sshd refuses are corrected for
# what is UGRO's business here, ~/.ssh and the file; those of the home directory are left alone.
nonce=$1
say() { printf '@%s %s\n' "$nonce" "$1"; }
refuse() {
    echo "$1" >&2
    exit 73
}
IFS= read -r blob && IFS= read -r line || refuse "no key was received"
umask 077
cd "$HOME" 2>/dev/null && [ "$(pwd -P)" != / ] || refuse "the home directory $HOME does not exist"
if [ -L .ssh ] && [ "$2" != follow ]; then
    say link
    readlink .ssh
    say end
    exit 0
fi
mkdir -p .ssh || refuse "$HOME/.ssh cannot be made"
file=.ssh/authorized_keys
if [ -e "$file" ] && [ ! -f "$file" ]; then refuse "$HOME/$file is not a plain file"; fi
for path in .ssh/. "$file"; do
    [ -e "$path" ] || continue
    mode=$(stat -c %a -- "$path" 2>/dev/null) || continue
    case $mode in
        *[2367] | *[2367]?) chmod go-w "$path" && say "mode $mode ${path%/.}" ;;
    esac
done
if [ -e "$file" ] && grep -v '^[[:space:]]*#' "$file" | grep -qF -- "$blob"; then
    say already
else
    if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then
        printf '\n' >> "$file" || refuse "$HOME/$file cannot be written"
    fi
    printf '%s\n' "$line" 2>/dev/null >> "$file" || refuse "$HOME/$file cannot be written: No space left on device?"
    say installed
fi
if command -v restorecon >/dev/null 2>&1; then restorecon -F .ssh "$file" >/dev/null 2>&1; fi
say end
