#!/bin/sh
# Make the nano model: tokenisers, WF-VAE, latents, denoiser and text encoders, and the folder the pipeline reads.
#   recipes/nano/run.sh [vae|denoiser [section.key=value ...]]        default: all of it
# Run it from the repository root. Stopped at any point, the same command goes on from there.
# Set by environment:
#   MODEL    folder to make (default: mindsora/weights/nano)
#   OUTPUT   folder of checkpoints, logs and latents (default: outputs/nano)
#   DEVICE   CPU (default) or Ascend
set -eu

recipe=$(dirname "$0")
model=${MODEL:-mindsora/weights/nano}
output=${OUTPUT:-outputs/nano}
only=${1:-all}
[ $# -eq 0 ] || shift
case "$only" in all|vae|denoiser) ;; *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;; esac

train() {
    name=$1 export=$2
    shift 2
    python -m mindsora.train "$recipe/$name.yaml" --device "${DEVICE:-CPU}" \
        run.out="$output/$name" run.export="$export" "$@"
}

if [ ! -f "$model/tokenizer/spiece.model" ] || [ ! -f "$model/tokenizer_2/vocab.json" ]; then
    python "$recipe/make_tokenizers.py" "$model"
fi
[ "$only" = denoiser ] || train vae "$model/vae" "$@"
[ "$only" = vae ] || train denoiser "$model" "$@"
