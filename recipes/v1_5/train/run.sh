#!/bin/sh
# Train a stage of Open-Sora Plan v1.5. Run it where `mindsora` is installed; paths in the recipes start from the working folder:
#   run.sh STAGE [section.key=value ...] [--overlay FILE.yaml]
# Stages: image_1 ... image_4, video_1 ... video_5. After a stop, the same command goes on.
# Set by environment:
#   DEVICE   Ascend (default) or CPU
#   CARDS    cards of this host (default: 1); give --parallel dp=N too. NODES, NODE, MASTER: see recipes/cards.sh
set -eu

recipe=$(cd "$(dirname "$0")" && pwd)
. "$recipe/../../train_stage.sh"
