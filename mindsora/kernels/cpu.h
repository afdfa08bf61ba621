// What the CPU operators share: threads, vectors, float16, exp2 and a small matrix product.
//
// Vectors are GCC's and clang's vector extensions, as wide as the processor the compiler was told to build for
// (AVX-512, AVX2, NEON); nothing below is written for one of them alone.

#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

// ---- threads

// Threads live for one call. OpenMP's would go on spinning after it, on the cores MindSpore's own threads need.
// `cost` is an item's rough number of multiply-adds: below a few million in all a thread costs more than it saves.
// Every thread makes one `scratch()` for all of its items. Which thread takes which item must not change the result.
template <typename Scratch, typename Work>
void share_out(int64_t items, int64_t cost, Scratch scratch, Work work) {
  const char *cap = std::getenv("OMP_NUM_THREADS");
  int64_t count = cap && std::atoi(cap) > 0 ? std::atoi(cap) : std::thread::hardware_concurrency();
  count = std::max<int64_t>(1, std::min<int64_t>({count, items, items * cost / 4000000}));
  std::atomic<int64_t> next{0};
  auto run = [&] {
    auto own = scratch();
    for (int64_t item = next++; item < items; item = next++) work(own, item);
  };
  std::vector<std::thread> others;
  for (int64_t i = 1; i < count; ++i) others.emplace_back(run);
  run();
  for (auto &thread : others) thread.join();
}

template <typename Work>
void share_out(int64_t items, int64_t cost, Work work) {
  share_out(items, cost, [] { return 0; }, [&](int, int64_t item) { work(item); });
}

// ---- vectors

#if defined(__AVX512F__)
constexpr int LANES = 16, ROWS = 8, WIDE = 3;  // 24 of 32 registers accumulate
#elif defined(__AVX__)
constexpr int LANES = 8, ROWS = 4, WIDE = 3;  // 12 of 16
#else
constexpr int LANES = 4, ROWS = 8, WIDE = 3;  // 24 of 32 (NEON)
#endif

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4), aligned(4)));

inline vec load(const float *p) { return *reinterpret_cast<const vec *>(p); }
inline void store(float *p, vec x) { *reinterpret_cast<vec *>(p) = x; }
inline vec all(float x) { return vec{} + x; }

inline vec larger(vec a, vec b) {
#if defined(__AVX512F__)
  return _mm512_max_ps(a, b);  // GCC 12 makes two instructions of the line below
#else
  return a > b ? a : b;
#endif
}

// Sum of f(a[i], b[i]) for f applied to vectors and, at the end of a row, to numbers.
template <typename F>
inline float sum_of(const float *a, const float *b, int64_t count, F f) {
  vec parts = vec{};
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) parts += f(load(a + i), load(b + i));
  float total = 0;
  for (int lane = 0; lane < LANES; ++lane) total += parts[lane];
  for (; i < count; ++i) total += f(a[i], b[i]);
  return total;
}

inline float sum(const float *a, int64_t count) {
  return sum_of(a, a, count, [](auto x, auto) { return x; });
}

inline float dot(const float *a, const float *b, int64_t count) {
  return sum_of(a, b, count, [](auto x, auto y) { return x * y; });
}

// Normalise a row in place: subtract its mean if `centre`, divide by its root mean square. Gives the factor it was
// multiplied by.
inline float normalise(float *row, int64_t count, bool centre, float eps) {
  if (centre) {
    const float mean = sum(row, count) / count;
    for (int64_t i = 0; i < count; ++i) row[i] -= mean;
  }
  const float factor = 1 / std::sqrt(dot(row, row, count) / count + eps);
  for (int64_t i = 0; i < count; ++i) row[i] *= factor;
  return factor;
}

// The gradient of that: `grad` by the normalised row becomes the gradient by the row.
inline void normalise_grad(const float *normalised, float factor, float *grad, int64_t count, bool centre) {
  const float slope = dot(normalised, grad, count) / count, mean = centre ? sum(grad, count) / count : 0;
  for (int64_t i = 0; i < count; ++i) grad[i] = factor * (grad[i] - mean - normalised[i] * slope);
}

// 2^x for x <= 0, relative error below 2e-7; results under 2^-126 become 2^-126.
// The polynomial is the one of degree 5 with the least relative error on [-1/2, 1/2] that is exact at 0.
inline vec exp2(vec x) {
  x = larger(x, all(-126.0f));
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits
  const vec shifted = x + magic;
  const vec f = x - (shifted - magic);
  vec p = f * 0.00132647342979908f + 0.00967151578515768f;
  p = p * f + 0.05550733581185341f;
  p = p * f + 0.24022242426872253f;
  p = p * f + 0.6931470036506653f;
  p = p * f + 1.0f;
  return (vec)((ivec)p + ((ivec)shifted << 23));
}

// 1 / (1 + e^-x), relative error below 1e-6 for |x| < 10.
inline vec sigmoid(vec x) {
  const vec e = exp2((vec)((ivec)x | INT32_MIN) * 1.44269504f);  // e^-|x|
  return (x >= all(0) ? all(1) : e) / (e + 1);
}

