# probe.sh BASE_DIR NONCE [SECONDS [skip|each|'' [NOW]]]: what this node says of itself, for ugro/nodes/gpu_monitor.py.
#
# Sections stand between lines that begin with "@NONCE ", which no foreign text (a process may be called anything) can
# forge. SECONDS bounds each call of nvidia-smi, "skip" does without it, "each" asks GPU by GPU. NOW is the time at which
# the answer began, if the caller has printed something before. What can hang comes late: the reader makes do with what
# came before. The shell reads /proc itself where it can: a program costs more than all of its reading.

base=$1 mark=@$2 limit=${3:-10} how=$4
LC_ALL=C PATH=$PATH:/usr/lib/wsl/lib:/usr/local/nvidia/bin
export LC_ALL PATH
unset OMP_NUM_THREADS OMP_THREAD_LIMIT # nproc would answer with them
started=${5:-$(date +%s.%N)}

# Nodes of the sandbox have other GPUs than the driver of the machine they really are: they name another place.
set -- "${UGRO_NVIDIA_PROC:-/proc/driver/nvidia}"/gpus/*/information
[ -e "$1" ] || shift
expected=$# information=$*
set -f

newline='
'
core=index,uuid,memory.total,memory.used,memory.free,utilization.gpu,temperature.gpu,driver_version
known=power.draw,mig.mode.current clocks=clocks.sm,clocks.mem
apps=gpu_uuid,pid,used_memory,process_name
processes='' environs='' lost='' boot_id='' load='' total='' available='' allowed=''

# tell TITLE [LINE…]: one section, and the line that says that it is whole.
tell() {
    title=$1
    shift
    printf '%s\n' "$mark $title" "$@" "$mark -"
}

# $out and $rc of nvidia-smi, which complains on stdout as often as on stderr. One that cannot even be killed holds
# only this pipe then, not the streams that the SSH channel waits for.
smi() {
    out=$(timeout -k 2 "$limit" nvidia-smi "$@" 2>&1 </dev/null)
    rc=$?
}

# ask [-i UUID]: the GPUs and their processes. A name stands last in its row: it may have commas.
ask() {
    for more in "$known,$clocks,clocks_event_reasons.active" "$known,$clocks,clocks_throttle_reasons.active" "$known" ""; do
        smi "$@" --format=csv,nounits --query-gpu="$core${more:+,$more},name"
        case $rc:$out in
        2:* | *"not a valid field"*) ;; # this driver does not know one of them, or by another name
        *) break ;;
        esac
    done
    tell "gpus $rc $2" "$out"
    case $out in *"device handle"*) lost=yes ;; esac
    [ "$rc" -eq 0 ] || return 1
    smi "$@" --format=csv,nounits --query-compute-apps="$apps"
    tell "processes $rc $2" "$out"
    IFS=$newline
    for row in $out; do
        pid=${row#*, }
        pid=${pid%%,*}
        case $pid in '' | *[!0-9]*) ;; *) processes="$processes /proc/$pid" environs="$environs /proc/$pid/environ" ;; esac
    done
    unset IFS
    return "$rc"
}

# One lost GPU may hide all others, so they are asked one by one.
one_by_one() {
    smi -L
    tell "list $rc" "$out"
    for uuid in $(printf '%s\n' "$out" | sed -n 's/^GPU [0-9]*: .*(UUID: \(GPU-[0-9A-Fa-f-]*\))$/\1/p'); do
        case $rc in 124 | 137) break ;; esac
        ask -i "$uuid"
    done
}

survey() {
    command -v nvidia-smi >/dev/null || {
        tell "gpus 127"
        return
    }
    ask || case $rc in 124 | 137) ;; *) one_by_one ;; esac
    [ -z "$lost" ] || identify
}

# The driver remembers the name and the UUID of a GPU of which nvidia-smi only tells the place on the bus.
identify() {
    tell information "$(timeout -k 2 5 sed -n -e 's/^Model:[[:space:]]*//p' \
        -e 's/^GPU UUID:[[:space:]]*//p' -e 's/^Bus Location:[[:space:]]*//p' $information </dev/null)"
}

read -r boot_id </proc/sys/kernel/random/boot_id
read -r load _ </proc/loadavg
while read -r key value _; do
    case $key in
    MemTotal:) total=$value ;;
    MemAvailable:)
        available=$value
        break
        ;;
    esac
done </proc/meminfo
# The CPUs that a process may use, as nproc counts them: "0-3,8".
while read -r key value; do
    case $key in Cpus_allowed_list:)
        allowed=$value
        break
        ;;
    esac
done </proc/self/status
cpus=0
IFS=,
for range in $allowed; do
    cpus=$((cpus + 1 + ${range#*-} - ${range%-*}))
done
unset IFS
[ "$cpus" -gt 0 ] || cpus=$(nproc || getconf _NPROCESSORS_ONLN)
tell node "started=$started" "boot_id=$boot_id" "cpus=$cpus" \
    "load=$load" "total_kib=$total" "available_kib=$available" "expected_gpus=$expected"

case $base in
/*) ;;
*) base=$HOME/${base#"~/"} ;;
esac
# Its first line says whose node this is; a master must know it even when a GPU hangs.
owner=$(timeout -k 2 5 head -c 1000 "$base/owner" 2>/dev/null </dev/null)
owner=${owner%%"$newline"*}
[ -z "$owner" ] || tell node "owner=$owner"

case $how in skip) ;; each) one_by_one ;; *) survey ;; esac

owners=''
[ -z "$processes" ] || owners=$(stat -c '%n %u %U' $processes 2>/dev/null)
tell owners "$owners"
# Which of them belong to a run, by the environment that UGRO gave it; those of other users cannot be read.
[ -z "$environs" ] || tell runs "$(timeout -k 2 5 grep -azH '^UGRO_RUN=' $environs 2>/dev/null </dev/null | tr '\000' '\n')"

whole=$base
until [ -e "$base/" ]; do
    base=${base%/*}
done
tell "disk $(stat -f -c '%a %S' "$base/")"
# However a path to it is written, and before it is there.
both=$(stat -L -c '%d:%i' /proc/self/ns/pid "$base/")
case $both in *"$newline"*)
    pids=${both%%"$newline"*}
    tell node "pids=pid:[${pids#*:}]"
    tell folder "${both#*"$newline"}${whole#"$base"}"
    ;;
esac
tell "end $(date +%s.%N)"
