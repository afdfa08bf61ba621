// Tiling of SkiparseAttention and SkiparseAttentionGrad.
#ifndef MINDSORA_SKIPARSE_ATTENTION_PLAN_H
#define MINDSORA_SKIPARSE_ATTENTION_PLAN_H

#include <cmath>
#include <cstring>

#include "../op_kernel/skiparse_attention_tiling.h"
#include "plan.h"

namespace mindsora {

enum class Layout { BSND, BNSD };

struct AttentionShape {
    uint64_t batch, tokens, textLen, heads, headDim, n;
    bool group;
    bool brain;  // bfloat16
    Layout layout = Layout::BSND;
    bool deterministic = false;
};

// Sizes of tiles. What the buffers hold at head_dim 128; tests take smaller ones.
struct Blocks {
    uint32_t tileRows, blockColumns, passRows;
};
constexpr Blocks BLOCKS = {256, 512, 16};

constexpr uint64_t LONGEST_NZ_STRIDE = 65535;  // elements; the fields of an Nd2Nz instruction have 16 bits

// Buffers as the kernels' Init functions lay them out. `grad`: those of the gradient.
struct AttentionBuffers {
    uint64_t l1, l0ab, l0c, ub;
};

inline AttentionBuffers BuffersOf(const Blocks &b, uint64_t d, bool grad)
{
    const uint64_t half = b.tileRows / 2, inner = std::max(half, d);
    AttentionBuffers bytes;
    bytes.l1 = (grad ? 2 : 1) * b.tileRows * d * 2 + (grad ? 3 : 5) * half * d * 2 + 2 * half * b.blockColumns * 2;
    bytes.l0ab = 2 * half * inner * 2;
    bytes.l0c = 2 * half * inner * 4;
    const uint64_t scores = uint64_t(b.passRows) * b.blockColumns, part = b.passRows * d, rows8 = CeilTo(b.passRows, 8);
    if (grad) {
        // S and dP, three of them, P and dS on their way out, sums of dK and dV, row statistics in and out, rows of
        // tokens, spread rows
        bytes.ub = 3 * scores * 4 + 2 * std::max(scores * 2, part * 4) + part * 4 +
                   2 * std::max<uint64_t>(b.blockColumns, half) * 4 + 2 * rows8 * 4 + 2 * part * 4 + 2 * rows8 * 32 + 32;
    } else {
        // scores two passes, P on its way out, O, what reduces and spreads rows, row statistics
        bytes.ub = 2 * scores * 4 + 2 * scores * 2 + half * d * 4 + scores / 8 * 4 + std::max(scores / 8, half * 8) * 4 +
                   half * 4 + 8 * half * 4 + 4 * rows8 * 4 + 32;
    }
    return bytes;
}

inline std::string CheckAttention(const AttentionShape &s, const Blocks &blocks, const Part &part, bool grad)
{
    std::string error = CheckSkip(s.tokens, s.n);
    if (!error.empty()) {
        return error;
    }
    if (s.headDim == 0 || s.headDim % 16 != 0 || s.headDim > 128) {
        return "head_dim " + std::to_string(s.headDim) + "; a multiple of 16 up to 128 is supported";
    }
    const AttentionBuffers need = BuffersOf(blocks, s.headDim, grad);
    if (need.ub > part.ub || need.l1 > part.l1 || need.l0ab > part.l0ab || need.l0c > part.l0c) {
        return "the tiles need " + std::to_string(need.ub) + " bytes of UB, " + std::to_string(need.l1) + " of L1, " +
               std::to_string(need.l0ab) + " of L0A and L0B, " + std::to_string(need.l0c) +
               " of L0C: more than there is";
    }
    return "";
}

inline Plan PlanAttention(const AttentionShape &s, const Blocks &blocks, const Part &part, bool grad,
                          SkiparseAttentionTiling &t)
{
    Plan plan;
    plan.error = CheckAttention(s, blocks, part, grad);
    if (!plan.error.empty()) {
        return plan;
    }
    std::memset(&t, 0, sizeof t);
    t.batch = s.batch;
    t.heads = s.heads;
    t.headDim = s.headDim;
    t.tokens = s.tokens;
    t.textLen = s.textLen;
    t.n = s.n;
    t.group = s.group;
    t.deterministic = s.deterministic;
    t.rows = RowsOf(s.tokens, s.n);
    const uint64_t width = s.heads * s.headDim;
    if (s.layout == Layout::BNSD) {
        t.tokenStride = s.headDim;
        t.headStride = s.tokens * s.headDim;
        t.textHeadStride = s.textLen * s.headDim;
    } else {
        t.tokenStride = width;
        t.headStride = t.textHeadStride = s.headDim;
    }
    t.batchStride = s.tokens * width;
    t.textBatchStride = s.textLen * width;
    t.tileRows = blocks.tileRows;
    t.baseRows = blocks.tileRows / 2;
    t.blockColumns = blocks.blockColumns;
    t.passRows = blocks.passRows;
    t.videoTiles = (t.rows + t.tileRows - 1) / t.tileRows;
    t.textTiles = (t.textLen + t.tileRows - 1) / t.tileRows;
    t.tiles = s.batch * s.heads * s.n * (t.videoTiles + t.textTiles);
    t.scale = 1.0f / std::sqrt(float(s.headDim));
    t.logN = std::log(float(s.n));
    plan.blocks = std::min<uint64_t>(part.cubes, t.tiles);
    plan.together = true;

    // One instruction gathers a tile where its stride fits 16 bits.
    const uint64_t stride = uint64_t(t.tokenStride) * (s.n == 1 ? 1 : s.group ? s.n * s.n : s.n);
    const uint64_t load = stride > LONGEST_NZ_STRIDE ? 2 : s.group && s.n > 1 ? 1 : 0;
    plan.key = load + (s.brain ? 3 : 0);

    // Three slots of S (and dP), of P (and dS); P V, or for two units dV and dK.
    const uint64_t block = uint64_t(t.tileRows) * t.blockColumns, kinds = grad ? 2 : 1, sums = grad ? 4 : 3;
    t.weightsAt = CeilTo(3 * kinds * block * 4, 512);
    t.productsAt = t.weightsAt + CeilTo(3 * kinds * block * 2, 512);
    t.coreBytes = t.productsAt + CeilTo(sums * t.tileRows * s.headDim * 4, 512);
    plan.workspace = plan.blocks * t.coreBytes;
    if (grad) {
        const uint64_t groups = s.batch * s.heads * s.n;
        const uint64_t text = CeilTo(groups * s.textLen * s.headDim * 4, 512);
        const uint64_t statistics = CeilTo(groups * (t.rows + t.textLen) * 4, 512);
        t.lseAt = plan.workspace;
        t.deltaAt = t.lseAt + statistics;
        t.sumsAt = t.deltaAt + statistics;
        t.textKeysAt = t.sumsAt + (s.deterministic ? text : CeilTo(groups * (t.rows + t.textLen) * s.headDim * 4, 512));
        t.textValuesAt = t.textKeysAt + text;
        plan.workspace = t.textValuesAt + text;
    }
    return plan;
}

}  // namespace mindsora

#endif
