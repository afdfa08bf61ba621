// Tiling data of SkiparseAttention and SkiparseAttentionGrad: plain data, written by op_host/skiparse_attention_plan.h,
// read by the kernels.
#ifndef MINDSORA_SKIPARSE_ATTENTION_TILING_H
#define MINDSORA_SKIPARSE_ATTENTION_TILING_H

#include <cstdint>

struct SkiparseAttentionTiling {
    uint32_t batch;
    uint32_t heads;
    uint32_t headDim;        // D
    uint32_t tokens;         // N visual tokens
    uint32_t textLen;        // L text tokens, 0 for none
    uint32_t n;              // sub-sequences
    uint32_t group;          // 1: group skip
    uint32_t rows;           // R, visual rows of a sub-sequence, padding included
    uint32_t tokenStride;    // elements between neighbouring tokens of one head, visual and text
    uint32_t deterministic;  // gradients: 1 takes no atomic addition
    uint64_t headStride;     // elements between heads, and between batch items
    uint64_t batchStride;
    uint64_t textHeadStride;
    uint64_t textBatchStride;
    uint32_t tileRows;      // rows that stay: one tile of queries (forward), of keys or queries (gradients)
    uint32_t baseRows;      // rows that L0 holds at a time: half a tile, a chunk of those that stream past
    uint32_t blockColumns;  // rows that stream past between two hand-overs between cube and vector cores
    uint32_t passRows;      // rows of scores in UB at a time
    uint32_t videoTiles;    // tiles of the visual rows of one sub-sequence, and of the text
    uint32_t textTiles;
    uint32_t tiles;  // batch * heads * n * (videoTiles + textTiles), dealt out to the cores in turn
    float scale;     // 1 / sqrt(D)
    float logN;      // ln n
    uint64_t coreBytes;  // workspace of one cube core: three slots each of scores, weights and products
    uint64_t weightsAt;  // offsets into it; scores come first
    uint64_t productsAt;
    // Gradients, offsets into the workspace behind the cores' parts:
    uint64_t lseAt;  // row statistics of queries, text right behind the real visual rows
    uint64_t deltaAt;
    uint64_t sumsAt;      // dQ of all rows; in the deterministic form of text rows only
    uint64_t textKeysAt;  // dK and dV of the text rows, of every sub-sequence
    uint64_t textValuesAt;
};

#endif
