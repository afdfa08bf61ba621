// GELU in its tanh form, and GELU times a gate, on CPU. float32, any shape.
//
//   Gelu  y = x s(x)   GatedGelu  y = x s(x) gate   s(x) = sigmoid(sqrt(8 / pi) (x + 0.044715 x^3)) = (1 + tanh ...) / 2

#include "../cpu.h"

namespace {

constexpr int64_t PART = 8192;  // numbers of one item of work
constexpr float SLOPE = 1.5957691216057308f, CUBIC = 0.044715f;

inline vec share(vec x) { return sigmoid(SLOPE * x * (CUBIC * x * x + 1)); }

inline vec slope(vec x) {
  const vec s = share(x);
  return s + x * s * (1 - s) * SLOPE * (3 * CUBIC * x * x + 1);
}

int64_t size(int axes, const int64_t *shape) {
  int64_t count = 1;
  for (int axis = 0; axis < axes; ++axis) count *= shape[axis];
  return count;
}

// work(first number, how many)
template <typename Work>
void in_parts(int64_t count, Work work) {
  share_out((count + PART - 1) / PART, PART * 32, [&](int64_t item) {
    work(item * PART, std::min(PART, count - item * PART));
  });
}

}  // namespace

// x -> y
extern "C" int Gelu(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 2 || !is(dtypes[0], "float32")) return 1;
  const float *x = static_cast<const float *>(p[0]);
  float *y = static_cast<float *>(p[1]);
  in_parts(size(axes[0], shapes[0]), [&](int64_t i, int64_t n) {
    map_row(n, y + i, [](vec a) { return a * share(a); }, x + i);
  });
  return 0;
}

// x, gradient of y -> gradient of x
extern "C" int GeluGrad(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 3 || !is(dtypes[0], "float32")) return 1;
  const float *x = static_cast<const float *>(p[0]), *y_grad = static_cast<const float *>(p[1]);
  float *x_grad = static_cast<float *>(p[2]);
  in_parts(size(axes[0], shapes[0]), [&](int64_t i, int64_t n) {
    map_row(n, x_grad + i, [](vec a, vec g) { return g * slope(a); }, x + i, y_grad + i);
  });
  return 0;
}

// x, gate -> y
extern "C" int GatedGelu(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 3 || !is(dtypes[0], "float32")) return 1;
  const float *x = static_cast<const float *>(p[0]), *gate = static_cast<const float *>(p[1]);
  float *y = static_cast<float *>(p[2]);
  in_parts(size(axes[0], shapes[0]), [&](int64_t i, int64_t n) {
    map_row(n, y + i, [](vec a, vec b) { return a * share(a) * b; }, x + i, gate + i);
  });
  return 0;
}

// x, gate, gradient of y -> gradients of x and gate
extern "C" int GatedGeluGrad(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 5 || !is(dtypes[0], "float32")) return 1;
  const float *x = static_cast<const float *>(p[0]), *gate = static_cast<const float *>(p[1]);
  const float *y_grad = static_cast<const float *>(p[2]);
  float *x_grad = static_cast<float *>(p[3]), *gate_grad = static_cast<float *>(p[4]);
  in_parts(size(axes[0], shapes[0]), [&](int64_t i, int64_t n) {
    map_row(n, gate_grad + i, [](vec a, vec g) { return g * a * share(a); }, x + i, y_grad + i);
    map_row(n, x_grad + i, [](vec a, vec b, vec g) { return g * b * slope(a); }, x + i, gate + i, y_grad + i);
  });
  return 0;
}
