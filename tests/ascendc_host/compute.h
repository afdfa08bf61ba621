// Arithmetic: vector instructions in the count form and in the (mask, repeat, strides) form, and the cube's Mmad.
#pragma once

#include <algorithm>
#include <cmath>

#include "tensors.h"

namespace AscendC {

enum class RoundMode { CAST_NONE, CAST_RINT };
enum class ReduceOrder { ORDER_VALUE_INDEX, ORDER_ONLY_VALUE };

using Byte = twin::Field<uint8_t>;
using Word = twin::Field<uint16_t>;

struct UnaryRepeatParams {  // strides in blocks of 32 bytes
  Byte dstBlkStride = 1, srcBlkStride = 1, dstRepStride = 8, srcRepStride = 8;
  UnaryRepeatParams() = default;
  UnaryRepeatParams(Word dstBlk, Word srcBlk, Byte dstRep, Byte srcRep)
      : dstBlkStride(uint16_t(dstBlk)), srcBlkStride(uint16_t(srcBlk)), dstRepStride(dstRep), srcRepStride(srcRep) {}
};

struct BinaryRepeatParams {
  Byte dstBlkStride = 1, src0BlkStride = 1, src1BlkStride = 1, dstRepStride = 8, src0RepStride = 8, src1RepStride = 8;
  BinaryRepeatParams() = default;
  BinaryRepeatParams(Byte dstBlk, Byte src0Blk, Byte src1Blk, Byte dstRep, Byte src0Rep, Byte src1Rep)
      : dstBlkStride(dstBlk),
        src0BlkStride(src0Blk),
        src1BlkStride(src1Blk),
        dstRepStride(dstRep),
        src0RepStride(src0Rep),
        src1RepStride(src1Rep) {}
};

struct BrcbRepeatParams {
  Word dstBlkStride = 1, dstRepStride = 8;
  BrcbRepeatParams() = default;
  BrcbRepeatParams(Word dstBlk, Word dstRep) : dstBlkStride(dstBlk), dstRepStride(dstRep) {}
};

namespace host {

// The elements of one operand that one repeat of an instruction touches.
template <typename T>
struct Lanes {
  static constexpr uint32_t BLOCK = 32 / sizeof(T);
  LocalTensor<T> tensor;
  uint32_t blk, rep;

