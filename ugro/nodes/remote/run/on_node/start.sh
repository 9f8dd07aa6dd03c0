# usage: RUN_DIR JOB ATTEMPT RUN UID LAUNCH_SH RANK_PY REAPER_PY SECRETS
# Starts launch.sh detached from this connection and prints its pid file. Harmless when it runs already.
# SECRETS (JSON, or nothing) go into a file of mode 0600, which reaper.py reads and removes.
umask 077
dir=$1; case $dir in "~/"*) dir=$HOME/${dir#"~/"} ;; esac
mkdir -p "$dir" && cd "$dir" || exit 73
if [ ! -d claim ]; then
    printf '%s' "$6" > launch.sh && printf '%s' "$7" > rank.py && printf '%s' "$8" > reaper.py || exit 73
    if [ -n "$9" ]; then
        printf '%s' "$9" > "secrets.$$" && mv "secrets.$$" secrets || { rm -f "secrets.$$"; exit 73; }
    fi
    UGRO_JOB=$2 UGRO_ATTEMPT=$3 UGRO_RUN=$4 nohup setsid sh ./launch.sh < /dev/null >> log 2>&1 &
fi
waited=0
until [ -s pid ]; do
    waited=$((waited + 1))
    if [ "$waited" -gt 250 ]; then
        echo "launch.sh did not start: $(tail -n 1 log)" >&2
        exit 70
    fi
    sleep 0.02
done
read -r uid < claim/uid
if [ "$uid" != "$5" ]; then
    echo "the folder $dir belongs to another job" >&2
    exit 75
fi
read -r pid < pid
printf '%s\n' "$pid"
