#!/bin/sh
# Make the nano model: tokenisers, WF-VAE, latents, denoiser and text encoders, and the folder the pipeline reads.
#   recipes/nano/run.sh [vae|denoiser [section.key=value ...]]        default: everything
# Run it from the repository root. After a stop at any point, the same command continues from there.
# Set by environment:
#   MODEL    folder to make (default: mindsora/weights/nano)
#   OUTPUT   folder of states, logs and latents (default: outputs/nano)
#   DEVICE   CPU (default) or Ascend
set -eu

recipe=$(dirname "$0")
model=${MODEL:-mindsora/weights/nano}
output=${OUTPUT:-outputs/nano}
only=${1:-all}
[ $# -eq 0 ] || shift
case "$only" in all|vae|denoiser) ;; *) sed -n '2,8s/^# //p' "$0" >&2; exit 2 ;; esac

if [ ! -f "$model/tokenizer/spiece.model" ] || [ ! -f "$model/tokenizer_2/vocab.json" ]; then
    python "$recipe/make_tokenizers.py" "$model"
fi

# The autoencoder has five stages, each starting from the weights of the stage before: short windows, whole clips, twice
# the latent channels, a lower rate, and only the first half of the channels. Eight channels in all stages gave 30 dB
# and turned squares into circles. The first eight channels of the wide autoencoder lose almost nothing after more
# training, and a denoiser learns eight channels better than sixteen. For a finished stage the trainer only exports.
train_vae() {
    stage=$1 init=$2 export=$3
    shift 3
    python -m mindsora.train "$recipe/vae.yaml" --device "${DEVICE:-CPU}" \
        run.out="$output/$stage" run.init="$init" run.export="$export" "$@"
}

if [ "$only" != denoiser ]; then
    rate="optimizer.lr=7.0e-4 optimizer.warmup=60 run.seed=0"
    train_vae vae_1 null "$output/vae_1/model" $rate optimizer.decay_from=1 run.steps=1750 \
        model.latent_dim=8 data.crop_frames=9 "$@"
    train_vae vae_2 "$output/vae_1/model" "$output/vae_2/model" $rate optimizer.decay_from=0.5 run.steps=3600 \
        model.latent_dim=8 "$@"
    train_vae vae_3 "$output/vae_2/model" "$output/vae_3/model" $rate optimizer.decay_from=0.4 run.steps=3000 \
        model.latent_dim=16 "$@"
    train_vae vae_4 "$output/vae_3/model" "$output/vae_4/model" optimizer.ema=0.999 run.steps=2300 run.seed=1 \
        model.latent_dim=16 "$@"
    train_vae vae "$output/vae_4/model" "$model/vae" "$@"
fi
[ "$only" = vae ] || python -m mindsora.train "$recipe/denoiser.yaml" --device "${DEVICE:-CPU}" \
    run.out="$output/denoiser" run.export="$model" "$@"
# The model in the box has checksums, which loading compares.
[ ! -f "$model/sha256.json" ] || python -m mindsora.shipped "$model"
