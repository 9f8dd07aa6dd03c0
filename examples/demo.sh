# The demo: three simulated nodes, one command, a real 3-node DDP training. Run it with `make demo`.
# usage: BIN=.venv/bin SANDBOX=DIRECTORY sh examples/demo.sh
set -eu
ugro="$BIN/ugro"
say() { printf '\n\033[1m$ ugro %s\033[0m\n' "$*"; }

"$ugro" sandbox up --dir "$SANDBOX"
trap 'unset UGRO_HOME UGRO_INVENTORY UGRO_SANDBOX_DIR; "$ugro" sandbox down --dir "$SANDBOX"' EXIT
trap 'exit 130' INT TERM
eval "$("$ugro" sandbox env --dir "$SANDBOX")"
cd examples
ugro="../$BIN/ugro"

say nodes
"$ugro" nodes
say launch train_production.py --name demo --follow
"$ugro" launch train_production.py --name demo --follow
say status demo
"$ugro" status demo
say nodes
"$ugro" nodes
