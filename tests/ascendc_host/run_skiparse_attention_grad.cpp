#include "attention_driver.h"

extern "C" void skiparse_attention_grad(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                                        uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *);

namespace {
uint8_t *q, *k, *v, *out, *d_out, *lse, *text, *lengths, *dq, *dk, *dv, *d_text, *workspace, *tiling;
}

int main(int count, char **words) {
  Driver driver(count, words);
  const AttentionCase c(driver);
  SkiparseAttentionTiling t;
  const mindsora::Plan plan = mindsora::PlanAttention(c.shape, c.blocks, driver.Part(), true, t);
  Driver::Check(plan);
  driver.planned = AttentionCase::Json(mindsora::BuffersOf(c.blocks, c.shape.headDim, true));
  q = driver.Input("q");
  k = driver.Input("k");
  v = driver.Input("v");
  out = driver.Input("out");
  d_out = driver.Input("d_out");
  lse = driver.Input("lse");
  dq = driver.Output("dq", 2 * c.video);
  dk = driver.Output("dk", 2 * c.video);
  dv = driver.Output("dv", 2 * c.video);
  if (c.text) {
    text = driver.Input("text_stack");
    lengths = driver.Input("lengths");
    d_text = driver.Output("d_text", 3 * 2 * c.text);
  }
  workspace = driver.Workspace(plan.workspace);
  tiling = driver.Tiling(t);
  driver.Run(plan, true, [] {
    skiparse_attention_grad(q, k, v, out, d_out, lse, text, lengths, dq, dk, dv, d_text, workspace, tiling);
  });
}
