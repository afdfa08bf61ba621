#!/bin/sh
# Text to video with the settings in config.yaml. Run it where `mindsora` is installed:
#   run.sh PROMPT|FILE [option of `mindsora generate` ...]
# Set by environment:
#   MODEL    folder of the weights (default: weights/opensora_plan_v1_5), or nano
#   OUTPUT   folder of the videos (default: outputs/v1_5)
#   WORKERS  1, or 8 for the eight cards of a server; each takes every WORKERS-th prompt
#   DEVICE   Ascend (default) or CPU
set -eu

[ $# -ge 1 ] || { sed -n '2,8s/^# //p' "$0" >&2; exit 2; }
recipe=$(dirname "$0")
prompt=$1
shift
workers=${WORKERS:-1}
output=${OUTPUT:-outputs/v1_5}

if [ -f "$prompt" ]; then
    set -- --prompt-file "$prompt" "$@"
else
    set -- "$prompt" "$@"
fi
set -- generate --config "$recipe/config.yaml" --model "${MODEL:-weights/opensora_plan_v1_5}" \
    --device "${DEVICE:-Ascend}" --output "$output/video.mp4" "$@"
if [ "$workers" = 1 ]; then
    exec mindsora "$@"
fi
exec msrun --worker_num="$workers" --local_worker_num="$workers" --master_port="${MASTER_PORT:-8118}" \
    --log_dir="$output/logs" --join=True "$(command -v mindsora)" "$@"
