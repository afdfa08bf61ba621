// 3-D convolution of channels-last clips on CPU: forward, input gradient, weight and bias gradient. float32.
//
//   x (B, T, H, W, Ci)   w (Co, Ci, kt, kh, kw)   y (B, T', H', W', Co)   head (B, front, H, W, Ci) or one axis: none
//   y[b,t,h,w,o] = bias[o] + sum_{i,d,r,s} x[b, t*st + d - front, h*sh + r - before, w*sw + s - before, i] * w[o,i,d,r,s]
//
// Outside of H and W x is zero. In front of its first frame stand `front` frames: head's, or copies of the first.
//
// Nothing is copied but the weights, into the order they are read in. Every tap of the kernel is a matrix product whose
// rows are looked up: for each position of a frame that is made, where that tap reads (Dukhan 2019, "The Indirect
// Convolution Algorithm"). A padded position reads a row of zeros. The input gradient is the same with the look-up
// reversed. The order of a sum depends neither on threads nor on how a clip is cut into chunks.

#include "../cpu.h"

namespace {

// Positions and vectors of output channels whose sums stay in registers.
#if defined(__AVX512F__)
constexpr int POSITIONS = 6, VECTORS = 4;  // 24 of 32
#elif defined(__AVX__)
constexpr int POSITIONS = 6, VECTORS = 2;  // 12 of 16
#else
constexpr int POSITIONS = 6, VECTORS = 4;  // 24 of 32 (NEON)
#endif
constexpr int BLOCK = VECTORS * LANES;
constexpr int64_t PANEL = 252;  // positions of one item of work: they share one pass over the weights
constexpr int64_t DEPTH = 128;  // channels of one pass: DEPTH x BLOCK weights stay in the first-level cache,
constexpr int64_t CHUNK = 96;   // as do CHUNK x BLOCK gradients in the weight gradient

int64_t parts_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

struct Clip {
  int64_t b, t, h, w, c;
  explicit Clip(const int64_t *s) : b(s[0]), t(s[1]), h(s[2]), w(s[3]), c(s[4]) {}
  int64_t frame() const { return h * w * c; }
};

struct Kernel {
  int64_t out, in, t, h, w;
  explicit Kernel(const int64_t *s) : out(s[0]), in(s[1]), t(s[2]), h(s[3]), w(s[4]) {}
  int64_t plane() const { return h * w; }
  int64_t taps() const { return t * h * w; }
};

struct Geometry {  // travels as the shape of a tensor: (st, sh, sw, before + 1, after + 1, front + 1)
  int64_t st, sh, sw, before, front;
  bool headed;
  Geometry(const int64_t *s, int head_axes, const int64_t *head)
      : st(s[0]), sh(s[1]), sw(s[2]), before(s[3] - 1), front(head_axes == 5 ? head[1] : s[5] - 1),
        headed(head_axes == 5) {}
};

// A clip and what stands in front of it.
struct Frames {
  const float *x, *head;
  Clip clip;
  Geometry g;
  const float *at(int64_t b, int64_t t) const {
    if (t >= 0) return x + (b * clip.t + t) * clip.frame();
    return g.headed ? head + (b * g.front + g.front + t) * clip.frame() : x + b * clip.t * clip.frame();
  }
};

// For the positions of a frame that is made: where each is put, and where each of the kernel's kh x kw taps reads.
struct Plane {
  std::vector<int64_t> place;   // [position] its index
  std::vector<int64_t> source;  // [tap][position] offset in the frame that is read; -1: zeros
  int64_t size() const { return place.size(); }
};

// The index a tap joins with index `i`: of the input with the output's or, `back`, of the output with the input's.
int64_t joined(int64_t i, int64_t tap, int64_t stride, int64_t before, int64_t size, bool back) {
  const int64_t at = back ? i + before - tap : i * stride + tap - before;
  if (at < 0 || (back && at % stride)) return -1;
  return (back ? at / stride : at) < size ? (back ? at / stride : at) : -1;
}

Plane plane(const Clip &made, const Clip &read, const Kernel &k, const Geometry &g, bool back) {
  Plane p;
  // Neighbours in this order meet the same taps: for the gradient of a stride, all of one remainder stand together.
  const int64_t sh = back ? g.sh : 1, sw = back ? g.sw : 1;
  for (int64_t top = 0; top < sh; ++top)
    for (int64_t left = 0; left < sw; ++left)
      for (int64_t h = top; h < made.h; h += sh)
        for (int64_t w = left; w < made.w; w += sw) p.place.push_back(h * made.w + w);
  p.source.reserve(k.plane() * p.size());
  for (int64_t r = 0; r < k.h; ++r)
    for (int64_t s = 0; s < k.w; ++s)
      for (const int64_t place : p.place) {
        const int64_t h = joined(place / made.w, r, g.sh, g.before, read.h, back);
        const int64_t w = joined(place % made.w, s, g.sw, g.before, read.w, back);
        p.source.push_back(h < 0 || w < 0 ? -1 : (h * read.w + w) * read.c);
      }
  return p;
}

// A frame that is made, from frames that each meet one of the kernel's kt layers.
struct Made {
  struct Meeting {
    const float *frame;
    int64_t layer;
  };
  float *to;
  std::vector<Meeting> from;
};

inline void copy(const float *from, float *to, int64_t count) {
  std::memcpy(to, from, (count == BLOCK ? BLOCK : count) * sizeof(float));  // a known size needs no call
}

struct Tap {
  const float *in[POSITIONS], *weights;  // channels of each position; [channel][BLOCK]
};

// sums[POSITIONS][BLOCK] += in * weights over taps and channels, V vectors of BLOCK.
template <int V>
inline void tile(const Tap *taps, int64_t count, int64_t depth, float *sums) {
  vec acc[POSITIONS][V];
  for (int n = 0; n < POSITIONS; ++n)
    for (int v = 0; v < V; ++v) acc[n][v] = load(sums + n * BLOCK + v * LANES);
  // Loops that run at least once: GCC keeps the sums of others in memory, around them.
  do {
    const float *in[POSITIONS], *weights = taps->weights;
    for (int n = 0; n < POSITIONS; ++n) in[n] = taps->in[n];
    int64_t i = 0;
    do {
      vec w[V];
      for (int v = 0; v < V; ++v) w[v] = load(weights + v * LANES);
      for (int n = 0; n < POSITIONS; ++n) {
        const float value = in[n][i];
        for (int v = 0; v < V; ++v) acc[n][v] += value * w[v];
      }
      weights += BLOCK;
    } while (++i < depth);
    ++taps;
  } while (--count);
  for (int n = 0; n < POSITIONS; ++n)
    for (int v = 0; v < V; ++v) store(sums + n * BLOCK + v * LANES, acc[n][v]);
}

// What is made of a frame that is read, for the positions and the block of channels of one item of work.
struct Pass {
  const Plane &plane;
  const float *zeros;
  int64_t first, count, taps, tap_size;  // of weights