  Lanes(const LocalTensor<T> &tensor, uint32_t blk, uint32_t rep) : tensor(tensor), blk(blk), rep(rep) {
    if (tensor.space != twin::UB) twin::Fail("vector operands live in UB, not in %s", twin::SPACE_NAME[tensor.space]);
    tensor.Aligned();
  }
  void Use(uint32_t repeat, uint32_t count, twin::Access access) const {
    const uint32_t first = repeat * rep * BLOCK;
    if (blk == 1) {
      tensor.Use(first, count, access);
      return;
    }
    for (uint32_t b = 0; b * BLOCK < count; ++b)
      tensor.Use(first + b * blk * BLOCK, std::min(BLOCK, count - b * BLOCK), access);
  }
  T &At(uint32_t repeat, uint32_t i) const {
    uint8_t *base = twin::now->local[twin::UB].bytes.data() + tensor.begin;
    return reinterpret_cast<T *>(base)[(repeat * rep + i / BLOCK * blk) * BLOCK + i % BLOCK];
  }
};

// cycles: of a repeat.
inline void CheckMask(uint64_t mask, uint32_t repeat, size_t size, uint32_t cycles = 1) {
  twin::Worked(uint64_t(cycles) * repeat);
  if (mask == 0 || mask > 256 / size) twin::Fail("mask %llu: 1 to %zu", (unsigned long long)mask, 256 / size);
  if (repeat == 0) twin::Fail("repeat is 0");
}

// A count is repeats of 256 bytes.
inline void CheckCount(int64_t count, size_t size, uint32_t cycles = 1) {
  if (count <= 0) twin::Fail("count %lld is not positive", (long long)count);
  twin::Worked(cycles * (count * size + 255) / 256);
}

// One operand: dst = f(src), `count` lanes in each of `repeat` repeats; the count form is a single long repeat.
template <typename D, typename A, typename F>
void Map(const Lanes<D> &dst, const Lanes<A> &src, uint32_t count, uint32_t repeat, F f) {
  for (uint32_t r = 0; r < repeat; ++r) {
    src.Use(r, count, twin::Access::READ);
    dst.Use(r, count, twin::Access::WRITE);
    for (uint32_t i = 0; i < count; ++i) dst.At(r, i) = D(f(float(src.At(r, i))));
  }
}

template <typename T, typename F>
void Map(const Lanes<T> &dst, const Lanes<T> &a, const Lanes<T> &b, uint32_t count, uint32_t repeat, F f) {
  for (uint32_t r = 0; r < repeat; ++r) {
    a.Use(r, count, twin::Access::READ);
    b.Use(r, count, twin::Access::READ);
    dst.Use(r, count, twin::Access::WRITE);
    for (uint32_t i = 0; i < count; ++i) dst.At(r, i) = T(f(a.At(r, i), b.At(r, i)));
  }
}

}  // namespace host

// The device has no bfloat16 arithmetic; half and float only.
#define TWIN_BINARY(NAME, EXPRESSION, CYCLES)                                                                                \
  template <typename T>                                                                                              \
  void NAME(const LocalTensor<T> &dst, const LocalTensor<T> &src0, const LocalTensor<T> &src1, uint64_t mask,        \
            const twin::Field<uint8_t> repeat, const BinaryRepeatParams &p) {                                        \
    static_assert(!std::is_same_v<T, bfloat16_t>, #NAME " has no bfloat16 form");                                    \
    twin::Instruction instruction(twin::V, #NAME);                                                                   \
    host::CheckMask(mask, repeat, sizeof(T), CYCLES);                                                                        \
    host::Map(host::Lanes<T>(dst, p.dstBlkStride, p.dstRepStride),                                                   \
              host::Lanes<T>(src0, p.src0BlkStride, p.src0RepStride),                                                \
              host::Lanes<T>(src1, p.src1BlkStride, p.src1RepStride), uint32_t(mask), repeat,                        \
              [](T a, T b) { return EXPRESSION; });                                                                  \
  }                                                                                                                  \
  template <typename T>                                                                                              \
  void NAME(const LocalTensor<T> &dst, const LocalTensor<T> &src0, const LocalTensor<T> &src1, int32_t count) {      \
    static_assert(!std::is_same_v<T, bfloat16_t>, #NAME " has no bfloat16 form");                                    \
    twin::Instruction instruction(twin::V, #NAME);                                                                   \
    host::CheckCount(count, sizeof(T), CYCLES);                                                                                         \
    host::Map(host::Lanes<T>(dst, 1, 0), host::Lanes<T>(src0, 1, 0), host::Lanes<T>(src1, 1, 0), uint32_t(count), 1, \
              [](T a, T b) { return EXPRESSION; });                                                                  \
  }
TWIN_BINARY(Add, a + b, 1)
TWIN_BINARY(Sub, a - b, 1)
TWIN_BINARY(Mul, a *b, 1)
TWIN_BINARY(Div, a / b, 2)
TWIN_BINARY(Max, std::max(a, b), 1)
#undef TWIN_BINARY

#define TWIN_UNARY(NAME, EXPRESSION)                                                                                \
  template <typename T>                                                                                             \
  void NAME(const LocalTensor<T> &dst, const LocalTensor<T> &src, uint64_t mask, const twin::Field<uint8_t> repeat, \
            const UnaryRepeatParams &p) {                                                                           \
    static_assert(!std::is_same_v<T, bfloat16_t>, #NAME " has no bfloat16 form");                                   \
    twin::Instruction instruction(twin::V, #NAME);                                                                  \
    host::CheckMask(mask, repeat, sizeof(T), 2);                                                                       \
    host::Map(host::Lanes<T>(dst, p.dstBlkStride, p.dstRepStride),                                                  \
              host::Lanes<T>(src, p.srcBlkStride, p.srcRepStride), uint32_t(mask), repeat,                          \
              [](float a) { return EXPRESSION; });                                                                  \
  }                                                                                                                 \
  template <typename T>                                                                                             \
  void NAME(const LocalTensor<T> &dst, const LocalTensor<T> &src, int32_t count) {                                  \
    static_assert(!std::is_same_v<T, bfloat16_t>, #NAME " has no bfloat16 form");                                   \
    twin::Instruction instruction(twin::V, #NAME);                                                                  \
    host::CheckCount(count, sizeof(T), 2);                                                                                        \
    host::Map(host::Lanes<T>(dst, 1, 0), host::Lanes<T>(src, 1, 0), uint32_t(count), 1,                             \
              [](float a) { return EXPRESSION; });                                                                  \
  }
TWIN_UNARY(Exp, std::exp(a))
TWIN_UNARY(Ln, std::log(a))
TWIN_UNARY(Sqrt, std::sqrt(a))
#undef TWIN_UNARY

#define TWIN_SCALAR(NAME, EXPRESSION)                                                                        \
  template <typename T>                                                                                      \
  void NAME(const LocalTensor<T> &dst, const LocalTensor<T> &src, const T &scalar, uint64_t mask,            \
            const twin::Field<uint8_t> repeat, const UnaryRepeatParams &p) {                                 \
    static_assert(!std::is_same_v<T, bfloat16_t>, #NAME " has no bfloat16 form");                            \
    twin::Instruction instruction(twin::V, #NAME);                                                           \
    host::CheckMask(mask, repeat, sizeof(T));                                                                \
    const T b = scalar;                                                                                      \
    const host::Lanes<T> to(dst, p.dstBlkStride, p.dstRepStride), from(src, p.srcBlkStride, p.srcRepStride); \
    host::Map(to, from, from, uint32_t(mask), repeat, [b](T a, T) { return EXPRESSION; });                   \
  }                                                                                                          \
  template <typename T>                                                                                      \
  void NAME(const LocalTensor<T> &dst, const LocalTensor<T> &src, const T &scalar, int32_t count) {          \
    static_assert(!std::is_same_v<T, bfloat16_t>, #NAME " has no bfloat16 form");                            \
    twin::Instruction instruction(twin::V, #NAME);                                                           \
    host::CheckCount(count, sizeof(T));                                                                                 \
    const T b = scalar;                                                                                      \
    const host::Lanes<T> to(dst, 1, 0), from(src, 1, 0);                                                     \
    host::Map(to, from, from, uint32_t(count), 1, [b](T a, T) { return EXPRESSION; });                       \
  }
TWIN_SCALAR(Muls, a *b)
TWIN_SCALAR(Adds, a + b)
#undef TWIN_SCALAR

template <typename T>
void Duplicate(const LocalTensor<T> &dst, const T &value, uint64_t mask, const twin::Field<uint8_t> repeat,
               const Word blockStride, const Byte repeatStride) {
  twin::Instruction instruction(twin::V, "Duplicate");
  host::CheckMask(mask, repeat, sizeof(T));
  const host::Lanes<T> lanes(dst, blockStride, repeatStride);
  for (uint32_t r = 0; r < repeat; ++r) {
    lanes.Use(r, uint32_t(mask), twin::Access::WRITE);
    for (uint32_t i = 0; i < mask; ++i) lanes.At(r, i) = value;
  }
}

template <typename T>
void Duplicate(const LocalTensor<T> &dst, const T &value, int32_t count) {
  twin::Instruction instruction(twin::V, "Duplicate");
  host::CheckCount(count, sizeof(T));
  host::Lanes<T> lanes(dst, 1, 0);
  lanes.Use(0, uint32_t(count), twin::Access::WRITE);
  for (int32_t i = 0; i < count; ++i) lanes.At(0, i) = value;
}

namespace host {
template <typename D, typename A>
void CheckCast(RoundMode mode) {
  constexpr bool widens = sizeof(D) > sizeof(A), floats = std::is_same_v<D, float> || std::is_same_v<A, float>;
  static_assert(floats && sizeof(D) != sizeof(A), "casts go between float and half or bfloat16");
  if (widens != (mode == RoundMode::CAST_NONE)) twin::Fail("widening takes CAST_NONE, narrowing CAST_RINT");
}
}  // namespace host

template <typename D, typename A>
void Cast(const LocalTensor<D> &dst, const LocalTensor<A> &src, RoundMode mode, uint64_t mask,
          const twin::Field<uint8_t> repeat, const UnaryRepeatParams &p) {
  twin::Instruction instruction(twin::V, "Cast");
  host::CheckCast<D, A>(mode);
  host::CheckMask(mask, repeat, std::max(sizeof(D), sizeof(A)));
  host::Map(host::Lanes<D>(dst, p.dstBlkStride, p.dstRepStride), host::Lanes<A>(src, p.srcBlkStride, p.srcRepStride),
            uint32_t(mask), repeat, [](float a) { return a; });
}

template <typename D, typename A>
void Cast(const LocalTensor<D> &dst, const LocalTensor<A> &src, RoundMode mode, uint32_t count) {
  twin::Instruction instruction(twin::V, "Cast");
  host::CheckCast<D, A>(mode);
  host::CheckCount(count, std::max(sizeof(D), sizeof(A)));
  host::Map(host::Lanes<D>(dst, 1, 0), host::Lanes<A>(src, 1, 0), count, 1, [](float a) { return a; });
}

// Eight neighbouring elements a repeat, each spread over one block.
template <typename T>
void Brcb(const LocalTensor<T> &dst, const LocalTensor<T> &src, const twin::Field<uint8_t> repeat,
          const BrcbRepeatParams &p) {
  twin::Instruction instruction(twin::V, "Brcb");
  if (repeat == 0) twin::Fail("repeat is 0");
  twin::Worked(repeat);
  dst.Aligned();
  src.Aligned();
  constexpr uint32_t block = 32 / sizeof(T);
  for (uint32_t r = 0; r < repeat; ++r) {
    const T *from = src.Use(r * 8, 8, twin::Access::READ);
    T values[8];
    std::copy(from, from + 8, values);
    for (uint32_t i = 0; i < 8; ++i) {
      T *to = dst.Use((r * p.dstRepStride + i * p.dstBlkStride) * block, block, twin::Access::WRITE);
      std::fill(to, to + block, values[i]);
    }
  }
}

// dst = src0 * dst + src1
template <typename T>
void FusedMulAdd(const LocalTensor<T> &dst, const LocalTensor<T> &src0, const LocalTensor<T> &src1, uint64_t mask,
                 const twin::Field<uint8_t> repeat, const BinaryRepeatParams &p) {
  static_assert(!std::is_same_v<T, bfloat16_t>, "FusedMulAdd has no bfloat16 form");
  twin::Instruction instruction(twin::V, "FusedMulAdd");
  host::CheckMask(mask, repeat, sizeof(T));
  const host::Lanes<T> to(dst, p.dstBlkStride, p.dstRepStride), factor(src0, p.src0BlkStride, p.src0RepStride),
      addend(src1, p.src1BlkStride, p.src1RepStride);
  for (uint32_t r = 0; r < repeat; ++r) {
    factor.Use(r, uint32_t(mask), twin::Access::READ);
    addend.Use(r, uint32_t(mask), twin::Access::READ);
    to.Use(r, uint32_t(mask), twin::Access::READ);
    to.Use(r, uint32_t(mask), twin::Access::WRITE);
    for (uint32_t i = 0; i < mask; ++i) to.At(r, i) = factor.At(r, i) * to.At(r, i) + addend.At(r, i);
  }
}

namespace host {
template <typename F>
void ReduceBlocks(const char *name, const LocalTensor<float> &dst, const LocalTensor<float> &src, int32_t repeat,
                  int32_t mask, int32_t dstRep, int32_t srcBlk, int32_t srcRep, F f) {
  twin::Instruction instruction(twin::V, name);
  CheckMask(mask, repeat, 4);
  if (repeat > 255) twin::Fail("repeat %d: 1 to 255", repeat);
  if (mask != 64) twin::Fail("%s: the twin models whole repeats", name);
  const Lanes<float> from(src, srcBlk, srcRep);
  dst.Aligned();
  for (int32_t r = 0; r < repeat; ++r) {
    from.Use(r, mask, twin::Access::READ);
    float *to = dst.Use(r * dstRep * 8, 8, twin::Access::WRITE);
    for (int32_t b = 0; b < 8; ++b) {
      to[b] = from.At(r, b * 8);
      for (int32_t i = 1; i < 8; ++i) to[b] = f(to[b], from.At(r, b * 8 + i));
    }
  }
}

template <typename F>
void Reduce(const char *name, const LocalTensor<float> &dst, const LocalTensor<float> &src, int32_t mask,
            int32_t repeat, int32_t dstRep, int32_t srcBlk, int32_t srcRep, F f) {
  twin::Instruction instruction(twin::V, name);
  CheckMask(mask, repeat, 4);
  if (repeat > 255) twin::Fail("repeat %d: 1 to 255", repeat);
  const Lanes<float> from(src, srcBlk, srcRep);
  dst.Aligned();
  for (int32_t r = 0; r < repeat; ++r) {
    from.Use(r, mask, twin::Access::READ);
    float value = from.At(r, 0);
    for (int32_t i = 1; i < mask; ++i) value = f(value, from.At(r, i));
    // Neighbouring results share a granule: they are one instruction's writes.
    *dst.Use(r * dstRep, 1, twin::Access::WRITE) = value;
  }
}
}  // namespace host

// Eight results a repeat, one of each block; dstRep in blocks.
template <typename T>
void BlockReduceSum(const LocalTensor<T> &dst, const LocalTensor<T> &src, const int32_t repeat, const int32_t mask,
                    const int32_t dstRep, const int32_t srcBlk, const int32_t srcRep) {
  host::ReduceBlocks("BlockReduceSum", dst, src, repeat, mask, dstRep, srcBlk, srcRep,
                     [](float a, float b) { return a + b; });
}

template <typename T>
void BlockReduceMax(const LocalTensor<T> &dst, const LocalTensor<T> &src, const int32_t repeat, const int32_t mask,
                    const int32_t dstRep, const int32_t srcBlk, const int32_t srcRep) {
  host::ReduceBlocks("BlockReduceMax", dst, src, repeat, mask, dstRep, srcBlk, srcRep,
                     [](float a, float b) { return std::max(a, b); });
}

template <typename T>
void WholeReduceSum(const LocalTensor<T> &dst, const LocalTensor<T> &src, const int32_t mask, const int32_t repeat,
                    const int32_t dstRep, const int32_t srcBlk, const int32_t srcRep) {
  host::Reduce("WholeReduceSum", dst, src, mask, repeat, dstRep, srcBlk, srcRep,
               [](float a, float b) { return a + b; });
}

template <typename T>
void WholeReduceMax(const LocalTensor<T> &dst, const LocalTensor<T> &src, const int32_t mask, const int32_t repeat,
                    const int32_t dstRep, const int32_t srcBlk, const int32_t srcRep, ReduceOrder order) {
  if (order != ReduceOrder::ORDER_ONLY_VALUE) twin::Fail("WholeReduceMax: the twin models ORDER_ONLY_VALUE");
  host::Reduce("WholeReduceMax", dst, src, mask, repeat, dstRep, srcBlk, srcRep,
               [](float a, float b) { return std::max(a, b); });
}

// dst[i] = src[(base + offset[i]) / sizeof(T)]; offsets in bytes
template <typename T>
void Gather(const LocalTensor<T> &dst, const LocalTensor<T> &src, const LocalTensor<uint32_t> &offset,
            const uint32_t base, const uint32_t count) {
  twin::Instruction instruction(twin::V, "Gather");
  host::CheckCount(count, sizeof(T));
  const host::Lanes<T> to(dst, 1, 0), from(src, 1, 0);
  const host::Lanes<uint32_t> index(offset, 1, 0);
  index.Use(0, count, twin::Access::READ);
  to.Use(0, count, twin::Access::WRITE);
  for (uint32_t i = 0; i < count; ++i)
    to.At(0, i) = *src.Use((base + index.At(0, i)) / sizeof(T), 1, twin::Access::READ);
}

struct MmadParams {
  Word m = 0, n = 0, k = 0;
  bool cmatrixSource = false, cmatrixInitVal = true;
  Byte unitFlag = 0;
};

template <typename T>
void Mmad(const LocalTensor<float> &c, const LocalTensor<T> &a, const LocalTensor<T> &b, const MmadParams &p) {
  static_assert(sizeof(T) == 2, "the kernels multiply 16-bit matrices");
  twin::Instruction multiply(twin::M, "Mmad");
  if (c.space != twin::L0C || a.space != twin::L0A || b.space != twin::L0B)
    twin::Fail("operands are in %s, %s, %s; Mmad takes L0C, L0A, L0B", twin::SPACE_NAME[c.space],
               twin::SPACE_NAME[a.space], twin::SPACE_NAME[b.space]);
  c.Aligned();
  a.Aligned();
  b.Aligned();
  if (p.m < 2 || p.m > 4095 || p.n == 0 || p.n > 4095 || p.k == 0 || p.k > 4095)
    twin::Fail("m %u, n %u, k %u: 1 to 4095, and m = 1 would be a matrix-vector product", unsigned(p.m), unsigned(p.n),
               unsigned(p.k));
  const uint32_t mf = (p.m + 15) / 16, nf = (p.n + 15) / 16, kf = (p.k + 15) / 16;
  twin::Worked(uint64_t(mf) * nf * kf);
  const T *left = a.Use(0, mf * kf * 256, twin::Access::COPY_RAW);
  const T *right = b.Use(0, kf * nf * 256, twin::Access::COPY_RAW);
  // From ten fractals on, the cube itself keeps successive products into one accumulator in order.
  const uint16_t self = twin::now->Agent(twin::M);
  const uint32_t done = twin::now->done[twin::M];
  if (!p.cmatrixInitVal && mf * nf >= 10) twin::now->done[twin::M] = twin::now->clock[twin::M][self];
  if (!p.cmatrixInitVal) c.Use(0, mf * nf * 256, twin::Access::READ);
  float *to = c.Use(0, mf * nf * 256, twin::Access::WRITE);
  twin::now->done[twin::M] = done;
  twin::MultiplyFractals(to, reinterpret_cast<const uint16_t *>(left), reinterpret_cast<const uint16_t *>(right), p.m,
                         p.n, p.k, p.cmatrixInitVal, std::is_same_v<T, bfloat16_t>);
}

}  // namespace AscendC
