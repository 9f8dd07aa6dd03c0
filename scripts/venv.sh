# usage: PYTHON=python3 sh scripts/venv.sh VENV
# Makes the virtual environment with UGRO and PyTorch. Where the interpreter has a torch of its own (2.1 or newer), the
# environment sees that one instead of downloading it again. One in ~/.local does not count: a node of the sandbox has
# a home of its own.
set -eu
venv=$1
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "UGRO needs Python 3.11 or newer, and $python is $("$python" -V 2>&1). Name another: make PYTHON=python3.12" >&2
    exit 1
}
has_torch() {
    "$1" -s -c 'import torch, sys; sys.exit(tuple(map(int, torch.__version__.split(".")[:2])) < (2, 1))' 2>/dev/null
}
site=
if has_torch "$python"; then site=--system-site-packages; fi
if [ ! -x "$venv/bin/python" ] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    "$python" -m venv $site "$venv" || {
        echo "python3-venv is missing: on Debian and Ubuntu, sudo apt install python3-venv" >&2
        exit 1
    }
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }
echo "Installing UGRO into $venv …"
pip install --quiet --editable .
if ! has_torch "$venv/bin/python"; then
    echo "Downloading PyTorch: 200 MB for the CPU build, up to 3 GB with CUDA. Once only."
    pip install --progress-bar on --editable '.[demo]' | grep -v 'already satisfied' || true
    has_torch "$venv/bin/python" || { echo "PyTorch could not be installed; see above" >&2; exit 1; }
fi
