#include "attention_driver.h"

extern "C" void skiparse_attention_grad(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                                        uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                                        uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *);

namespace {
uint8_t *q, *k, *v, *text_q, *text_k, *text_v, *lengths, *out, *parts, *lse, *d_out, *d_text_out;
uint8_t *dq, *dk, *dv, *d_text_q, *d_text_k, *d_text_v, *workspace, *tiling;
}  // namespace

int main(int count, char **words) {
  Driver driver(count, words);
  const AttentionCase c(driver, mindsora::GRAD_BLOCKS);
  SkiparseAttentionTiling t;
  const mindsora::Plan plan = mindsora::PlanAttention(c.shape, c.blocks, driver.Part(), true, t);
  Driver::Check(plan);
  driver.planned = AttentionCase::Json(mindsora::BuffersOf(c.blocks, c.shape.headDim, true));
  q = driver.Input("q");
  k = driver.Input("k");
  v = driver.Input("v");
  out = driver.Input("out");
  lse = driver.Input("lse");
  d_out = driver.Input("d_out");
  dq = driver.Output("dq", 2 * c.video);
  dk = driver.Output("dk", 2 * c.video);
  dv = driver.Output("dv", 2 * c.video);
  if (c.text) {
    text_q = driver.Input("text_q");
    text_k = driver.Input("text_k");
    text_v = driver.Input("text_v");
    lengths = driver.Input("lengths");
    parts = driver.Input("text_parts");
    d_text_out = driver.Input("d_text_out");
    d_text_q = driver.Output("d_text_q", 2 * c.text);
    d_text_k = driver.Output("d_text_k", 2 * c.text);
    d_text_v = driver.Output("d_text_v", 2 * c.text);
  }
  workspace = driver.Workspace(plan.workspace);
  tiling = driver.Tiling(t);
  driver.Run(plan, true, [] {
    skiparse_attention_grad(q, k, v, text_q, text_k, text_v, lengths, nullptr, out, parts, lse, d_out, d_text_out, dq,
                            dk, dv, d_text_q, d_text_k, d_text_v, workspace, tiling);
  });
}
