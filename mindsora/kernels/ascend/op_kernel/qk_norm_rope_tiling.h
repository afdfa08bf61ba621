// Tiling data of QkNormRope: plain data, written by op_host/qk_norm_rope_plan.h, read by the kernel.
#ifndef MINDSORA_QK_NORM_ROPE_TILING_H
#define MINDSORA_QK_NORM_ROPE_TILING_H

#include <cstdint>

struct QkNormRopeTiling {
    uint32_t batch;
    uint32_t tokens;   // N visual tokens
    uint32_t textLen;  // L text tokens, 0 for none
    uint32_t heads;
    uint32_t headDim;     // D
    uint32_t n;           // sub-sequences of the result
    uint32_t group;       // 1: group skip
    uint32_t learnt;      // 1: times weight, plus bias
    uint32_t rope;        // 1: visual tokens are rotated
    uint32_t rows;        // R, of a sub-sequence, padding included
    uint32_t tileRows;    // tokens at a time
    uint32_t groupTiles;  // tiles of the visual rows of one sub-sequence
    uint32_t textTiles;   // tiles of the text of one batch item
    uint32_t tiles;       // batch * (n * groupTiles + textTiles)
};

#endif
