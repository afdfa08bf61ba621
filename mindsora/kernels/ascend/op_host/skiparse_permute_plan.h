// Tiling of SkiparsePermute.
#ifndef MINDSORA_SKIPARSE_PERMUTE_PLAN_H
#define MINDSORA_SKIPARSE_PERMUTE_PLAN_H

#include "../op_kernel/skiparse_permute_tiling.h"
#include "plan.h"

namespace mindsora {

// rowBytes: bytes of one token, all its channels.
inline Plan PlanSkiparsePermute(uint64_t batch, uint64_t tokens, uint64_t rowBytes, uint64_t n, bool group,
                                bool inverse, const Part &part, SkiparsePermuteTiling &t)
{
    Plan plan;
    constexpr uint64_t zeroBytes = 8192;
    const uint64_t most = (part.ub - zeroBytes) / 2;  // two buffers in flight
    plan.error = CheckSkip(tokens, n);
    if (plan.error.empty() && (rowBytes == 0 || rowBytes % 32 != 0 || rowBytes > most)) {
        plan.error = "a token of " + std::to_string(rowBytes) + " bytes; a multiple of 32 up to " +
                     std::to_string(most / 32 * 32) + " is supported";
    }
    if (!plan.error.empty()) {
        return plan;
    }
    t.batch = batch;
    t.tokens = tokens;
    t.n = n;
    t.group = group;
    t.inverse = inverse;
    t.width = rowBytes / 2;
    t.rows = RowsOf(tokens, n);
    // At most 4095 blocks a copy. A multiple of n keeps the runs of group skip whole.
    t.tileRows = std::min<uint64_t>({most / rowBytes, t.rows, 4095});
    if (t.tileRows > n) {
        t.tileRows = t.tileRows / n * n;
    }
    // Small inputs: rather more tiles than idle cores.
    const uint64_t wanted = std::max<uint64_t>(1, part.vectors / (batch * n));
    t.tileRows = std::min<uint64_t>(t.tileRows, std::max<uint64_t>(CeilTo((t.rows + wanted - 1) / wanted, n), 1));
    t.groupTiles = (t.rows + t.tileRows - 1) / t.tileRows;
    t.tiles = batch * n * t.groupTiles;
    plan.blocks = std::min<uint64_t>(part.vectors, t.tiles);
    return plan;
}

}  // namespace mindsora

#endif
