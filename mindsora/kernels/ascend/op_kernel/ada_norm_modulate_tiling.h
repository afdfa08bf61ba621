// Tiling data of AdaNormModulate: plain data, written by op_host/ada_norm_modulate_plan.h, read by the kernel.
#ifndef MINDSORA_ADA_NORM_MODULATE_TILING_H
#define MINDSORA_ADA_NORM_MODULATE_TILING_H

#include <cstdint>

struct AdaNormModulateTiling {
    uint32_t batch;
    uint32_t rows;       // tokens of one batch item
    uint32_t channels;   // C
    uint32_t gated;      // 1: h = x + gate * branch is taken and stored
    uint32_t normed;     // 1: y is computed and stored
    uint32_t tileRows;   // rows at a time, at most 8
    uint32_t itemTiles;  // tiles of one batch item
    uint32_t tiles;      // batch * itemTiles
};

#endif
