// 3-D convolution of channels-last clips on CPU: forward, input gradient, weight gradient. float32.
//
//   x (B, T, H, W, Ci)   w (Co, Ci, kt, kh, kw)   y (B, T', H', W', Co)
//   y[b,t,h,w,o] = bias[o] + sum_{i,d,r,s} x[b, t*st + d, h*sh + r - top, w*sw + s - left, i] * w[o,i,d,r,s]
//
// Time is never padded here. Space is padded with zeros: `top`, `left` before, whatever the output size asks for behind.
// Every output row is an implicit matrix product: the accumulators of PIXELS x (VECTORS * LANES) outputs stay in
// registers while taps and input channels go by; the only copies are one zero-padded image and the packed weights.
// Rows (or, for the weight gradient, taps) are shared out over threads; sums never depend on how many there are.

#include "../cpu.h"

namespace {

// Neighbouring outputs and vectors of output channels that accumulate in registers.
#if defined(__AVX512F__)
constexpr int PIXELS = 8, VECTORS = 2;  // 16 of 32; widths are multiples of 8
#elif defined(__AVX__)
constexpr int PIXELS = 6, VECTORS = 2;  // 12 of 16
#else
constexpr int PIXELS = 5, VECTORS = 4;  // 20 of 32 (NEON)
#endif
constexpr int BLOCK = VECTORS * LANES;

struct Shape {
  int64_t b, t, h, w, c;
  Shape(const int64_t *s) : b(s[0]), t(s[1]), h(s[2]), w(s[3]), c(s[4]) {}
};

struct Kernel {
  int64_t out, in, t, h, w;
  Kernel(const int64_t *s) : out(s[0]), in(s[1]), t(s[2]), h(s[3]), w(s[4]) {}
  int64_t taps() const { return t * h * w; }
};

struct Geometry {  // travels as the shape of a tensor: (st, sh, sw, before + 1, after + 1)
  int64_t st, sh, sw, top, left;
  Geometry(const int64_t *s) : st(s[0]), sh(s[1]), sw(s[2]), top(s[3] - 1), left(s[3] - 1) {}
};

struct Image {  // (B, frames, rows, columns, C)
  int64_t frames, rows, columns;
  std::unique_ptr<float[]> data;
};

// A zero-padded copy of x with `before`, `top`, `left` zeros in front; gaps over 1 leave gap - 1 zeros between the
// elements (they turn the gradient of a strided convolution into that of a plain one).
Image padded(const float *x, Shape s, int64_t frames, int64_t rows, int64_t columns, int64_t before, int64_t top,
             int64_t left, int64_t gap_t, int64_t gap_h, int64_t gap_w) {
  const int64_t line = columns * s.c;
  Image out{frames, rows, columns, std::unique_ptr<float[]>(new float[s.b * frames * rows * line])};
  share_out(s.b * frames, rows * line, [&](int64_t item) {
    float *to = out.data.get() + item * rows * line;
    const int64_t b = item / frames, t = item % frames - before;
    const bool frame = t >= 0 && t % gap_t == 0 && t / gap_t < s.t;
    for (int64_t r = 0; r < rows; ++r, to += line) {
      const int64_t h = r - top;
      if (!frame || h < 0 || h % gap_h || h / gap_h >= s.h) {
        std::fill(to, to + line, 0.0f);
        continue;
      }
      const float *from = x + ((b * s.t + t / gap_t) * s.h + h / gap_h) * s.w * s.c;
      if (gap_w == 1) {
        const int64_t n = std::min(s.w, columns - left) * s.c;
        std::fill(to, to + left * s.c, 0.0f);
        std::copy(from, from + n, to + left * s.c);
        std::fill(to + left * s.c + n, to + line, 0.0f);
      } else {
        std::fill(to, to + line, 0.0f);
        for (int64_t w = 0; w < s.w && left + w * gap_w < columns; ++w)
          std::copy(from + w * s.c, from + (w + 1) * s.c, to + (left + w * gap_w) * s.c);
      }
    }
  });
  return out;
}

// N neighbouring outputs of one row, V vectors of output channels. weights: [tap][ci][BLOCK].
template <int N, int V>
void row_piece(const float *x, int64_t step, const int64_t *tap_offset, int64_t taps, int64_t ci,
               const float *weights, const float *bias, float *y, int64_t co, int64_t valid) {
  vec acc[N][V];
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < V; ++v) acc[n][v] = *reinterpret_cast<const vec *>(bias + v * LANES);
  for (int64_t tap = 0; tap < taps; ++tap) {
    const float *in = x + tap_offset[tap];
    const float *w = weights + tap * ci * BLOCK;
    for (int64_t i = 0; i < ci; ++i, w += BLOCK) {
      vec row[V];
      for (int v = 0; v < V; ++v) row[v] = *reinterpret_cast<const vec *>(w + v * LANES);
      for (int n = 0; n < N; ++n) {
        const float value = in[n * step + i];
        for (int v = 0; v < V; ++v) acc[n][v] += value * row[v];
      }
    }
  }
  for (int n = 0; n < N; ++n) {
    if (valid == V * LANES) {
      for (int v = 0; v < V; ++v) *reinterpret_cast<vec *>(y + n * co + v * LANES) = acc[n][v];
    } else {
      float whole[V * LANES];
      for (int v = 0; v < V; ++v) *reinterpret_cast<vec *>(whole + v * LANES) = acc[n][v];
      std::memcpy(y + n * co, whole, valid * sizeof(float));
    }
  }
}

