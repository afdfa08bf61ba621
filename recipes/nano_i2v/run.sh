#!/bin/sh
# Make the nano inpainting model: latents, denoiser and text encoder, and the folder that ImageToVideoPipeline reads.
#   recipes/nano_i2v/run.sh [section.key=value ...]
# Run it from the repository root. Stopped at any point, the same command goes on from there.
# Set by environment:
#   NANO     folder of the nano model, whose autoencoder and tokeniser are taken (default: mindsora/weights/nano)
#   MODEL    folder to make (default: mindsora/weights/nano_i2v)
#   OUTPUT   folder of states, log and latents (default: outputs/nano_i2v)
#   DEVICE   CPU (default) or Ascend
set -eu

recipe=$(dirname "$0")
nano=${NANO:-mindsora/weights/nano}
model=${MODEL:-mindsora/weights/nano_i2v}
output=${OUTPUT:-outputs/nano_i2v}

# Copies, because a model folder is whole: it can be moved, or given away, without the other.
mkdir -p "$model"
for part in vae tokenizer; do
    [ ! -d "$model/$part" ] || continue
    if [ ! -d "$nano/$part" ]; then
        echo "$0: $nano has no $part/: make the nano model first (recipes/nano/run.sh), or say NANO=FOLDER" >&2
        exit 2
    fi
    copy="$model/$part.$$.partial"  # of this process alone
    cp -R "$nano/$part" "$copy"
    mv "$copy" "$model/$part"
done

python -m mindsora.train "$recipe/inpaint.yaml" --device "${DEVICE:-CPU}" run.out="$output" run.export="$model" "$@"
