// Tiling of AdaNormModulate.
#ifndef MINDSORA_ADA_NORM_MODULATE_PLAN_H
#define MINDSORA_ADA_NORM_MODULATE_PLAN_H

#include "../op_kernel/ada_norm_modulate_tiling.h"
#include "plan.h"

namespace mindsora {

// UB of `rows` rows at a time, as the kernel's Init lays it out.
inline uint64_t AdaNormBytes(uint64_t channels, uint64_t rows, bool gated)
{
    const uint64_t queues = (gated ? 8 : 4) * rows * channels * 2;  // x, y (branch, h), two tiles each, 2 bytes
    const uint64_t work = 2 * rows * channels * 4;
    const uint64_t resident = (gated ? 4 : 3) * channels * 4;  // factor, offset, (gate,) a row being loaded
    return queues + work + resident + rows * 256 + 320;
}

inline Plan PlanAdaNormModulate(uint64_t batch, uint64_t rows, uint64_t channels, bool gated, bool normed, bool brain,
                                const Part &part, AdaNormModulateTiling &t)
{
    Plan plan;
    if (!gated && !normed) {
        plan.error = "neither the residual nor the norm is asked for";
        return plan;
    }
    if (channels == 0 || channels % 16 != 0 || channels > 4096) {
        plan.error = std::to_string(channels) + " channels; a multiple of 16 up to 4096 is supported";
        return plan;
    }
    uint64_t tile = 8;
    while (tile > 1 && AdaNormBytes(channels, tile, gated) > part.ub) {
        --tile;
    }
    tile = std::min(tile, (batch * rows + part.vectors - 1) / part.vectors);  // small inputs: a row for every core
    if (AdaNormBytes(channels, tile, gated) > part.ub) {
        plan.error = std::to_string(channels) + " channels do not fit " + std::to_string(part.ub) + " bytes of UB";
        return plan;
    }
    t.batch = batch;
    t.rows = rows;
    t.channels = channels;
    t.gated = gated;
    t.normed = normed;
    t.tileRows = tile;
    t.itemTiles = (rows + tile - 1) / tile;
    t.tiles = batch * t.itemTiles;
    plan.blocks = std::min<uint64_t>(part.vectors, t.tiles);
    plan.key = brain;
    return plan;
}

}  // namespace mindsora

#endif