// to[i] = f(in[i]...) for vectors. The last numbers, fewer than a vector, go by way of a whole one.
template <typename F, typename... In>
inline void map_row(int64_t count, float *to, F f, const In *...in) {
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES) store(to + i, f(load(in + i)...));
  if (i == count) return;
  const size_t left = (count - i) * sizeof(float);
  auto part = [&](const float *from) {
    float whole[LANES] = {};
    std::memcpy(whole, from + i, left);
    return load(whole);
  };
  float whole[LANES];
  store(whole, f(part(in)...));
  std::memcpy(to + i, whole, left);
}

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct Free {
  void operator()(float *p) const { std::free(p); }
};
typedef std::unique_ptr<float[], Free> Floats;

// Not cleared; begins on a cache line, and `count` is rounded up to whole ones.
inline Floats floats(int64_t count) {
  return Floats(static_cast<float *>(std::aligned_alloc(64, round_up(std::max<int64_t>(count, 1) * 4, 64))));
}

// ---- float16, held as raw words

typedef uint16_t half;

inline float widen(float x) { return x; }

inline float widen(half x) {
#if defined(__F16C__)
  return _cvtsh_ss(x);
#elif defined(__aarch64__)
  __fp16 y;
  std::memcpy(&y, &x, 2);
  return y;
#else
  const uint32_t magnitude = uint32_t(x & 0x7fff) << 13, sign = uint32_t(x & 0x8000) << 16;
  uint32_t bits = magnitude + ((x & 0x7c00) == 0x7c00 ? 0x70000000u : 0x38000000u);  // another exponent bias
  float y;
  std::memcpy(&y, &bits, 4);
  if ((x & 0x7c00) == 0) y = std::ldexp(float(x & 0x3ff), -24);
  std::memcpy(&bits, &y, 4);
  bits |= sign;
  std::memcpy(&y, &bits, 4);
  return y;
#endif
}

template <typename T>
T narrow(float x);

template <>
inline float narrow<float>(float x) {
  return x;
}

template <>
inline half narrow<half>(float x) {  // to the nearest, ties to even
#if defined(__F16C__)
  return _cvtss_sh(x, 0);
#elif defined(__aarch64__)
  const __fp16 y = x;
  half bits;
  std::memcpy(&bits, &y, 2);
  return bits;
#else
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return sign | 0x7e00;               // NaN
  if (bits >= 0x477ff000) return sign | 0x7c00;              // rounds to 65536 or more
  if (bits < 0x38800000) {                                   // below 2^-14: a multiple of 2^-24
    float y;
    std::memcpy(&y, &bits, 4);
    return sign | half(std::nearbyint(std::ldexp(y, 24)));
  }
  return sign | half((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
#endif
}

template <typename T>
void widen_row(const T *from, float *to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  if (sizeof(T) == 2)
    for (; i + 8 <= count; i += 8)
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from + i))));
#endif
  for (; i < count; ++i) to[i] = widen(from[i]);
}

template <>
inline void widen_row<float>(const float *from, float *to, int64_t count) {
  std::memcpy(to, from, count * sizeof(float));
}

template <typename T>
void narrow_row(const float *from, T *to, int64_t count) {
  int64_t i = 0;
#if defined(__F16C__)
  if (sizeof(T) == 2)
    for (; i + 8 <= count; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i *>(to + i), _mm256_cvtps_ph(_mm256_loadu_ps(from + i), 0));
#endif
  for (; i < count; ++i) to[i] = narrow<T>(from[i]);
}

template <>
inline void narrow_row<float>(const float *from, float *to, int64_t count) {
  std::memcpy(to, from, count * sizeof(float));
}

inline bool is(const char *dtype, const char *name) { return std::strcmp(dtype, name) == 0; }

// ---- matrix product

enum Start { ZERO, ADD, RESCALE };

// ROWS x (V * LANES) of c = a b, c + a b or c * scale + a b. The sums stay in registers while `depth` goes by:
// element (i, k) of a is a[i * stride + k] (`ALONG` its rows) or a[k * stride + i].
template <int V, bool ALONG, Start START>
inline void product(const float *a, int64_t stride, const float *b, int64_t ldb, float *c, int64_t ldc, int64_t depth,
                    const vec *scale) {
  vec acc[ROWS][V];
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < V; ++v) {
      acc[i][v] = START == ZERO ? vec{} : load(c + i * ldc + v * LANES);
      if (START == RESCALE) acc[i][v] *= scale[v];
    }
  for (int64_t k = 0; k < depth; ++k, b += ldb) {
    vec row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + v * LANES);
    for (int i = 0; i < ROWS; ++i) {
      const float value = ALONG ? a[i * stride + k] : a[k * stride + i];
      for (int v = 0; v < V; ++v) acc[i][v] += value * row[v];
    }
  }
  for (int i = 0; i < ROWS; ++i)
    for (int v = 0; v < V; ++v) store(c + i * ldc + v * LANES, acc[i][v]);
}

// The same for `rows` rows, a multiple of ROWS.
template <int V, bool ALONG, Start START>
inline void products(int64_t rows, const float *a, int64_t stride, const float *b, int64_t ldb, float *c, int64_t ldc,
                     int64_t depth, const vec *scale = nullptr) {
  for (int64_t i = 0; i < rows; i += ROWS)
    product<V, ALONG, START>(a + (ALONG ? i * stride : i), stride, b, ldb, c + i * ldc, ldc, depth, scale);
}

}  // namespace
