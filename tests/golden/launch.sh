#!/bin/sh
# job-007, attempt 2, node rank 1 of 3
umask 022
run_dir=$PWD
python="$HOME"/env/bin/python # before the job's environment, which may have another HOME
surround() {
export PATH="${python%/*}:$PATH"
export NCCL_SOCKET_IFNAME==enp5s0
export GLOO_SOCKET_IFNAME=enp5s0
export A='b c'
export CUDA_DEVICE_ORDER=PCI_BUS_ID
export CUDA_VISIBLE_DEVICES=GPU-1,GPU-2
export UGRO_JOB=job-007
export UGRO_ATTEMPT=2
export UGRO_RUN=0123456789abcdef/2/1
export UGRO_TIME_LIMIT=36000
export UGRO_TIME_WARNING=0.5
export UGRO_BATCH_SHARES=0.4,0.1
cd ../../code || exit
}
[ $# -eq 0 ] || { surround; unset UGRO_RUN; exec "$@"; } # beside the ranks, and none of them

mkdir claim 2>/dev/null || exit 0 # a second launch of the same attempt ends here
echo 0123456789abcdef > claim/uid
echo 36000 0.5 > time-limit
read -r stat < "/proc/$$/stat"; set -- ${stat##*) }; shift 19
read -r boot < /proc/sys/kernel/random/boot_id
echo "$$ $1 $boot" > pid.tmp && mv pid.tmp pid
trap : HUP INT TERM # ranks get their own signals; this stays to write the exit file

( # the job's environment is not this script's: a PATH of its own may not lead to mv and date
surround
export TORCHELASTIC_ERROR_FILE="$run_dir/agent.error"
export UGRO_CHECKPOINT_REQUEST="$run_dir/checkpoint-request"
exec "$python" -S "$run_dir/reaper.py" "$run_dir" \
    "$python" -m torch.distributed.run --nnodes=3 --node-rank=1 --nproc-per-node=2 --master-addr=192.168.1.100 --master-port=29549 --max-restarts=0 --log-dir="$run_dir/torchelastic" -- \
    "$run_dir/rank.py" "$run_dir" 'train it.py' --lr 1e-4 '$(touch x)' 'it'"'"'s
'
)
code=$? # of a reaper that could not start, or was killed: else it has left torchrun's own
cd "$run_dir" && { [ -s exit ] || { echo "$code $(date +%s) reaper" 1<> exit.room && mv exit.room exit; }; }
