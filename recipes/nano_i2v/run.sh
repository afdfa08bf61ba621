#!/bin/sh
# Make the nano inpainting model: latents, denoiser and text encoder, and the folder that ImageToVideoPipeline reads.
#   recipes/nano_i2v/run.sh [section.key=value ...]
# Run it from the repository root. After a stop at any point, the same command continues from there.
# Set by environment:
#   NANO     folder of the nano model, the source of the autoencoder and tokeniser (default: mindsora/weights/nano)
#   MODEL    folder to make (default: mindsora/weights/nano_i2v)
#   OUTPUT   folder of states, log and latents (default: outputs/nano_i2v)
#   DEVICE   CPU (default) or Ascend
set -eu

recipe=$(dirname "$0")
nano=${NANO:-mindsora/weights/nano}
model=${MODEL:-mindsora/weights/nano_i2v}
output=${OUTPUT:-outputs/nano_i2v}

# Copies, so that the model folder is complete and can be moved or shared without the nano folder.
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
# The model in the box has checksums, which loading compares.
[ ! -f "$model/sha256.json" ] || python -m mindsora.shipped "$model"
