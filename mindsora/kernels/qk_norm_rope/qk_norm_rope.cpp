// Norm of every head, then RoPE over (t, y, x), on CPU: float32 or float16 in, float32 inside.
//
//   x (B, N, H, D) -> (B, N, H, D), or straight into the grouped layout of skiparse attention, (B, n, R + L, H, D): the
//   rows of a sub-sequence, padding zero, then the text rows, which have a norm of their own and no position.

#include "../cpu.h"
#include "../skiparse.h"

namespace {

constexpr int64_t PART = 32;  // tokens of one item of work

enum Norm { NONE, RMS, LAYER };

struct Settings {  // float32 (5,): norm, channels of t, y and x, eps
  Norm norm;
  int64_t split[3];
  float eps;
  explicit Settings(const void *p) {
    const float *numbers = static_cast<const float *>(p);
    norm = Norm(int(numbers[0]));
    for (int axis = 0; axis < 3; ++axis) split[axis] = int64_t(numbers[1 + axis]);
    eps = numbers[4];
  }
};

// Learned numbers of one stream, and its angles (null: no position).
struct Stream {
  const float *weight, *bias, *cos, *sin;
};

// Rotation of [a | b], the halves of each axis' slice: a cos - b sin, b cos + a sin. The table carries the minus.
inline void rotate(const float *x, const float *cos, const float *sin, const int64_t *split, float *y) {
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t half_width = split[axis] / 2;
    for (int64_t k = 0; k < half_width; ++k) {
      y[k] = x[k] * cos[k] + x[k + half_width] * sin[k];
      y[k + half_width] = x[k + half_width] * cos[k + half_width] + x[k] * sin[k + half_width];
    }
    x += split[axis], cos += split[axis], sin += split[axis], y += split[axis];
  }
}

// Its transpose.
inline void rotate_back(const float *g, const float *cos, const float *sin, const int64_t *split, float *y) {
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t half_width = split[axis] / 2;
    for (int64_t k = 0; k < half_width; ++k) {
      y[k] = g[k] * cos[k] + g[k + half_width] * sin[k + half_width];
      y[k + half_width] = g[k + half_width] * cos[k + half_width] + g[k] * sin[k];
    }
    g += split[axis], cos += split[axis], sin += split[axis], y += split[axis];
  }
}

// The H rows of one token.
template <typename T>
void token_forward(const T *x, int64_t heads, int64_t dim, const Stream &s, int64_t token, const Settings &set,
                   float *row, float *turned, T *y) {
  for (int64_t h = 0; h < heads; ++h, x += dim, y += dim) {
    widen_row(x, row, dim);
    if (set.norm != NONE) normalise(row, dim, set.norm == LAYER, set.eps);
    for (int64_t d = 0; d < dim; ++d) row[d] = row[d] * s.weight[d] + s.bias[d];
    if (s.cos) rotate(row, s.cos + token * dim, s.sin + token * dim, set.split, turned);
    narrow_row(s.cos ? turned : row, y, dim);
  }
}

struct Shape {
  int64_t batch, tokens, heads, dim;
  explicit Shape(const int64_t *s) : batch(s[0]), tokens(s[1]), heads(s[2]), dim(s[3]) {}
};

template <typename T>
void forward(const T *x, Shape shape, const Stream &stream, const Settings &set, T *y) {
  const int64_t parts = (shape.tokens + PART - 1) / PART, width = shape.heads * shape.dim;
  share_out(shape.batch * parts, PART * width * 8, [&] { return floats(2 * shape.dim); }, [&](Floats &w, int64_t item) {
    const int64_t b = item / parts, first = item % parts * PART, end = std::min(shape.tokens, first + PART);
    for (int64_t token = first; token < end; ++token) {
      const int64_t at = (b * shape.tokens + token) * width;
      token_forward(x + at, shape.heads, shape.dim, stream, token, set, w.get(), w.get() + shape.dim, y + at);
    }
  });
}

template <typename T>
void grouped(const T *x, Shape shape, const Stream &stream, const T *text, int64_t length, const Stream &words,
             Skip skip, const Settings &set, T *y) {
  const int64_t width = shape.heads * shape.dim, rows = skip.rows(shape.tokens), lines = rows + length;
  const int64_t parts = (lines + PART - 1) / PART;
  share_out(shape.batch * skip.n * parts, PART * width * 8, [&] { return floats(2 * shape.dim); },
            [&](Floats &w, int64_t item) {
    const int64_t s = item / parts % skip.n, b = item / parts / skip.n, first = item % parts * PART;
    for (int64_t line = first; line < std::min(lines, first + PART); ++line) {
      T *to = y + ((b * skip.n + s) * lines + line) * width;
      const int64_t token = skip.token(s, line);
      if (line >= rows)
        token_forward(text + (b * length + line - rows) * width, shape.heads, shape.dim, words, 0, set, w.get(),
                      w.get() + shape.dim, to);
      else if (token < shape.tokens)
        token_forward(x + (b * shape.tokens + token) * width, shape.heads, shape.dim, stream, token, set, w.get(),
                      w.get() + shape.dim, to);
      else
        std::fill(to, to + width, T(0));
    }
  });
}

