# usage: NONCE BASE_DIR PYTHON DEVICE SECONDS MOST [ONLY]; stdin: interpreter.py
# Tries every Python of this node that may train, at most MOST, each in a process of its own that has SECONDS. With ONLY
# (a path) no other one. Prints sections: `@NONCE python SOURCE VERSION PATH`, with the output of the script as its
# lines, and `@NONCE ended STATUS` after each. `uv PATH` is the uv that is there.
mark=@$1 base=$2 configured=$3 device=$4 seconds=$5 most=$6 only=$7
say() { printf '\n%s\n' "$mark $*"; }
at_home() { case $1 in "~/"*) printf '%s\n' "$HOME/${1#"~/"}" ;; *) printf '%s\n' "$1" ;; esac; }
base=$(at_home "$base")
script=$(cat)
newline='
'
candidates() { # prints SOURCE PATH lines; the order is the one in which equal ones are preferred
    configured=$(command -v "$(at_home "$configured")") && printf 'configured %s\n' "$configured"
    for path in "$base"/envs/*/bin/python; do printf 'ugro %s\n' "$path"; done
    for root in miniconda3 anaconda3 miniforge3 mambaforge; do
        for path in "$HOME/$root"/envs/*/bin/python "$HOME/$root/bin/python"; do printf 'conda %s\n' "$path"; done
    done
    if [ -r "$HOME/.conda/environments.txt" ]; then
        head -n 40 "$HOME/.conda/environments.txt" | while IFS= read -r path; do printf 'conda %s\n' "$path/bin/python"; done
    fi
    for path in "$HOME/.venv" "$HOME/venv" "$HOME"/.virtualenvs/*; do printf 'venv %s\n' "$path/bin/python"; done
    for path in "$HOME"/.pyenv/versions/*/bin/python; do printf 'pyenv %s\n' "$path"; done
    for path in python3 python; do
        path=$(command -v "$path") && printf 'path %s\n' "$path"
    done
    printf 'system /usr/bin/python3\n'
    for path in "${XDG_DATA_HOME:-$HOME/.local/share}"/uv/python/*/bin/python3; do printf 'uv %s\n' "$path"; done
}
seen=$newline
try() { # SOURCE PATH
    case $2 in /*) ;; *) return ;; esac
    [ -f "$2" ] && [ -x "$2" ] || return
    # The folder without links, and not the file: an environment's python is a link to the one that it was made of.
    place=$(cd -P "${2%/*}" 2>/dev/null && pwd -P) || return
    place=$place/$(readlink -f "$2")
    case $seen in *"$newline$place$newline"*) return ;; esac
    seen=$seen$place$newline
    tried=$((tried + 1))
    [ "$tried" -le "$most" ] || return
    version=$(timeout -k 1 10 "$2" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' < /dev/null 2> /dev/null |
        head -n 1 | head -c 20 | tr -dc 0-9.)
    say python "$1 ${version:--} $2"
    case $version in 3.8.* | 3.9.* | 3.[1-9][0-9]*.*) ;; *) say ended 0; return ;; esac
    # What it prints is cut, but the status is that of the interpreter.
    { status=$({ {
        printf '%s\n' "$script" | { timeout -k 2 "$seconds" "$2" - "$device"; echo "$?" >&3; } 2>&1 |
            head -c 65536 >&4
    } 3>&1; }); } 4>&1
    say ended "${status:--}"
}
tried=0
for path in "$(command -v uv)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv"; do
    if [ -x "$path" ]; then say uv "$path"; break; fi
done
say machine "$(uname -m)"
if [ -n "$only" ]; then
    try made "$(at_home "$only")"
else
    list=$(candidates)
    while IFS=' ' read -r source path; do try "$source" "$path"; done <<LIST
$list
LIST
fi
[ "$tried" -le "$most" ] || say more "$((tried - most))"
say end
say -