  // Channels of one pass; weights: of the first tap.
  template <int V>
  void run(const float *frame, const float *weights, int64_t depth, float *sums) const {
    const int64_t most = std::min(taps, std::max<int64_t>(1, DEPTH / depth));
    std::vector<Tap> met(most);
    for (int64_t from = 0; from < taps; from += most)
      for (int64_t n = 0; n < count; n += POSITIONS) {
        int64_t used = 0;
        for (int64_t tap = from; tap < std::min(taps, from + most); ++tap) {
          const int64_t *source = plane.source.data() + tap * plane.size() + first + n;
          bool any = false;
          for (int i = 0; i < POSITIONS; ++i) {
            const bool real = n + i < count && source[i] >= 0;
            met[used].in[i] = real ? frame + source[i] : zeros;
            any |= real;
          }
          met[used].weights = weights + tap * tap_size;
          used += any;
        }
        if (used) tile<V>(met.data(), used, depth, sums + n * BLOCK);
      }
  }
};

// packed: [block of channels][tap][depth][BLOCK].
void convolve(const std::vector<Made> &made, const Plane &plane, const Kernel &k, int64_t depth, const float *packed,
              const float *bias, int64_t channels) {
  const int64_t parts = parts_of(plane.size(), PANEL), pass = parts_of(depth, parts_of(depth, DEPTH));
  const int64_t panel = round_up(parts_of(plane.size(), parts), POSITIONS), panels = made.size() * parts;
  const std::vector<float> zeros(pass);
  share_out(parts_of(channels, BLOCK) * panels, panel * depth * k.taps() * BLOCK,
            [&] { return floats(panel * BLOCK); }, [&](Floats &scratch, int64_t item) {
    float *sums = scratch.get();
    const Made &frame = made[item % panels / parts];
    const int64_t block = item / panels, first = item % parts * panel, tap_size = depth * BLOCK;
    const int64_t count = std::min(panel, plane.size() - first);
    const int64_t valid = std::min<int64_t>(BLOCK, channels - block * BLOCK);
    std::fill(sums, sums + panel * BLOCK, 0.0f);
    for (int64_t n = 0; bias && n < count; ++n) copy(bias + block * BLOCK, sums + n * BLOCK, valid);
    const Pass one{plane, zeros.data(), first, count, k.plane(), tap_size};
    for (const auto &[from, layer] : frame.from)
      for (int64_t i = 0; i < depth; i += pass) {
        const float *weights = packed + (block * k.taps() + layer * k.plane()) * tap_size + i * BLOCK;
        const int64_t length = std::min(pass, depth - i);
        switch (parts_of(valid, LANES)) {
          case 1: one.run<1>(from + i, weights, length, sums); break;
          case 2: one.run<2>(from + i, weights, length, sums); break;
          case 3: one.run<std::min(3, VECTORS)>(from + i, weights, length, sums); break;
          default: one.run<VECTORS>(from + i, weights, length, sums);
        }
      }
    for (int64_t n = 0; n < count; ++n)
      copy(sums + n * BLOCK, frame.to + plane.place[first + n] * channels + block * BLOCK, valid);
  });
}

// Weights [Co][Ci][tap] in the order they are read, or back: [block][tap][depth][BLOCK]. Blocks are of output channels
// and the depth is input channels or, `turned`, the other way round.
template <typename Each>
void reorder(const Kernel &k, bool turned, Each each) {
  const int64_t channels = turned ? k.in : k.out, depth = turned ? k.out : k.in, taps = k.taps();
  const int64_t group = 4, groups = parts_of(depth, group);  // of one channel they share cache lines
  share_out(parts_of(channels, BLOCK) * groups, BLOCK * group * taps * 4, [&](int64_t item) {
    const int64_t block = item / groups, from = item % groups * group, first = block * BLOCK;
    const int64_t valid = std::min<int64_t>(BLOCK, channels - first);
    for (int64_t i = from; i < std::min(depth, from + group); ++i)
      for (int64_t tap = 0; tap < taps; ++tap)
        each(((turned ? i * k.in + first : first * k.in + i) * taps) + tap, (turned ? 1 : k.in) * taps,
             ((block * taps + tap) * depth + i) * BLOCK, valid);
  });
}

Floats pack(const float *w, const Kernel &k, bool turned) {
  const int64_t blocks = parts_of(turned ? k.in : k.out, BLOCK), depth = turned ? k.out : k.in;
  Floats packed = floats(blocks * BLOCK * depth * k.taps());
  reorder(k, turned, [&](int64_t weight, int64_t stride, int64_t at, int64_t valid) {
    float *to = packed.get() + at;
    for (int64_t lane = 0; lane < valid; ++lane) to[lane] = w[weight + lane * stride];
    std::fill(to + valid, to + BLOCK, 0.0f);
  });
  return packed;
}

// sums[N][BLOCK] += x[count][N] * grads[count][BLOCK], of which V vectors; x by its rows.
template <int N, int V>
inline void outer(const float *const *x, int64_t i, const float *grads, int64_t count, float *sums) {
  vec acc[N][V];
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < V; ++v) acc[n][v] = load(sums + n * BLOCK + v * LANES);
  do {
    const float *row = *x++ + i;
    vec g[V];
    for (int v = 0; v < V; ++v) g[v] = load(grads + v * LANES);
    for (int n = 0; n < N; ++n)
      for (int v = 0; v < V; ++v) acc[n][v] += row[n] * g[v];
    grads += BLOCK;
  } while (--count);
  for (int n = 0; n < N; ++n)
    for (int v = 0; v < V; ++v) store(sums + n * BLOCK + v * LANES, acc[n][v]);
}

