// Arguments that the forward and the gradient program share.
#pragma once

#include "driver.h"

#include "../../mindsora/kernels/ascend/op_host/skiparse_attention_plan.h"

struct AttentionCase {
  mindsora::AttentionShape shape;
  mindsora::Blocks blocks = mindsora::BLOCKS;
  uint64_t video, text, groups, lse;  // elements

  static std::string Json(const mindsora::AttentionBuffers &b) {
    return "{\"UB\": " + std::to_string(b.ub) + ", \"L1\": " + std::to_string(b.l1) +
           ", \"L0A\": " + std::to_string(b.l0ab) + ", \"L0B\": " + std::to_string(b.l0ab) +
           ", \"L0C\": " + std::to_string(b.l0c) + "}";
  }

  explicit AttentionCase(const Driver &driver) {
    auto number = [&](const char *name) { return uint64_t(driver.Number(name)); };
    shape = {number("batch"),
             number("tokens"),
             number("text"),
             number("heads"),
             number("dim"),
             number("n"),
             number("group") != 0,
             number("brain") != 0,
             mindsora::Layout(driver.Number("layout", 0)),
             driver.Number("deterministic", 0) != 0};
    if (driver.Has("tile")) blocks = {uint32_t(number("tile")), uint32_t(number("block")), uint32_t(number("pass"))};
    video = shape.batch * shape.tokens * shape.heads * shape.headDim;
    text = shape.batch * shape.textLen * shape.heads * shape.headDim;
    groups = shape.batch * shape.heads * shape.n;
    lse = groups * (mindsora::RowsOf(shape.tokens, shape.n) + shape.textLen);
  }
};
