// Adaptive layer normalisation and gated residual on CPU: float32 or float16 streams, float32 inside and for the rest.
//
//   AdaNormModulate  y = (normalised x * weight + bias) * (1 + scale) + shift
//   GatedResidual    y = x + gate * update
//   x, update, y (B, S, C)   shift, scale, gate (B, 1, C)   weight, bias (C,)

#include "../cpu.h"

namespace {

constexpr int64_t PART = 32;  // tokens of one item of work

struct Shape {
  int64_t batch, tokens, dim, parts;
  explicit Shape(const int64_t *s) : batch(s[0]), tokens(s[1]), dim(s[2]), parts((s[1] + PART - 1) / PART) {}
};

// work(scratch of `rows` rows, sample, row of the stream, item) for every token.
template <typename Work>
void tokens(const Shape &shape, int64_t rows, Work work) {
  share_out(shape.batch * shape.parts, PART * shape.dim * 4 * rows, [&] { return floats(rows * shape.dim); },
            [&](Floats &scratch, int64_t item) {
    const int64_t b = item / shape.parts, first = item % shape.parts * PART;
    for (int64_t token = first; token < std::min(shape.tokens, first + PART); ++token)
      work(scratch.get(), b, b * shape.tokens + token, item);
  });
}

// Sums over a sample's tokens, from the shares of its items in order: shares [item][C] -> to [B][C].
void add_shares(const Shape &shape, const std::vector<float> &shares, float *to) {
  for (int64_t b = 0; b < shape.batch; ++b)
    for (int64_t c = 0; c < shape.dim; ++c) {
      double total = 0;
      for (int64_t part = 0; part < shape.parts; ++part) total += shares[(b * shape.parts + part) * shape.dim + c];
      to[b * shape.dim + c] = total;
    }
}

struct Modulation {
  const float *shift, *scale, *weight, *bias;
  float eps;
  explicit Modulation(void **p)
      : shift(static_cast<float *>(p[1])), scale(static_cast<float *>(p[2])), weight(static_cast<float *>(p[3])),
        bias(static_cast<float *>(p[4])), eps(*static_cast<float *>(p[5])) {}
};

template <typename T>
int modulate(const T *x, Shape shape, const Modulation &m, T *y) {
  const int64_t dim = shape.dim;
  tokens(shape, 1, [&](float *row, int64_t b, int64_t token, int64_t) {
    const float *shift = m.shift + b * dim, *scale = m.scale + b * dim;
    widen_row(x + token * dim, row, dim);
    normalise(row, dim, true, m.eps);
    for (int64_t c = 0; c < dim; ++c) row[c] = (row[c] * m.weight[c] + m.bias[c]) * (1 + scale[c]) + shift[c];
    narrow_row(row, y + token * dim, dim);
  });
  return 0;
}

template <typename T>
int modulate_grad(const T *x, Shape shape, const Modulation &m, const T *y_grad, T *x_grad, float *shift_grad,
                  float *scale_grad, float *weight_grad, float *bias_grad) {
  const int64_t dim = shape.dim;
  // Sums of g and of g * normalised x over tokens give all four.
  std::vector<float> plain(shape.batch * shape.parts * dim), weighted(plain.size());
  tokens(shape, 2, [&](float *row, int64_t b, int64_t token, int64_t item) {
    float *grad = row + dim, *plain_share = plain.data() + item * dim, *weighted_share = weighted.data() + item * dim;
    const float *scale = m.scale + b * dim;
    widen_row(x + token * dim, row, dim);
    widen_row(y_grad + token * dim, grad, dim);
    const float factor = normalise(row, dim, true, m.eps);
    for (int64_t c = 0; c < dim; ++c) {
      plain_share[c] += grad[c];
      weighted_share[c] += grad[c] * row[c];
      grad[c] *= m.weight[c] * (1 + scale[c]);
    }
    normalise_grad(row, factor, grad, dim, true);
    narrow_row(grad, x_grad + token * dim, dim);
  });
  add_shares(shape, plain, shift_grad);
  add_shares(shape, weighted, scale_grad);
  for (int64_t c = 0; c < dim; ++c) {
    double weight = 0, bias = 0;
    for (int64_t b = 0; b < shape.batch; ++b) {
      const int64_t at = b * dim + c;
      weight += (1 + m.scale[at]) * scale_grad[at];
      bias += (1 + m.scale[at]) * shift_grad[at];
      scale_grad[at] = m.weight[c] * scale_grad[at] + m.bias[c] * shift_grad[at];
    }
    weight_grad[c] = weight;
    bias_grad[c] = bias;
  }
  return 0;
}

template <typename T>
int add_gated(const T *x, Shape shape, const float *gate, const T *update, T *y) {
  const int64_t dim = shape.dim;
  tokens(shape, 2, [&](float *row, int64_t b, int64_t token, int64_t) {
    float *more = row + dim;
    widen_row(x + token * dim, row, dim);
    widen_row(update + token * dim, more, dim);
    for (int64_t c = 0; c < dim; ++c) row[c] += gate[b * dim + c] * more[c];
    narrow_row(row, y + token * dim, dim);
  });
  return 0;
}

template <typename T>
int add_gated_grad(Shape shape, const float *gate, const T *update, const T *y_grad, float *gate_grad, T *update_grad) {
  const int64_t dim = shape.dim;
  std::vector<float> shares(shape.batch * shape.parts * dim);
  tokens(shape, 2, [&](float *row, int64_t b, int64_t token, int64_t item) {
    float *more = row + dim, *share = shares.data() + item * dim;
    widen_row(y_grad + token * dim, row, dim);
    widen_row(update + token * dim, more, dim);
    for (int64_t c = 0; c < dim; ++c) {
      share[c] += row[c] * more[c];
      row[c] *= gate[b * dim + c];
    }
    narrow_row(row, update_grad + token * dim, dim);
  });
  add_shares(shape, shares, gate_grad);
  return 0;
}

template <typename T>
const T *in(void *p) {
  return static_cast<const T *>(p);
}

template <typename T>
T *out(void *p) {
  return static_cast<T *>(p);
}

}  // namespace

