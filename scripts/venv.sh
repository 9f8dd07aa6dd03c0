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
# Of some packages most modules are never imported: each is compiled when it is, which halves the time of an install.
pip_install() { "$venv/bin/python" -m pip --disable-pip-version-check install --no-compile "$@"; }
echo "Installing UGRO into $venv …"
pip_install --quiet --upgrade pip || true # those that come with Python 3.11 take twice as long; any will do
pip_install --quiet --editable .
if ! has_torch "$venv/bin/python"; then
    echo "Downloading PyTorch: 200 MB for the CPU build, up to 3 GB with CUDA. Once only."
    pip_install --progress-bar on --editable '.[demo]' | grep -v 'already satisfied' || true
    # It is compiled now, since a node's user may not be allowed to keep what it compiles here.
    "$venv/bin/python" -s -c 'import torch.distributed.run' || {
        echo "PyTorch could not be installed; see above" >&2
        exit 1
    }
fi
