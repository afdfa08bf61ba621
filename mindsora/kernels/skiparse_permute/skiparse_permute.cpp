// Skiparse permutation on CPU, both directions, for elements of any type: whole rows are copied.
//
//   SkiparsePermute    x (B, N, ...) -> (B, n, R, ...), padding rows zero
//   SkiparseUnpermute  x (B, n, R, ...) -> (B, N, ...), padding rows dropped
// Each is the other's gradient.

#include "../cpu.h"
#include "../skiparse.h"

namespace {

int64_t width(const char *dtype) {  // bytes, from the number at the end of the name
  if (is(dtype, "bool")) return 1;
  const char *digits = dtype + std::strlen(dtype);
  while (digits > dtype && digits[-1] >= '0' && digits[-1] <= '9') --digits;
  return std::atoi(digits) / 8;
}

int64_t product_of(const int64_t *shape, int from, int to) {
  int64_t size = 1;
  for (int i = from; i < to; ++i) size *= shape[i];
  return size;
}

void permute(const char *x, char *y, int64_t batch, int64_t tokens, int64_t bytes, Skip skip, bool inverse) {
  const int64_t rows = skip.rows(tokens), lines = batch * skip.n * rows, part = 64;
  share_out((lines + part - 1) / part, part * bytes, [&](int64_t item) {
    for (int64_t line = item * part; line < std::min(lines, (item + 1) * part); ++line) {
      const int64_t b = line / rows / skip.n, token = skip.token(line / rows % skip.n, line % rows);
      const int64_t place = (b * tokens + token) * bytes;
      if (token < tokens)
        inverse ? std::memcpy(y + place, x + line * bytes, bytes) : std::memcpy(y + line * bytes, x + place, bytes);
      else if (!inverse)
        std::memset(y + line * bytes, 0, bytes);
    }
  });
}

}  // namespace

// x, skip -> y
extern "C" int SkiparsePermute(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *, void *) {
  if (count != 3) return 1;
  permute(static_cast<const char *>(p[0]), static_cast<char *>(p[2]), shapes[0][0], shapes[0][1],
          product_of(shapes[0], 2, ndims[0]) * width(dtypes[0]), Skip(shapes[1]), false);
  return 0;
}

// x, target (group + 1, N) -> y
extern "C" int SkiparseUnpermute(int count, void **p, int *ndims, int64_t **shapes, const char **dtypes, void *,
                                 void *) {
  if (count != 3) return 1;
  const int64_t skip[2] = {shapes[0][1], shapes[1][0]};
  permute(static_cast<const char *>(p[0]), static_cast<char *>(p[2]), shapes[0][0], shapes[1][1],
          product_of(shapes[0], 3, ndims[0]) * width(dtypes[0]), Skip(skip), true);
  return 0;
}
