# usage: NONCE BASE_DIR NAME PYTHON OLDEST NEWEST INDEX_URL SIZE PACKAGE…; stdin: SIZE bytes of uv
# Makes BASE_DIR/envs/NAME with these packages from an index, and reports what it does on stderr. PYTHON is what uv takes
# as a version; without uv, a Python between OLDEST and NEWEST (such as 10 and 14) that has venv and pip makes it.
# Prints `@NONCE made PATH`, or `@NONCE failed WHY [WORD]`: busy PID, foreign PATH, tool, install.
# Everything stays below BASE_DIR/envs: an interrupted download is continued by the next call, and `clean` removes it all.
mark=@$1 base=$2 name=$3 version=$4 oldest=$5 newest=$6 index=$7 size=$8
shift 8
say() { printf '\n%s\n' "$mark $*"; }
step() { printf '%s\n' "$*" >&2; }
fail() { say "failed $*"; say -; exit 0; }
case $base in "~/"*) base=$HOME/${base#"~/"} ;; esac
umask 077
mkdir -p "$base/envs" || fail install
base=$(cd -P "$base" && pwd) || fail install
envs=$base/envs env=$base/envs/$name sent=
trap 'rm -f "$envs/.uv-$$"' EXIT; trap 'exit 143' HUP INT TERM
if [ "$size" -gt 0 ]; then
    sent=$envs/.uv-$$
    head -c "$size" > "$sent" && chmod 700 "$sent" || fail install
    [ "$(stat -c %s "$sent")" = "$size" ] || fail install
fi
for uv in "$(command -v uv)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" "$sent" ''; do
    if [ -n "$uv" ] && "$uv" --version < /dev/null > /dev/null 2>&1; then break; fi
done

# Who makes it says so in a file beside it, which also shows that what is there is ours before it is complete.
started() { sed 's/.*) //' "/proc/$1/stat" 2> /dev/null | cut -d ' ' -f 20; }
making=$envs/.$name.making
if [ -f "$making" ] && read -r pid since < "$making"; then
    [ -z "$since" ] || [ "$(started "$pid")" != "$since" ] || fail busy "$pid"
elif [ -e "$env" ] || [ -L "$env" ]; then
    [ ! -L "$env" ] && [ -f "$env/.ugro-env" ] || fail foreign "$env"
fi
echo "$$ $(started $$)" > "$making" || fail install
if [ -e "$env" ]; then
    step "removing what is in $env"
    rm -rf "$env" || fail install
fi
cd "$envs" || fail install # not where a project of the user's lies

UV_CACHE_DIR=$envs/.cache PIP_CACHE_DIR=$envs/.cache UV_PYTHON_INSTALL_DIR=$envs/.python
export UV_CACHE_DIR PIP_CACHE_DIR UV_PYTHON_INSTALL_DIR
made_by_venv() { # prints a Python that has venv and pip
    for path in python3 /usr/bin/python3 "$HOME"/miniconda3/bin/python "$HOME"/anaconda3/bin/python \
        "$HOME"/miniforge3/bin/python "$HOME"/mambaforge/bin/python "$HOME"/.pyenv/versions/*/bin/python; do
        path=$(command -v "$path") || continue
        if timeout 10 "$path" -c "import sys, venv, ensurepip
sys.exit(not (3, $oldest) <= sys.version_info[:2] <= (3, $newest))" < /dev/null > /dev/null 2>&1; then
            printf '%s\n' "$path"
            return
        fi
    done
    return 1
}
if [ -n "$uv" ]; then
    step "making $env with $("$uv" --version)"
    "$uv" venv --quiet --python "$version" "$env" < /dev/null >&2 || fail install
    step "installing $* from $index"
    "$uv" pip install --python "$env/bin/python" --index-url "$index" "$@" < /dev/null >&2 || fail install
elif python=$(made_by_venv); then
    step "making $env with $python -m venv"
    "$python" -m venv "$env" < /dev/null >&2 || fail install
    step "installing $* from $index"
    "$env/bin/python" -m pip install --disable-pip-version-check --progress-bar off --index-url "$index" "$@" \
        < /dev/null >&2 || fail install
else
    rm -f "$making"
    fail tool
fi
echo "$*" > "$env/.ugro-env" || fail install
rm -rf "$envs/.cache" "$making"
say "made $env/bin/python"
say -
