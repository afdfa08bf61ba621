// Norm over the last axis, scale and shift, then SiLU if asked for, on CPU. float32.
//
//   RowNorm  y = act(n * weight + bias), n = (x - mean) / sqrt(variance + eps), or x / sqrt(mean square + eps)
//   x, y (..., C)   weight, bias (C,)

#include "../cpu.h"

namespace {

constexpr int64_t PART = 64;  // rows of one item of work

struct Settings {  // float32 (3,): subtract the mean, SiLU, eps
  bool centre, silu;
  float eps;
  explicit Settings(const void *p) {
    const float *numbers = static_cast<const float *>(p);
    centre = numbers[0] != 0, silu = numbers[1] != 0, eps = numbers[2];
  }
};

struct Rows {
  int64_t count = 1, dim, parts;
  Rows(int axes, const int64_t *s) : dim(s[axes - 1]) {
    for (int axis = 0; axis + 1 < axes; ++axis) count *= s[axis];
    parts = (count + PART - 1) / PART;
  }
  int64_t end(int64_t item) const { return std::min(count, (item + 1) * PART); }
};

void forward(const float *x, const Rows &rows, const float *weight, const float *bias, const Settings &set, float *y) {
  const int64_t dim = rows.dim;
  share_out(rows.parts, PART * dim * 16, [&](int64_t item) {
    for (int64_t at = item * PART; at < rows.end(item); ++at) {
      float *row = y + at * dim;
      std::memcpy(row, x + at * dim, dim * sizeof(float));
      normalise(row, dim, set.centre, set.eps);
      if (set.silu) {
        map_row(dim, row, [](vec n, vec w, vec b) {
          const vec h = n * w + b;
          return h * sigmoid(h);
        }, row, weight, bias);
      } else {
        map_row(dim, row, [](vec n, vec w, vec b) { return n * w + b; }, row, weight, bias);
      }
    }
  });
}

void backward(const float *x, const Rows &rows, const float *weight, const float *bias, const Settings &set,
              const float *y_grad, float *x_grad, float *weight_grad, float *bias_grad) {
  const int64_t dim = rows.dim;
  // Each item's share of the learned numbers' gradients, added up in order afterwards.
  std::vector<float> shares(rows.parts * 2 * dim);
  share_out(rows.parts, PART * dim * 32, [&] { return floats(dim); }, [&](Floats &scratch, int64_t item) {
    float *row = scratch.get(), *weight_share = shares.data() + item * 2 * dim, *bias_share = weight_share + dim;
    for (int64_t at = item * PART; at < rows.end(item); ++at) {
      float *grad = x_grad + at * dim;
      std::memcpy(row, x + at * dim, dim * sizeof(float));
      std::memcpy(grad, y_grad + at * dim, dim * sizeof(float));
      const float factor = normalise(row, dim, set.centre, set.eps);
      if (set.silu)
        map_row(dim, grad, [](vec g, vec n, vec w, vec b) {
          const vec h = n * w + b, s = sigmoid(h);
          return g * s * (h * (1 - s) + 1);
        }, grad, row, weight, bias);
      for (int64_t c = 0; c < dim; ++c) {
        weight_share[c] += grad[c] * row[c];
        bias_share[c] += grad[c];
        grad[c] *= weight[c];
      }
      normalise_grad(row, factor, grad, dim, set.centre);
    }
  });
  for (int64_t c = 0; c < 2 * dim; ++c) {
    double total = 0;
    for (int64_t item = 0; item < rows.parts; ++item) total += shares[item * 2 * dim + c];
    (c < dim ? weight_grad : bias_grad)[c % dim] = total;
  }
}

const float *in(void *p) { return static_cast<const float *>(p); }
float *out(void *p) { return static_cast<float *>(p); }

}  // namespace

// x, weight, bias, settings -> y
extern "C" int RowNorm(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 5 || !is(dtypes[0], "float32")) return 1;
  forward(in(p[0]), Rows(axes[0], shapes[0]), in(p[1]), in(p[2]), Settings(p[3]), out(p[4]));
  return 0;
}

// x, weight, bias, settings, gradient of y -> gradients of x, weight, bias
extern "C" int RowNormGrad(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 8 || !is(dtypes[0], "float32")) return 1;
  backward(in(p[0]), Rows(axes[0], shapes[0]), in(p[1]), in(p[2]), Settings(p[3]), in(p[4]), out(p[5]), out(p[6]),
           out(p[7]));
  return 0;
}
