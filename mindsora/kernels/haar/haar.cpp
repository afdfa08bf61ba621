// Haar wavelet transform of channels-last clips on CPU, and its transpose. float32.
//
//   HaarSplit   x (B, T, H, W, C) -> y (B, T/2, H/2, W/2, 8C), of every 2 x 2 x 2 numbers 8 signed sums; or, frame by
//               frame, (B, T, H/2, W/2, 4C). Channel = band * C + c; the band's binary digits say along which axes the sign
//               alternates: t y x or, frame by frame, x y.
//   HaarJoin    back: y -> x. It is the other's transpose, so each is the other's gradient.

#include "../cpu.h"

namespace {

// Travels as a tensor: its shape says whether time is split too (2) or not (1), its first number scales the sums.
struct Settings {
  bool temporal;
  float scale;
  Settings(const int64_t *shape, const void *p) : temporal(shape[0] == 2), scale(*static_cast<const float *>(p)) {}
};

// x by its places of 2 x 2 (x 2) pixels.
struct Clip {
  int64_t frames, rows, columns, channels, places_t, places_h, places_w, batch;
  Clip(const int64_t *s, bool temporal)
      : frames(s[1]), rows(s[2]), columns(s[3]), channels(s[4]), places_t(temporal ? s[1] / 2 : s[1]),
        places_h(s[2] / 2), places_w(s[3] / 2), batch(s[0]) {}
};

// Sums and differences along each of the axes that N = 2^axes numbers stand on.
template <int N>
inline void butterflies(float *v) {
  for (int bit = 1; bit < N; bit *= 2)
    for (int i = 0; i < N; ++i)
      if (!(i & bit)) {
        const float a = v[i], b = v[i | bit];
        v[i] = a + b;
        v[i | bit] = a - b;
      }
}

// move(pixels of a place, in the order of the bands' digits; its channels in y)
template <int N, typename Move>
void every_place(const Clip &clip, Move move) {
  const int64_t line = clip.columns * clip.channels, frame = clip.rows * line, step = N == 8 ? 2 : 1;
  int64_t offset[N];  // of a pixel from the first of its place
  for (int i = 0; i < N; ++i)
    offset[i] = N == 8 ? (i >> 2) * frame + (i >> 1 & 1) * line + (i & 1) * clip.channels
                       : (i & 1) * line + (i >> 1) * clip.channels;
  share_out(clip.batch * clip.places_t * clip.places_h, line * N * 4, [&](int64_t item) {
    const int64_t h = item % clip.places_h, t = item / clip.places_h % clip.places_t;
    const int64_t b = item / clip.places_h / clip.places_t;
    const int64_t pixel = (b * clip.frames + t * step) * frame + 2 * h * line;
    for (int64_t w = 0; w < clip.places_w; ++w)
      for (int64_t c = 0; c < clip.channels; ++c)
        move(pixel + 2 * w * clip.channels + c, offset, (item * clip.places_w + w) * N * clip.channels + c);
  });
}

template <int N>
int split(const float *x, const Clip &clip, float scale, float *y) {
  every_place<N>(clip, [&](int64_t from, const int64_t *offset, int64_t to) {
    float v[N];
    for (int i = 0; i < N; ++i) v[i] = x[from + offset[i]];
    butterflies<N>(v);
    for (int i = 0; i < N; ++i) y[to + i * clip.channels] = scale * v[i];
  });
  return 0;
}

template <int N>
int join(const float *y, const Clip &clip, float scale, float *x) {
  every_place<N>(clip, [&](int64_t to, const int64_t *offset, int64_t from) {
    float v[N];
    for (int i = 0; i < N; ++i) v[i] = y[from + i * clip.channels];
    butterflies<N>(v);
    for (int i = 0; i < N; ++i) x[to + offset[i]] = scale * v[i];
  });
  return 0;
}

const float *in(void *p) { return static_cast<const float *>(p); }
float *out(void *p) { return static_cast<float *>(p); }

}  // namespace

// x, settings -> y
extern "C" int HaarSplit(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 3 || !is(dtypes[0], "float32")) return 1;
  const Settings set(shapes[1], p[1]);
  const Clip clip(shapes[0], set.temporal);
  return set.temporal ? split<8>(in(p[0]), clip, set.scale, out(p[2])) : split<4>(in(p[0]), clip, set.scale, out(p[2]));
}

// y, settings -> x
extern "C" int HaarJoin(int count, void **p, int *, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 3 || !is(dtypes[0], "float32")) return 1;
  const Settings set(shapes[1], p[1]);
  const Clip clip(shapes[2], set.temporal);
  return set.temporal ? join<8>(in(p[0]), clip, set.scale, out(p[2])) : join<4>(in(p[0]), clip, set.scale, out(p[2]));
}