template <int V>
void outers(const float *const *x, int64_t channels, const float *grads, int64_t count, float *sums) {
  constexpr int MOST = V <= VECTORS / 2 ? 8 : 6;
  int64_t i = 0;
  for (; i + MOST <= channels; i += MOST) outer<MOST, V>(x, i, grads, count, sums + i * BLOCK);
  for (; i + 4 <= channels; i += 4) outer<4, V>(x, i, grads, count, sums + i * BLOCK);
  for (; i < channels; ++i) outer<1, V>(x, i, grads, count, sums + i * BLOCK);
}

// One block of output channels and one tap of the weight gradient, sums[Ci][BLOCK]; grads: CHUNK x BLOCK scratch.
void weight_grad(const Frames &in, const float *dy, const Clip &out, const Plane &plane, const Kernel &k, int64_t block,
                 int64_t tap, float *grads, float *sums) {
  const int64_t valid = std::min<int64_t>(BLOCK, out.c - block * BLOCK);
  const int64_t layer = tap / k.plane(), *source = plane.source.data() + tap % k.plane() * plane.size();
  std::fill(sums, sums + k.in * BLOCK, 0.0f);
  std::fill(grads, grads + CHUNK * BLOCK, 0.0f);
  for (int64_t frame = 0; frame < out.b * out.t; ++frame) {
    const float *x = in.at(frame / out.t, frame % out.t * in.g.st + layer - in.g.front);
    for (int64_t first = 0; first < plane.size(); first += CHUNK) {
      const float *rows[CHUNK];
      int64_t count = 0;
      for (int64_t n = first; n < std::min(plane.size(), first + CHUNK); ++n) {
        if (source[n] < 0) continue;
        copy(dy + (frame * plane.size() + n) * out.c + block * BLOCK, grads + count * BLOCK, valid);
        rows[count++] = x + source[n];
      }
      if (count == 0) continue;
      switch (parts_of(valid, LANES)) {
        case 1: outers<1>(rows, k.in, grads, count, sums); break;
        case 2: outers<2>(rows, k.in, grads, count, sums); break;
        case 3: outers<std::min(3, VECTORS)>(rows, k.in, grads, count, sums); break;
        default: outers<VECTORS>(rows, k.in, grads, count, sums);
      }
    }
  }
}

