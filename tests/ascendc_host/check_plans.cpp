// Tiling over a grid of shapes and parts, in plain C++. Each violated rule is one line; the last line counts plans.
#include <cstdio>
#include <vector>

#include "../../mindsora/kernels/ascend/op_host/ada_norm_modulate_plan.h"
#include "../../mindsora/kernels/ascend/op_host/qk_norm_rope_plan.h"
#include "../../mindsora/kernels/ascend/op_host/skiparse_attention_plan.h"
#include "../../mindsora/kernels/ascend/op_host/skiparse_permute_plan.h"
#include "../../mindsora/kernels/ascend/op_kernel/skiparse_rows.h"

using namespace mindsora;

namespace {

int plans = 0;

#define RULE(condition, ...)           \
  do {                                 \
    if (!(condition)) {                \
      std::printf("%s: ", #condition); \
      std::printf(__VA_ARGS__);        \
      std::printf("\n");               \
    }                                  \
  } while (0)

const Part PARTS[] = {{24, 48}, {20, 40}, {1, 2}, {7, 14}};  // 910B1, B2, A3; 910B3, B4; oddities

// Tiles [0, total) go to the cores in pieces that differ by one at most.
void Shared(uint32_t total, uint32_t cores, const char *what) {
  uint32_t next = 0, most = 0, least = total;
  for (uint32_t core = 0; core < cores; ++core) {
    const uint32_t start = ShareStart(total, core, cores), end = ShareStart(total, core + 1, cores);
    RULE(start == next, "%s: core %u of %u starts at %u", what, core, cores, start);
    next = end;
    most = std::max(most, end - start);
    least = std::min(least, end - start);
  }
  RULE(next == total && most - least <= 1, "%s: %u tiles over %u cores", what, total, cores);
}

// Tiles of `tileRows` rows over a sub-sequence, and the runs the kernels move, visit every token exactly once.
void Covered(uint64_t tokens, uint64_t n, bool group, uint32_t tileRows) {
  const uint32_t rows = RowsOf(tokens, n);
  const GroupRows map(tokens, n, group);
  std::vector<int> visits(tokens);
  for (uint32_t j = 0; j < n; ++j) {
    const uint32_t real = map.Real(j);
    RULE(real <= rows, "%llu tokens, n %llu, group %u: %u of %u rows", (unsigned long long)tokens,
         (unsigned long long)n, j, real, rows);
    for (uint32_t row = 0; row < real; row += tileRows)
      for (uint32_t at = row, end = Min(row + tileRows, real); at < end;) {
        const Run run = map.From(j, at, end);
        RULE(run.blocks >= 1 && run.blocks <= 4095 && run.blockRows >= 1 && run.Rows() <= end - at, "a run of %u x %u",
             run.blocks, run.blockRows);
        for (uint32_t b = 0; b < run.blocks; ++b)
          for (uint32_t r = 0; r < run.blockRows; ++r) {
            const uint64_t token = run.token + uint64_t(b) * run.stride + r;
            const uint32_t row_of = at + b * run.blockRows + r;
            const uint64_t expected =
                group ? uint64_t(row_of / n) * n * n + j * n + row_of % n : uint64_t(row_of) * n + j;
            RULE(token == expected && token < tokens, "row %u of group %u is token %llu", row_of, j,
                 (unsigned long long)token);
            if (token < tokens) ++visits[token];
          }
        at += run.Rows();
      }
  }
  for (uint64_t t = 0; t < tokens; ++t)
    RULE(visits[t] == 1, "token %llu of %llu is visited %d times (n %llu)", (unsigned long long)t,
         (unsigned long long)tokens, visits[t], (unsigned long long)n);
}

void Permute(const Part &part) {
  for (uint64_t tokens : {1, 63, 64, 1000, 36864})
    for (uint64_t n : {1, 2, 3, 4, 8})
      for (bool group : {false, true})
        for (uint64_t bytes : {32, 512, 6144, 12288}) {
          SkiparsePermuteTiling t;
          const Plan plan = PlanSkiparsePermute(2, tokens, bytes, n, group, false, part, t);
          ++plans;
          RULE(plan.error.empty(), "%s", plan.error.c_str());
          RULE(2 * t.tileRows * bytes + 8192 <= part.ub, "%u rows of %llu bytes", t.tileRows,
               (unsigned long long)bytes);
          RULE(t.groupTiles * t.tileRows >= t.rows && (t.groupTiles - 1) * t.tileRows < t.rows, "%u rows", t.rows);
          RULE(t.tiles == 2 * n * t.groupTiles && plan.blocks <= part.vectors, "%u tiles", t.tiles);
          Shared(t.tiles, plan.blocks, "SkiparsePermute");
          if (tokens <= 1000) Covered(tokens, n, group, t.tileRows);
        }
}

void AdaNorm(const Part &part) {
  for (uint64_t channels : {16, 48, 512, 2304, 3072, 4096})
    for (uint64_t rows : {1, 77, 37376})
      for (bool gated : {false, true}) {
        AdaNormModulateTiling t;
        const Plan plan = PlanAdaNormModulate(2, rows, channels, gated, true, false, part, t);
        ++plans;
        RULE(plan.error.empty(), "%s", plan.error.c_str());
        RULE(AdaNormBytes(channels, t.tileRows, gated) <= part.ub && t.tileRows >= 1 && t.tileRows <= 8, "%u rows",
             t.tileRows);
        RULE(t.itemTiles * t.tileRows >= rows && (t.itemTiles - 1) * t.tileRows < rows, "%u tiles", t.itemTiles);
        Shared(t.tiles, plan.blocks, "AdaNormModulate");
      }
}

void NormRope(const Part &part) {
  for (uint64_t dim : {64, 96, 128})
    for (uint64_t heads : {1, 8, 24, 48})
      for (uint64_t tokens : {5, 640, 36864})
        for (uint64_t text : {0, 77})
          for (uint64_t n : {1, 4}) {
            const QkNormRopeShape shape = {
                2, tokens, text, heads, dim, n, true, true, true, true};
            QkNormRopeTiling t;
            const Plan plan = PlanQkNormRope(shape, part, t);
            ++plans;
            RULE(plan.error.empty(), "%s", plan.error.c_str());
            RULE(QkNormRopeBytes(shape, t.tileRows) <= part.ub, "%u rows of %llu channels", t.tileRows,
                 (unsigned long long)(heads * dim));
            RULE(t.tileRows >= 1 && t.tileRows * heads <= 255, "%u rows of %llu heads", t.tileRows,
                 (unsigned long long)heads);
            RULE(t.groupTiles * t.tileRows >= t.rows && t.textTiles * t.tileRows >= text, "%u and %u tiles",
                 t.groupTiles, t.textTiles);
            RULE(plan.key == 1, "key %llu at head_dim %llu", (unsigned long long)plan.key, (unsigned long long)dim);
            Shared(t.tiles, plan.blocks, "QkNormRope");
          }
}

void Attention(const Part &part) {
  for (uint64_t batch : {1, 2})
    for (uint64_t tokens : {1, 500, 21120, 36864})
      for (uint64_t text : {0, 77, 512})
        for (uint64_t heads : {8, 24})
          for (uint64_t dim : {64, 96, 128})
            for (uint64_t n : {1, 2, 3, 4, 8})
              for (int kind = 0; kind < 12; ++kind) {
                const bool group = kind & 1, grad = kind >= 4, deterministic = kind >= 8;
                const Layout layout = kind & 2 ? Layout::BNSD : Layout::BSND;
                const AttentionShape shape = {batch, tokens, text, heads, dim, n, group, true, layout, deterministic};
                const Blocks blocks = BLOCKS;
                SkiparseAttentionTiling t;
                const Plan plan = PlanAttention(shape, blocks, part, grad, t);
                ++plans;
                RULE(plan.error.empty(), "%s", plan.error.c_str());
                const AttentionBuffers b = BuffersOf(blocks, dim, grad);
                RULE(b.ub <= part.ub && b.l1 <= part.l1 && b.l0ab <= part.l0ab && b.l0c <= part.l0c,
                     "buffers at head_dim %llu", (unsigned long long)dim);
                RULE(t.videoTiles * t.tileRows >= t.rows && (t.videoTiles - 1) * t.tileRows < t.rows, "%u rows",
                     t.rows);
                RULE(t.textTiles * t.tileRows >= text && t.tiles == batch * heads * n * (t.videoTiles + t.textTiles),
                     "%u tiles", t.tiles);
                // one instruction wherever its strides have 16 bits, and never where they have not
                const uint64_t token = layout == Layout::BNSD ? dim : heads * dim;
                const uint64_t stride = n == 1 ? token : group ? n * n * token : n * token;
                const uint64_t load = plan.key % 3;
                RULE(load == (stride > 65535   ? 2u
                              : group && n > 1 ? 1u
                                               : 0u),
                     "key %llu at stride %llu", (unsigned long long)plan.key, (unsigned long long)stride);
                const uint64_t slots = 3 * 256 * 512 * (4 + 2) * (grad ? 2 : 1) + (grad ? 4 : 3) * 256 * dim * 4;
                RULE(t.coreBytes == slots && plan.together, "%llu bytes a core", (unsigned long long)t.coreBytes);
                if (grad) {  // statistics, sums of dQ, text parts of dK and dV; each part a whole number of 512 bytes
                  const uint64_t groups = batch * heads * n, rows = groups * (t.rows + text),
                                 words = groups * text * dim * 4;
                  const uint64_t least =
                      plan.blocks * t.coreBytes + 8 * rows + (deterministic ? words : 4 * rows * dim) + 2 * words;
                  RULE(plan.workspace >= least && plan.workspace < least + 5 * 512, "%llu bytes, %llu needed",
                       (unsigned long long)plan.workspace, (unsigned long long)least);
                } else {
                  RULE(plan.workspace == plan.blocks * t.coreBytes, "%llu bytes", (unsigned long long)plan.workspace);
                }
              }
}

// The arithmetic of the design at the released size: 36,864 visual and 512 text tokens, 24 heads x 128.
void Released() {
  const uint32_t expected[][2] = {{2, 3552}, {4, 3648}, {8, 3840}};
  for (const auto &[n, tiles] : expected)
    for (const Part &part : {PARTS[0], PARTS[1]}) {
      SkiparseAttentionTiling t;
      const AttentionShape shape = {1, 36864, 512, 24, 128, n, true, true};
      const Plan plan = PlanAttention(shape, BLOCKS, part, false, t);
      RULE(t.tiles == tiles, "n %u: %u tiles", n, t.tiles);
      const double most = (t.tiles + plan.blocks - 1) / plan.blocks, uneven = most * plan.blocks / t.tiles - 1;
      RULE(part.cubes == 24 ? uneven == 0 : uneven <= 0.0046, "n %u: %f uneven over %u cores", n, uneven, part.cubes);
      RULE(plan.key == (n == 8 ? 5u : 4u), "n %u: key %llu", n, (unsigned long long)plan.key);
      RULE(plan.workspace == part.cubes * 2688ull * 1024, "%llu bytes", (unsigned long long)plan.workspace);
    }
  const AttentionBuffers b = BuffersOf(BLOCKS, 128, false);
  RULE(b.l1 == 480 * 1024 && b.l0ab == 64 * 1024 && b.l0c == 128 * 1024 && b.ub <= 178 * 1024, "L1 %llu, UB %llu",
       (unsigned long long)b.l1, (unsigned long long)b.ub);
}

}  // namespace

int main() {
  for (const Part &part : PARTS) {
    Permute(part);
    AdaNorm(part);
    NormRope(part);
    Attention(part);
  }
  Released();
  std::printf("%d plans\n", plans);
}
