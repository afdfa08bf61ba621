#!/bin/sh
# Train one published stage of WF-VAE; the same command goes on after a stop.
#   recipes/vae/run.sh stage_1 [section.key=value ...]
# Run it from the repository root. Set by environment:
#   BACKBONE  torchvision's vgg16-397923af.pth for the LPIPS term (default: none, and the term is off)
#   DEVICE    Ascend (default) or CPU
set -eu

recipe=$(dirname "$0")/${1:-}.yaml
[ $# -ge 1 ] && [ -f "$recipe" ] || { sed -n '2,6s/^# //p' "$0" >&2; exit 2; }
shift
exec python -m mindsora.train "$recipe" --device "${DEVICE:-Ascend}" ${BACKBONE:+loss.lpips_backbone="$BACKBONE"} "$@"
