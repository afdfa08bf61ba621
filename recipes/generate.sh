# The run.sh of every generation recipe sources this file. Arguments: PROMPT|FILE, then options of `mindsora generate`.
# The caller sets $recipe, the folder of its config.yaml, and $model and $output, the default folders.
# Each line of a FILE is a prompt; each of WORKERS cards takes every WORKERS-th prompt.

# Without a prompt, print the comment at the head of the caller as its usage.
[ $# -ge 1 ] || { sed -n '2,/^[^#]/s/^# //p' "$0" >&2; exit 2; }
prompt=$1
shift
workers=${WORKERS:-1}
output=${OUTPUT:-$output}

if [ -f "$prompt" ]; then
    set -- --prompt-file "$prompt" "$@"
else
    set -- "$prompt" "$@"
fi
set -- generate --config "$recipe/config.yaml" --model "${MODEL:-$model}" \
    --device "${DEVICE:-Ascend}" --output "$output/video.mp4" "$@"
if [ "$workers" = 1 ]; then
    exec mindsora "$@"
fi
exec msrun --worker_num="$workers" --local_worker_num="$workers" --master_port="${MASTER_PORT:-8118}" \
    --log_dir="$output/logs" --join=True "$(command -v mindsora)" "$@"
