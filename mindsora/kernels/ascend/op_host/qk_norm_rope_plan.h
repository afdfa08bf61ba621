// Tiling of QkNormRope.
#ifndef MINDSORA_QK_NORM_ROPE_PLAN_H
#define MINDSORA_QK_NORM_ROPE_PLAN_H

#include "../op_kernel/qk_norm_rope_tiling.h"
#include "plan.h"

namespace mindsora {

struct QkNormRopeShape {
    uint64_t batch, tokens, textLen, heads, headDim, n;
    bool group;
    bool learnt;  // weight and bias
    bool rope;
    bool brain;  // bfloat16
};

// UB of `rows` tokens at a time, as the kernel's Init lays it out at most: which norm, and how RoPE splits a head, are
// numbers in a tensor, which a tiling function does not see.
inline uint64_t QkNormRopeBytes(const QkNormRopeShape &s, uint64_t rows)
{
    const uint64_t width = s.heads * s.headDim, heads = CeilTo(rows * s.heads, 8);
    uint64_t bytes = rows * width * (4 * 2 + 2 * 4 + 2);  // in, out; value, work; zeros
    bytes += heads * 40 + (s.learnt ? 16 * s.headDim : 0);
    bytes += s.rope ? 16 * rows * s.headDim + 4 * width : 0;
    return bytes;
}

inline Plan PlanQkNormRope(const QkNormRopeShape &s, const Part &part, QkNormRopeTiling &t)
{
    Plan plan;
    plan.error = CheckSkip(s.tokens, s.n);
    if (s.headDim == 0 || s.headDim % 16 != 0 || s.headDim > 256) {
        plan.error = "head_dim " + std::to_string(s.headDim) + "; a multiple of 16 up to 256 is supported";
    } else if (s.heads == 0 || s.heads > 255) {
        plan.error = std::to_string(s.heads) + " heads; 1 to 255 are supported";
    } else if (plan.error.empty() && QkNormRopeBytes(s, 1) > part.ub) {
        plan.error = "a token of " + std::to_string(s.heads * s.headDim) + " channels does not fit " +
                     std::to_string(part.ub) + " bytes of UB";
    }
    if (!plan.error.empty()) {
        return plan;
    }
    const uint64_t rows = RowsOf(s.tokens, s.n);
    uint64_t tile = std::min<uint64_t>(255 / s.heads, rows);  // an instruction repeats over at most 255 heads
    while (tile > 1 && QkNormRopeBytes(s, tile) > part.ub) {
        --tile;
    }
    tile = std::min(tile, std::max<uint64_t>(1, (s.batch * s.n * rows + part.vectors - 1) / part.vectors));
    t.batch = s.batch;
    t.tokens = s.tokens;
    t.textLen = s.textLen;
    t.heads = s.heads;
    t.headDim = s.headDim;
    t.n = s.n;
    t.group = s.group;
    t.learnt = s.learnt;
    t.rope = s.rope;
    t.rows = rows;
    t.tileRows = tile;
    t.groupTiles = (rows + tile - 1) / tile;
    t.textTiles = (s.textLen + tile - 1) / tile;
    t.tiles = s.batch * (s.n * t.groupTiles + t.textTiles);
    plan.blocks = std::min<uint64_t>(part.vectors, t.tiles);
    plan.key = s.brain;
    return plan;
}

}  // namespace mindsora

#endif