template <int V>
void row(const float *x, int64_t step, const int64_t *tap_offset, int64_t taps, int64_t ci, const float *weights,
         const float *bias, float *y, int64_t co, int64_t valid, int64_t pixels) {
  int64_t n = 0;
  for (; n + PIXELS <= pixels; n += PIXELS)
    row_piece<PIXELS, V>(x + n * step, step, tap_offset, taps, ci, weights, bias, y + n * co, co, valid);
  for (; n + 4 <= pixels; n += 4)
    row_piece<4, V>(x + n * step, step, tap_offset, taps, ci, weights, bias, y + n * co, co, valid);
  for (; n < pixels; ++n)
    row_piece<1, V>(x + n * step, step, tap_offset, taps, ci, weights, bias, y + n * co, co, valid);
}

// Convolution of an already padded image. packed: [co block][tap][ci][BLOCK], bias padded to whole blocks.
void convolve(const Image &x, int64_t ci, const Kernel &k, const std::vector<float> &packed,
              const std::vector<float> &bias, Geometry g, float *y, Shape out) {
  std::vector<int64_t> tap_offset;
  for (int64_t d = 0; d < k.t; ++d)
    for (int64_t r = 0; r < k.h; ++r)
      for (int64_t s = 0; s < k.w; ++s) tap_offset.push_back(((d * x.rows + r) * x.columns + s) * ci);
  const int64_t blocks = round_up(out.c, BLOCK) / BLOCK;
  share_out(out.b * out.t * out.h, out.w * out.c * ci * k.taps(), [&](int64_t item) {
    const int64_t h = item % out.h, t = item / out.h % out.t, b = item / out.h / out.t;
    const float *in = x.data.get() + ((b * x.frames + t * g.st) * x.rows + h * g.sh) * x.columns * ci;
    float *to = y + item * out.w * out.c;
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t valid = std::min<int64_t>(BLOCK, out.c - block * BLOCK);
      const float *weights = packed.data() + block * k.taps() * ci * BLOCK;
      const float *shift = bias.data() + block * BLOCK;
      if (valid <= LANES)
        row<1>(in, g.sw * ci, tap_offset.data(), k.taps(), ci, weights, shift, to + block * BLOCK, out.c, valid, out.w);
      else
        row<VECTORS>(in, g.sw * ci, tap_offset.data(), k.taps(), ci, weights, shift, to + block * BLOCK, out.c, valid,
                     out.w);
    }
  });
}

