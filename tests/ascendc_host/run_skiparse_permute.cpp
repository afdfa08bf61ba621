#include "driver.h"

#include "../../mindsora/kernels/ascend/op_host/skiparse_permute_plan.h"

extern "C" void skiparse_permute(uint8_t *, uint8_t *, uint8_t *, uint8_t *, uint8_t *);

namespace {
uint8_t *x, *y, *tiling;
}

int main(int count, char **words) {
  Driver driver(count, words);
  const uint64_t batch = driver.Number("batch"), tokens = driver.Number("tokens"), bytes = driver.Number("row_bytes");
  const uint64_t n = driver.Number("n"), inverse = driver.Number("inverse");
  SkiparsePermuteTiling t;
  const mindsora::Plan plan =
      mindsora::PlanSkiparsePermute(batch, tokens, bytes, n, driver.Number("group"), inverse, driver.Part(), t);
  Driver::Check(plan);
  x = driver.Input("x");
  y = driver.Output("y", batch * bytes * (inverse ? tokens : n * mindsora::RowsOf(tokens, n)));
  tiling = driver.Tiling(t);
  driver.Run(plan, false, [] { skiparse_permute(x, nullptr, y, nullptr, tiling); });
}