// x, shift, scale, weight, bias, eps -> y
extern "C" int AdaNormModulate(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 7) return 1;
  const Shape shape(shapes[0]);
  if (is(dtypes[0], "float32")) return modulate(in<float>(p[0]), shape, Modulation(p), out<float>(p[6]));
  return is(dtypes[0], "float16") ? modulate(in<half>(p[0]), shape, Modulation(p), out<half>(p[6])) : 1;
}

// x, shift, scale, weight, bias, eps, gradient of y -> gradients of the first five
extern "C" int AdaNormModulateGrad(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 12) return 1;
  const Shape shape(shapes[0]);
  float *to[4];
  for (int i = 0; i < 4; ++i) to[i] = out<float>(p[8 + i]);
  if (is(dtypes[0], "float32"))
    return modulate_grad(in<float>(p[0]), shape, Modulation(p), in<float>(p[6]), out<float>(p[7]), to[0], to[1], to[2],
                         to[3]);
  return is(dtypes[0], "float16") ? modulate_grad(in<half>(p[0]), shape, Modulation(p), in<half>(p[6]), out<half>(p[7]),
                                                  to[0], to[1], to[2], to[3])
                                  : 1;
}

// x, gate, update -> y
extern "C" int GatedResidual(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 4) return 1;
  const Shape shape(shapes[0]);
  const float *gate = in<float>(p[1]);
  if (is(dtypes[0], "float32")) return add_gated(in<float>(p[0]), shape, gate, in<float>(p[2]), out<float>(p[3]));
  return is(dtypes[0], "float16") ? add_gated(in<half>(p[0]), shape, gate, in<half>(p[2]), out<half>(p[3])) : 1;
}

// gate, update, gradient of y -> gradients of gate and update
extern "C" int GatedResidualGrad(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 5) return 1;
  const Shape shape(shapes[1]);
  const float *gate = in<float>(p[0]);
  float *gate_grad = out<float>(p[3]);
  if (is(dtypes[1], "float32"))
    return add_gated_grad(shape, gate, in<float>(p[1]), in<float>(p[2]), gate_grad, out<float>(p[4]));
  return is(dtypes[1], "float16")
             ? add_gated_grad(shape, gate, in<half>(p[1]), in<half>(p[2]), gate_grad, out<half>(p[4]))
             : 1;
}
