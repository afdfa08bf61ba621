#include "attention_driver.h"

extern "C" void skiparse_attention(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                                   uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *);

namespace {
uint8_t *q, *k, *v, *text_q, *text_k, *text_v, *lengths, *out, *text_out, *lse, *parts, *workspace, *tiling;
}

int main(int count, char **words) {
  Driver driver(count, words);
  const AttentionCase c(driver);
  SkiparseAttentionTiling t;
  const mindsora::Plan plan = mindsora::PlanAttention(c.shape, c.blocks, driver.Part(), false, t);
  Driver::Check(plan);
  driver.planned = AttentionCase::Json(mindsora::BuffersOf(c.blocks, c.shape.headDim, false));
  q = driver.Input("q");
  k = driver.Input("k");
  v = driver.Input("v");
  out = driver.Output("out", 2 * c.video);
  lse = driver.Output("lse", 4 * c.lse);
  if (c.text) {
    text_q = driver.Input("text_q");
    text_k = driver.Input("text_k");
    text_v = driver.Input("text_v");
    lengths = driver.Input("lengths");
    text_out = driver.Output("text_out", 2 * c.text);
    parts = driver.Output("text_parts", 2 * c.text * c.shape.n);
  }
  workspace = driver.Workspace(plan.workspace);
  tiling = driver.Tiling(t);
  driver.Run(plan, true, [] {
    skiparse_attention(q, k, v, text_q, text_k, text_v, lengths, nullptr, out, text_out, lse, parts, workspace, tiling);
  });
}
