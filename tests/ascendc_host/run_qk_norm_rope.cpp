#include <cstring>

#include "driver.h"

#include "../../mindsora/kernels/ascend/op_host/qk_norm_rope_plan.h"

extern "C" void qk_norm_rope(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                             uint8_t *, uint8_t *, uint8_t *);

namespace {
uint8_t *x, *text, *weight, *bias, *cosine, *sine, *settings, *y, *tiling;
}

int main(int count, char **words) {
  Driver driver(count, words);
  auto number = [&](const char *name) { return uint64_t(driver.Number(name)); };
  const mindsora::QkNormRopeShape shape = {number("batch"),
                                           number("tokens"),
                                           number("text"),
                                           number("heads"),
                                           number("dim"),
                                           number("n"),
                                           number("group") != 0,
                                           driver.Has("weight"),
                                           number("rope") != 0,
                                           number("brain") != 0};
  const float eps = float(driver.Real("eps"));
  int32_t numbers[5] = {int32_t(number("norm")), int32_t(number("split_t")), int32_t(number("split_y")),
                        int32_t(number("split_x"))};
  std::memcpy(&numbers[4], &eps, sizeof eps);
  settings = twin::GlobalBuffer("settings", numbers, sizeof numbers, false);
  QkNormRopeTiling t;
  const mindsora::Plan plan = mindsora::PlanQkNormRope(shape, driver.Part(), t);
  Driver::Check(plan);
  x = driver.Input("x");
  if (shape.textLen) text = driver.Input("text_x");
  if (shape.learnt) {
    weight = driver.Input("weight");
    bias = driver.Input("bias");
  }
  if (shape.rope) {
    cosine = driver.Input("cos");
    sine = driver.Input("sin");
  }
  const uint64_t rows = mindsora::RowsOf(shape.tokens, shape.n) + shape.textLen;
  y = driver.Output("y", 2 * shape.batch * shape.n * rows * shape.heads * shape.headDim);
  tiling = driver.Tiling(t);
  driver.Run(plan, false, [] { qk_norm_rope(x, text, weight, bias, cosine, sine, nullptr, settings, y, nullptr, tiling); });
}
