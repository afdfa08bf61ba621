// Skiparse in C++: which token is row `row` of sub-sequence `s`. In Python: skiparse_permute/reference.py.

#pragma once

#include <cstdint>

namespace {

// Travels as the shape of a tensor: (n, 1 + group).
struct Skip {
  int64_t n;
  bool group;
  explicit Skip(const int64_t *shape) : n(shape[0]), group(shape[1] == 2) {}
  int64_t token(int64_t s, int64_t row) const { return group ? row / n * n * n + s * n + row % n : row * n + s; }
  // Of one sub-sequence, with padding.
  int64_t rows(int64_t tokens) const { return (tokens + n * n - 1) / (n * n) * n; }
};

}  // namespace