template <typename T>
void backward(const T *x, Shape shape, const Stream &s, const Settings &set, const T *y_grad, T *x_grad,
              float *weight_grad, float *bias_grad) {
  const int64_t parts = (shape.tokens + PART - 1) / PART, width = shape.heads * shape.dim, dim = shape.dim;
  // Each item's share of the learned numbers' gradients, added up in order afterwards.
  std::vector<float> shares(shape.batch * parts * 2 * dim);
  share_out(shape.batch * parts, PART * width * 16, [&] { return floats(2 * dim); }, [&](Floats &w, int64_t item) {
    const int64_t b = item / parts, first = item % parts * PART, end = std::min(shape.tokens, first + PART);
    float *row = w.get(), *grad = row + dim, *weight_share = shares.data() + item * 2 * dim;
    float *bias_share = weight_share + dim;
    std::vector<float> given(dim);
    for (int64_t token = first; token < end; ++token)
      for (int64_t h = 0; h < shape.heads; ++h) {
        const int64_t at = ((b * shape.tokens + token) * shape.heads + h) * dim;
        widen_row(x + at, row, dim);
        const float factor = set.norm == NONE ? 1 : normalise(row, dim, set.norm == LAYER, set.eps);
        widen_row(y_grad + at, s.cos ? given.data() : grad, dim);
        if (s.cos) rotate_back(given.data(), s.cos + token * dim, s.sin + token * dim, set.split, grad);
        for (int64_t d = 0; d < dim; ++d) {
          weight_share[d] += grad[d] * row[d];
          bias_share[d] += grad[d];
        }
        for (int64_t d = 0; d < dim; ++d) grad[d] *= s.weight[d];
        if (set.norm != NONE) normalise_grad(row, factor, grad, dim, set.norm == LAYER);
        narrow_row(grad, x_grad + at, dim);
      }
  });
  for (int64_t d = 0; d < 2 * dim; ++d) {
    double total = 0;
    for (int64_t item = 0; item < shape.batch * parts; ++item) total += shares[item * 2 * dim + d];
    (d < dim ? weight_grad : bias_grad)[d % dim] = total;
  }
}

Stream stream(void **p, const int *ndims, int weight) {
  Stream s{static_cast<float *>(p[weight]), static_cast<float *>(p[weight + 1]), nullptr, nullptr};
  if (weight == 1 && ndims[3] > 1) s.cos = static_cast<float *>(p[3]), s.sin = static_cast<float *>(p[4]);
  return s;
}

template <typename T>
int run_forward(void **p, int *ndims, int64_t **shapes) {
  const Shape shape(shapes[0]);
  forward(static_cast<const T *>(p[0]), shape, stream(p, ndims, 1), Settings(p[5]),
          static_cast<T *>(p[6]));
  return 0;
}

template <typename T>
int run_grouped(void **p, int *ndims, int64_t **shapes) {
  const Shape shape(shapes[0]);
  grouped(static_cast<const T *>(p[0]), shape, stream(p, ndims, 1), static_cast<const T *>(p[6]),
          ndims[6] == 4 ? shapes[6][1] : 0, stream(p, ndims, 7), Skip(shapes[9]), Settings(p[5]),
          static_cast<T *>(p[10]));
  return 0;
}

template <typename T>
int run_backward(void **p, int *ndims, int64_t **shapes) {
  const Shape shape(shapes[0]);
  backward(static_cast<const T *>(p[0]), shape, stream(p, ndims, 1), Settings(p[5]), static_cast<const T *>(p[6]),
           static_cast<T *>(p[7]), static_cast<float *>(p[8]), static_cast<float *>(p[9]));
  return 0;
}

}  // namespace

// x, weight, bias, cos, sin, settings -> y
extern "C" int QkNormRope(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 7) return 1;
  if (is(dtypes[0], "float32")) return run_forward<float>(p, ndims, shapes);
  return is(dtypes[0], "float16") ? run_forward<half>(p, ndims, shapes) : 1;
}

// x, weight, bias, cos, sin, settings, gradient of y -> gradients of x, weight, bias
extern "C" int QkNormRopeGrad(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 10) return 1;
  if (is(dtypes[0], "float32")) return run_backward<float>(p, ndims, shapes);
  return is(dtypes[0], "float16") ? run_backward<half>(p, ndims, shapes) : 1;
}

// x, weight, bias, cos, sin, settings, text, its weight and bias, skip -> y
extern "C" int QkNormRopeGrouped(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *,
                                 void *) {
  if (count != 11) return 1;
  if (is(dtypes[0], "float32")) return run_grouped<float>(p, ndims, shapes);
  return is(dtypes[0], "float16") ? run_grouped<half>(p, ndims, shapes) : 1;
}