// dw[ci..ci+N][block of co] of one tap, over all pixels of the batch.
template <int N, int V>
void weight_piece(const float *x, const float *dy, int64_t ci, int64_t co_padded, int64_t frames, int64_t rows,
                  int64_t columns, Geometry g, const Shape &out, float *dw) {
  vec acc[N][V];
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < V; ++v) acc[n][v] = vec{};
  for (int64_t b = 0; b < out.b; ++b)
    for (int64_t t = 0; t < out.t; ++t)
      for (int64_t h = 0; h < out.h; ++h) {
        const float *in = x + ((b * frames + t * g.st) * rows + h * g.sh) * columns * ci;
        const float *grad = dy + ((b * out.t + t) * out.h + h) * out.w * co_padded;
        for (int64_t w = 0; w < out.w; ++w, in += g.sw * ci, grad += co_padded) {
          vec row[V];
          for (int v = 0; v < V; ++v) row[v] = *reinterpret_cast<const vec *>(grad + v * LANES);
          for (int n = 0; n < N; ++n)
            for (int v = 0; v < V; ++v) acc[n][v] += in[n] * row[v];
        }
      }
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < V; ++v) *reinterpret_cast<vec *>(dw + n * BLOCK + v * LANES) = acc[n][v];
}

template <int V>
void weight_rows(const float *x, const float *dy, int64_t ci, int64_t first, int64_t count, int64_t co_padded,
                 int64_t frames, int64_t rows, int64_t columns, Geometry g, const Shape &out, float *dw) {
  int64_t n = 0;
  for (; n + 8 <= count; n += 8)
    weight_piece<8, V>(x + first + n, dy, ci, co_padded, frames, rows, columns, g, out, dw + n * BLOCK);
  for (; n < count; ++n)
    weight_piece<1, V>(x + first + n, dy, ci, co_padded, frames, rows, columns, g, out, dw + n * BLOCK);
}

bool all_float32(const char **dtypes, std::initializer_list<int> which) {
  for (int i : which)
    if (std::strcmp(dtypes[i], "float32") != 0) return false;
  return true;
}

// Weights as `convolve` reads them, [block of outputs][tap][input][BLOCK], filled up with zeros. `mirrored`: inputs and
// outputs change places and the taps run backwards, as the gradient by the input needs them.
std::vector<float> pack(const float *w, const Kernel &k, bool mirrored) {
  const int64_t taps = k.taps(), from = mirrored ? k.out : k.in, to = mirrored ? k.in : k.out;
  std::vector<float> packed(round_up(to, BLOCK) * taps * from);
  for (int64_t o = 0; o < k.out; ++o)
    for (int64_t i = 0; i < k.in; ++i)
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t t = mirrored ? i : o, f = mirrored ? o : i, at = mirrored ? taps - 1 - tap : tap;
        packed[((t / BLOCK * taps + at) * from + f) * BLOCK + t % BLOCK] = w[(o * k.in + i) * taps + tap];
      }
  return packed;
}

// Size of the image that one axis of a convolution reads: never less than the input behind its zeros.
int64_t padded_size(int64_t out, int64_t stride, int64_t kernel, int64_t in, int64_t before) {
  return std::max((out - 1) * stride + kernel, in + before);
}

}  // namespace

// x, w, bias (Co), geometry -> y
extern "C" int Conv3dForward(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 5 || !all_float32(dtypes, {0, 1, 2, 4})) return 1;
  Shape in(shapes[0]), out(shapes[4]);
  Kernel k(shapes[1]);
  Geometry g(shapes[3]);
  const int64_t rows = padded_size(out.h, g.sh, k.h, in.h, g.top), columns = padded_size(out.w, g.sw, k.w, in.w, g.left);
  const std::vector<float> packed = pack(static_cast<const float *>(p[1]), k, false);
  std::vector<float> bias(round_up(k.out, BLOCK));
  std::memcpy(bias.data(), p[2], k.out * sizeof(float));
  const Image x = padded(static_cast<const float *>(p[0]), in, in.t, rows, columns, 0, g.top, g.left, 1, 1, 1);
  convolve(x, in.c, k, packed, bias, g, static_cast<float *>(p[4]), out);
  return 0;
}

