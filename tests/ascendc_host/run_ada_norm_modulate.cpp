#include "driver.h"

#include "../../mindsora/kernels/ascend/op_host/ada_norm_modulate_plan.h"

extern "C" void ada_norm_modulate(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *,
                                  uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *);

namespace {
uint8_t *x, *branch, *gate, *shift, *scale, *weight, *bias, *eps, *h, *y, *tiling;
}

int main(int count, char **words) {
  Driver driver(count, words);
  const uint64_t batch = driver.Number("batch"), rows = driver.Number("rows"), channels = driver.Number("channels");
  const bool gated = driver.Number("gated") != 0, normed = driver.Number("normed") != 0;
  AdaNormModulateTiling t;
  const mindsora::Plan plan = mindsora::PlanAdaNormModulate(
      batch, rows, channels, gated, normed, driver.Number("brain") != 0, driver.Part(), t);
  Driver::Check(plan);
  x = driver.Input("x");
  if (normed) {
    shift = driver.Input("shift");
    scale = driver.Input("scale");
    weight = driver.Input("weight");
    bias = driver.Input("bias");
    const float number = float(driver.Real("eps"));
    eps = twin::GlobalBuffer("eps", &number, sizeof number, false);
    y = driver.Output("y", 2 * batch * rows * channels);
  }
  if (gated) {
    branch = driver.Input("branch");
    gate = driver.Input("gate");
    h = driver.Output("h", 2 * batch * rows * channels);
  }
  tiling = driver.Tiling(t);
  driver.Run(plan, false,
             [] { ada_norm_modulate(x, branch, gate, shift, scale, weight, bias, eps, h, y, nullptr, tiling); });
}