// Sums over rows, in parts of which each is short enough for float32.
void sum_rows(const float *x, int64_t rows, int64_t dim, float *to) {
  const int64_t part = 1024, parts = parts_of(rows, part);
  std::vector<float> shares(parts * dim);
  share_out(parts, part * dim, [&](int64_t item) {
    float *share = shares.data() + item * dim;
    for (int64_t row = item * part; row < std::min(rows, (item + 1) * part); ++row)
      for (int64_t c = 0; c < dim; ++c) share[c] += x[row * dim + c];
  });
  for (int64_t c = 0; c < dim; ++c) {
    double total = 0;
    for (int64_t item = 0; item < parts; ++item) total += shares[item * dim + c];
    to[c] = total;
  }
}

bool all_float32(const char **dtypes, std::initializer_list<int> which) {
  for (int i : which)
    if (!is(dtypes[i], "float32")) return false;
  return true;
}

const float *input(void *p) { return static_cast<const float *>(p); }
float *output(void *p) { return static_cast<float *>(p); }

}  // namespace

// x, w, bias (Co), head, geometry -> y
extern "C" int Conv3dForward(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 6 || !all_float32(dtypes, {0, 1, 2, 3, 5})) return 1;
  const Clip x(shapes[0]), y(shapes[5]);
  const Kernel k(shapes[1]);
  const Geometry g(shapes[4], axes[3], shapes[3]);
  const Frames frames{input(p[0]), input(p[3]), x, g};
  std::vector<Made> made;
  for (int64_t b = 0; b < y.b; ++b)
    for (int64_t t = 0; t < y.t; ++t) {
      made.push_back({output(p[5]) + (b * y.t + t) * y.frame(), {}});
      for (int64_t d = 0; d < k.t; ++d) made.back().from.push_back({frames.at(b, t * g.st + d - g.front), d});
    }
  convolve(made, plane(y, x, k, g, false), k, x.c, pack(input(p[1]), k, false).get(), input(p[2]), y.c);
  return 0;
}

