#!/bin/bash
# Run a mindsora command on several cards, one process each, which msrun starts. Not measured on Ascend.
#   CARDS=8 recipes/cards.sh train RECIPE.yaml --parallel dp=8
#   CARDS=8 NODES=4 NODE=0 MASTER=10.0.0.1 recipes/cards.sh train RECIPE.yaml --parallel dp=32
# The second form: on every host, with its own NODE from 0. One card needs no msrun, and this script starts none.
# If a process dies, the others are stopped within 30 seconds, one line names the dead rank, and the exit status is 1.
# A signal to stop (Ctrl-C, TERM) goes to every process; a training saves its state first.
# Set by environment:
#   CARDS    cards of this host (default: 1)
#   NODES    hosts (default: 1)
#   NODE     number of this host (default: 0)
#   MASTER   address of host 0 (default: 127.0.0.1)
#   PORT     of host 0 (default: 8118 for several hosts, any free one otherwise)
#   LOGS     folder for worker_RANK.log and the logs of msrun (default: outputs/ranks)
set -u

[ $# -ge 1 ] || { sed -n '2,/^[^#]/s/^# //p' "$0" >&2; exit 2; }
cards=${CARDS:-1} nodes=${NODES:-1} node=${NODE:-0} logs=${LOGS:-outputs/ranks}
if [ $((cards * nodes)) = 1 ]; then
    exec mindsora "$@"
fi
for program in mindsora msrun pgrep; do
    command -v "$program" >/dev/null || { echo "cards.sh: no program $program on PATH" >&2; exit 2; }
done
mindsora=$(command -v mindsora)
PATH=$(dirname "$(command -v msrun)"):$PATH # msrun starts `python`: its own
free='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=${PORT:-$([ "$nodes" = 1 ] && python -c "$free" || echo 8118)}
export MS_NODE_TIMEOUT=${MS_NODE_TIMEOUT:-15} # seconds after which the scheduler gives a silent process up

mkdir -p "$logs" || exit 2
rm -f "$logs"/*.log
# In a session of its own: Ctrl-C would make msrun kill the processes before they save.
# --tail_worker_log: the number of no process; the first one's log is shown below.
setsid msrun --worker_num=$((cards * nodes)) --local_worker_num="$cards" --node_rank="$node" \
    --master_addr="${MASTER:-127.0.0.1}" --master_port="$port" --log_dir="$logs" --join=True --bind_core=False \
    --tail_worker_log="$cards" "$mindsora" "$@" >"$logs/msrun.log" 2>&1 &
msrun=$!
tail --pid=$msrun -n +1 -F "$logs/worker_$((node * cards)).log" 2>/dev/null &
tail=$!

declare -A ranks # process -> rank
stopped=0
stop() {
    stopped=$1
    [ ${#ranks[@]} = 0 ] || kill -TERM "${!ranks[@]}" 2>/dev/null
}
trap 'stop 130' INT
trap 'stop 143' TERM HUP

while kill -0 $msrun 2>/dev/null; do
    for process in $(pgrep -P $msrun); do
        role=$(tr '\0' '\n' <"/proc/$process/environ" 2>/dev/null | grep -E '^(MS_ROLE|RANK_ID)=' | sort | tr '\n' ' ')
        case $role in "MS_ROLE=MS_WORKER RANK_ID="*) ranks[$process]=${role##*RANK_ID=} ;; esac
    done
    if grep -q 'Worker process [0-9]* exit with exception' "$logs/msrun.log" 2>/dev/null; then
        sleep 1
        kill -KILL -- -$msrun 2>/dev/null # msrun and its scheduler, which would wait for the dead process
    fi
    sleep 1 &
    wait $! # a trap interrupts it
done 2>/dev/null # processes that end while one looks at them
wait $msrun 2>/dev/null
status=$?
wait $tail

[ "$stopped" = 0 ] || exit "$stopped"
line=$(sed -n 's/.*Worker process \([0-9]*\) exit with exception. Error code: \(-\?[0-9]*\).*/\1 \2/p' "$logs/msrun.log" | head -1)
[ -n "$line" ] || { [ $status = 0 ] && exit 0; echo "cards.sh: msrun failed; see $logs/msrun.log" >&2; exit 1; }
rank=$(echo ${ranks[${line% *}]:-})
code=${line#* }
how="ended with status $code"
[ "$code" -ge 0 ] || how="was ended by signal ${code#-}"
said=$(grep -v '^\[' "$logs/worker_$rank.log" 2>/dev/null | tail -n 1)
echo "cards.sh: rank ${rank:-of process ${line% *}} $how; all ranks are stopped. Its last line: ${said:-none}" >&2
echo "cards.sh: logs: $logs; a training goes on from its last state with the same command" >&2
exit 1
