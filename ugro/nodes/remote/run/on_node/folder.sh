# usage: BASE_DIR JOB UID
# Makes the job's folder and prints the id of the storage it lies on: nodes that share a home print the same id.
# A folder of the same name that another master (or an earlier state directory) left is put aside, unless it is in use.
umask 077
base=$1; case $base in "~/"*) base=$HOME/${base#"~/"} ;; esac
job=$base/jobs/$2
[ -d "$base/jobs" ] || mkdir -p "$base/jobs" || exit 73
if [ ! -s "$base/storage-id" ]; then
    cat /proc/sys/kernel/random/uuid > "$base/.storage-id.$$" && ln "$base/.storage-id.$$" "$base/storage-id" 2>/dev/null
    rm -f "$base/.storage-id.$$"
fi
uid=$3
[ ! -e "$job/uid" ] || read -r uid < "$job/uid"
if [ "$uid" != "$3" ]; then
    for pid in "$job"/*/node-*/pid; do
        [ -e "$pid" ] || continue
        read -r number started boot < "$pid"
        stat=$(cat "/proc/$number/stat" 2>/dev/null) || continue
        set -- "$1" "$2" "$3" "$started" ${stat##*) }
        if [ "${24}" = "$4" ] && [ "$5" != Z ]; then
            echo "another $2, of another master, is running here (pid $number)" >&2
            exit 75
        fi
    done
    mv "$job" "$job.before-$(date +%Y%m%d-%H%M%S)-$$" || exit 73
fi
mkdir -p "$job" || exit 73
printf '%s\n' "$3" > "$job/.uid.$$" && mv "$job/.uid.$$" "$job/uid" || exit 73
read -r storage < "$base/storage-id" || exit 73
printf '%s\n' "$storage"