// dy, w, x (its shape only), geometry -> dx: the plain convolution of dy, spread by the stride, with w mirrored.
extern "C" int Conv3dInputGrad(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 5 || !all_float32(dtypes, {0, 1, 4})) return 1;
  Shape dy(shapes[0]), dx(shapes[4]);
  Kernel k(shapes[1]);
  Geometry g(shapes[3]);
  const std::vector<float> packed = pack(static_cast<const float *>(p[1]), k, true), bias(round_up(k.in, BLOCK));
  // dx[h] = sum_r dy[(h + top - r) / sh] w[r]: element h of the output starts at row h + top - (kh - 1) of spread dy
  const int64_t frames = dx.t + k.t - 1, rows = dx.h + k.h - 1, columns = dx.w + k.w - 1;
  const Image spread = padded(static_cast<const float *>(p[0]), dy, frames, rows, columns, k.t - 1, k.h - 1 - g.top,
                              k.w - 1 - g.left, g.st, g.sh, g.sw);
  Geometry plain = g;
  plain.st = plain.sh = plain.sw = 1;
  convolve(spread, dy.c, k, packed, bias, plain, static_cast<float *>(p[4]), dx);
  return 0;
}

// x, dy, w (its shape only), geometry -> dw
extern "C" int Conv3dWeightGrad(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 5 || !all_float32(dtypes, {0, 1, 4})) return 1;
  Shape in(shapes[0]), out(shapes[1]);
  Kernel k(shapes[4]);
  Geometry g(shapes[3]);
  float *dw = static_cast<float *>(p[4]);
  const int64_t rows = padded_size(out.h, g.sh, k.h, in.h, g.top), columns = padded_size(out.w, g.sw, k.w, in.w, g.left);
  const Image x = padded(static_cast<const float *>(p[0]), in, in.t, rows, columns, 0, g.top, g.left, 1, 1, 1);
  const int64_t taps = k.taps(), co_padded = round_up(k.out, BLOCK), strip = 16;
  std::vector<float> dy_padded;  // channels filled up to whole blocks
  const float *dy = static_cast<const float *>(p[1]);
  if (co_padded != k.out) {
    const int64_t pixels = out.b * out.t * out.h * out.w;
    dy_padded.resize(pixels * co_padded);
    for (int64_t i = 0; i < pixels; ++i)
      std::memcpy(dy_padded.data() + i * co_padded, dy + i * k.out, k.out * sizeof(float));
    dy = dy_padded.data();
  }
  const int64_t strips = (k.in + strip - 1) / strip;
  share_out(taps * strips, out.b * out.t * out.h * out.w * strip * k.out, [&](int64_t item) {
    const int64_t tap = item / strips, first = item % strips * strip, n = std::min(strip, k.in - first);
    const int64_t d = tap / (k.h * k.w), r = tap / k.w % k.h, s = tap % k.w;
    const float *from = x.data.get() + ((d * rows + r) * columns + s) * in.c;
    float local[strip * BLOCK];
    for (int64_t block = 0; block < co_padded / BLOCK; ++block) {
      const int64_t valid = std::min<int64_t>(BLOCK, k.out - block * BLOCK);
      if (valid <= LANES)
        weight_rows<1>(from, dy + block * BLOCK, in.c, first, n, co_padded, in.t, rows, columns, g, out, local);
      else
        weight_rows<VECTORS>(from, dy + block * BLOCK, in.c, first, n, co_padded, in.t, rows, columns, g, out, local);
      for (int64_t i = 0; i < n; ++i)
        for (int64_t o = 0; o < valid; ++o)
          dw[((block * BLOCK + o) * k.in + first + i) * taps + tap] = local[i * BLOCK + o];
    }
  });
  return 0;
}
