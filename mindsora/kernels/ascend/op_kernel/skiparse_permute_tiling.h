// Tiling data of SkiparsePermute: plain data, written by op_host/skiparse_permute_plan.h, read by the kernel.
#ifndef MINDSORA_SKIPARSE_PERMUTE_TILING_H
#define MINDSORA_SKIPARSE_PERMUTE_TILING_H

#include <cstdint>

struct SkiparsePermuteTiling {
    uint32_t batch;
    uint32_t tokens;      // N
    uint32_t n;           // sub-sequences
    uint32_t group;       // 1: group skip, 0: single skip
    uint32_t inverse;     // 1: rows back to tokens
    uint32_t width;       // of a row, in units of 2 bytes
    uint32_t rows;        // R, of a sub-sequence, padding included
    uint32_t tileRows;    // rows moved at a time
    uint32_t groupTiles;  // tiles of one sub-sequence
    uint32_t tiles;       // batch * n * groupTiles
};

#endif