// gradient of y, w, x (its shape only), head (its shape only), geometry -> gradients of x and head
extern "C" int Conv3dInputGrad(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 7 || !all_float32(dtypes, {0, 1, 5, 6})) return 1;
  const Clip y(shapes[0]), x(shapes[5]);
  const Kernel k(shapes[1]);
  const Geometry g(shapes[4], axes[3], shapes[3]);
  std::vector<Made> made;
  for (int64_t b = 0; b < x.b; ++b)
    for (int64_t f = g.headed ? -g.front : 0; f < x.t; ++f) {
      made.push_back({f < 0 ? output(p[6]) + (b * g.front + g.front + f) * x.frame()
                            : output(p[5]) + (b * x.t + f) * x.frame(), {}});
      for (int64_t d = 0; d < k.t; ++d)
        for (int64_t t = 0; t < y.t; ++t) {
          const int64_t at = t * g.st + d - g.front;
          if (at == f || (f == 0 && at < 0 && !g.headed))  // the first frame also stands in front
            made.back().from.push_back({input(p[0]) + (b * y.t + t) * y.frame(), d});
        }
    }
  convolve(made, plane(x, y, k, g, true), k, y.c, pack(input(p[1]), k, true).get(), nullptr, x.c);
  if (!g.headed) *output(p[6]) = 0;
  return 0;
}

// x, gradient of y, w (its shape only), head, geometry -> gradients of w and bias
extern "C" int Conv3dWeightGrad(int count, void **p, int *axes, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 7 || !all_float32(dtypes, {0, 1, 3, 5, 6})) return 1;
  const Clip x(shapes[0]), y(shapes[1]);
  const Kernel k(shapes[2]);
  const Geometry g(shapes[4], axes[3], shapes[3]);
  const Frames frames{input(p[0]), input(p[3]), x, g};
  const Plane where = plane(y, x, k, g, false);
  const int64_t blocks = parts_of(k.out, BLOCK), taps = k.taps(), size = k.in * BLOCK;
  const Floats packed = floats(blocks * taps * size);
  share_out(blocks * taps, y.b * y.t * where.size() * size, [] { return floats(CHUNK * BLOCK); },
            [&](Floats &scratch, int64_t item) {
    weight_grad(frames, input(p[1]), y, where, k, item / taps, item % taps, scratch.get(), packed.get() + item * size);
  });
  reorder(k, false, [to = output(p[5]), from = packed.get()](int64_t weight, int64_t stride, int64_t at, int64_t valid) {
    for (int64_t lane = 0; lane < valid; ++lane) to[weight + lane * stride] = from[at + lane];
  });
  sum_rows(input(p[1]), y.b * y.t * where.size(), y.c, output(p[6]));
  return 0;
}
