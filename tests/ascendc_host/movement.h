// Data movement: global memory, UB, L1, L0.
#pragma once

#include <cstring>

#include "tensors.h"

enum class QuantMode_t { NoQuant, F322F16, F322BF16 };

namespace AscendC {

using twin::Access;
using twin::Field;

struct DataCopyExtParams {  // blockLen in bytes; gaps in bytes on the global side, in 32-byte blocks on the local side
  Field<uint16_t> blockCount = 1;
  Field<uint32_t> blockLen = 0, srcStride = 0, dstStride = 0, rsv = 0;
};

template <typename T>
struct DataCopyPadExtParams {
  bool isPad = false;
  Field<uint8_t> leftPadding = 0, rightPadding = 0;
  T paddingValue = T(0);
};

struct Nd2NzParams {
  Field<uint16_t> ndNum = 0, nValue = 0, dValue = 0, srcNdMatrixStride = 0, srcDValue = 0, dstNzC0Stride = 0,
                  dstNzNStride = 0, dstNzMatrixStride = 0;
};

struct LoadData2DParams {
  Field<uint16_t> startIndex = 0, dstGap = 0, srcStride = 0;
  bool ifTranspose = false;
  Field<uint8_t> repeatTimes = 0, sid = 0, addrMode = 0;
};

enum class CO2Layout : uint8_t { NZ, ROW_MAJOR };
struct FixpipeConfig {
  CO2Layout format;
};
constexpr FixpipeConfig CFG_ROW_MAJOR = {CO2Layout::ROW_MAJOR};

struct FixpipeParamsV220 {
  Field<uint16_t> nSize = 0, mSize = 0, srcStride = 0;
  Field<uint32_t> dstStride = 0;
  bool reluEn = false;
  QuantMode_t quantPre = QuantMode_t::NoQuant;
  Field<uint16_t> ndNum = 1;
};

namespace host {
inline void InUB(twin::Space space, const char *name) {
  if (space != twin::UB) twin::Fail("%s: the local tensor must be in UB, it is in %s", name, twin::SPACE_NAME[space]);
}
inline void Blocks(uint32_t count, uint32_t length) {
  if (count == 0 || count > 4095 || length == 0) twin::Fail("blockCount %u (1 to 4095), blockLen %u", count, length);
}
template <typename T>
uint32_t Elements(uint32_t bytes) {
  if (bytes % sizeof(T)) twin::Fail("%u bytes are no whole number of elements", bytes);
  return bytes / sizeof(T);
}
}  // namespace host

template <typename T>
void DataCopyPad(const LocalTensor<T> &dst, const GlobalTensor<T> &src, const DataCopyExtParams &p,
                 const DataCopyPadExtParams<T> &pad) {
  twin::Instruction copy(twin::MTE2, "DataCopyPad");
  host::InUB(dst.space, "DataCopyPad");
  host::Blocks(p.blockCount, p.blockLen);
  dst.Aligned();
  const uint32_t count = host::Elements<T>(p.blockLen), gap = host::Elements<T>(p.srcStride);
  const uint32_t fill = pad.isPad ? uint32_t(pad.rightPadding) : 0;
  if ((pad.isPad && uint32_t(pad.leftPadding) != 0) || fill * sizeof(T) >= 32)
    twin::Fail("the twin pads on the right, by less than 32 bytes");
  const uint32_t row = (p.blockLen + 31) / 32 * 32 / sizeof(T), step = row + uint32_t(p.dstStride) * (32 / sizeof(T));
  for (uint32_t i = 0; i < p.blockCount; ++i) {
    const T *from = src.Use(uint64_t(i) * (count + gap), count, Access::READ);
    T *to = dst.Use(i * step, row, Access::WRITE);
    std::memcpy(to, from, p.blockLen);
    for (uint32_t e = count; e < count + fill && e < row; ++e) to[e] = pad.paddingValue;
  }
  twin::Moved(uint64_t(p.blockCount) * p.blockLen);
}

template <typename T>
void DataCopyPad(const GlobalTensor<T> &dst, const LocalTensor<T> &src, const DataCopyExtParams &p) {
  twin::Instruction copy(twin::MTE3, "DataCopyPad");
  host::InUB(src.space, "DataCopyPad");
  host::Blocks(p.blockCount, p.blockLen);
  src.Aligned();
  const uint32_t count = host::Elements<T>(p.blockLen), gap = host::Elements<T>(p.dstStride);
  const uint32_t row = (p.blockLen + 31) / 32 * 32 / sizeof(T), step = row + uint32_t(p.srcStride) * (32 / sizeof(T));
  for (uint32_t i = 0; i < p.blockCount; ++i) {
    const T *from = src.Use(i * step, count, Access::READ);
    std::memcpy(dst.Use(uint64_t(i) * (count + gap), count, Access::WRITE), from, p.blockLen);
  }
  twin::Moved(uint64_t(p.blockCount) * p.blockLen);
}

// The contiguous forms move whole blocks of 32 bytes.
template <typename T>
void DataCopy(const LocalTensor<T> &dst, const GlobalTensor<T> &src, const uint32_t count) {
  twin::Instruction copy(twin::MTE2, "DataCopy");
  host::InUB(dst.space, "DataCopy");
  dst.Aligned();
  if (count == 0 || count * sizeof(T) % 32) twin::Fail("%zu bytes are not blocks of 32", count * sizeof(T));
  const T *from = src.Use(0, count, Access::READ);
  std::memcpy(dst.Use(0, count, Access::WRITE), from, count * sizeof(T));
  twin::Moved(count * sizeof(T));
}

template <typename T>
void DataCopy(const GlobalTensor<T> &dst, const LocalTensor<T> &src, const uint32_t count) {
  twin::Instruction copy(twin::MTE3, "DataCopy");
  host::InUB(src.space, "DataCopy");
  src.Aligned();
  if (count == 0 || count * sizeof(T) % 32) twin::Fail("%zu bytes are not blocks of 32", count * sizeof(T));
  const T *from = src.Use(0, count, Access::READ);
  std::memcpy(dst.Use(0, count, Access::WRITE), from, count * sizeof(T));
  twin::Moved(count * sizeof(T));
}

template <typename T>
void DataCopy(const LocalTensor<T> &dst, const GlobalTensor<T> &src, const Nd2NzParams &p) {
  static_assert(sizeof(T) == 2, "the kernels load 16-bit matrices");
  twin::Instruction copy(twin::MTE2, "DataCopy Nd2Nz");
  if (dst.space != twin::L1) twin::Fail("Nd2Nz fills L1, not %s", twin::SPACE_NAME[dst.space]);
  dst.Aligned();
  if (p.ndNum == 0 || p.ndNum > 4095 || p.nValue == 0 || p.nValue > 16384 || p.dValue == 0 || p.srcDValue == 0 ||
      p.dstNzC0Stride == 0 || p.dstNzC0Stride > 16384 || p.dstNzNStride == 0 || p.dstNzNStride > 16384)
    twin::Fail("a field of Nd2NzParams is out of range");
  for (uint32_t d = 0; d < p.ndNum; ++d)
    for (uint32_t n = 0; n < p.nValue; ++n) {
      const T *from = src.Use(uint64_t(d) * p.srcNdMatrixStride + uint64_t(n) * p.srcDValue, p.dValue, Access::READ);
      for (uint32_t c = 0; c < p.dValue; c += 16) {
        T *to =
            dst.Use(d * p.dstNzMatrixStride + (c / 16 * p.dstNzC0Stride + n * p.dstNzNStride) * 16, 16, Access::WRITE);
        for (uint32_t e = 0; e < 16; ++e) to[e] = c + e < p.dValue ? from[c + e] : T(0);
      }
    }
  twin::Moved(uint64_t(p.ndNum) * p.nValue * p.dValue * sizeof(T));
}

template <typename T>
void LoadData(const LocalTensor<T> &dst, const LocalTensor<T> &src, const LoadData2DParams &p) {
  static_assert(sizeof(T) == 2, "the kernels load 16-bit matrices");
  twin::Instruction load(twin::MTE1, "LoadData");
  if (src.space != twin::L1 || (dst.space != twin::L0A && dst.space != twin::L0B))
    twin::Fail("LoadData goes from L1 to L0A or L0B, not from %s to %s", twin::SPACE_NAME[src.space],
               twin::SPACE_NAME[dst.space]);
  dst.Aligned();
  src.Aligned();
  if (p.repeatTimes == 0) twin::Fail("repeatTimes is 0");
  twin::Worked(uint64_t(p.repeatTimes) * (dst.space == twin::L0A ? 2 : 4));  // 256 or 128 bytes a cycle
  for (uint32_t r = 0; r < p.repeatTimes; ++r) {
    const T *from = src.Use((p.startIndex + r * p.srcStride) * 256, 256, Access::COPY_RAW);
    T *to = dst.Use(r * (p.dstGap + 1) * 256, 256, Access::WRITE);
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 16; ++j) to[i * 16 + j] = p.ifTranspose ? from[j * 16 + i] : from[i * 16 + j];
  }
}

template <typename D, typename A, const FixpipeConfig &CONFIG>
void Fixpipe(const GlobalTensor<D> &dst, const LocalTensor<A> &src, const FixpipeParamsV220 &p) {
  static_assert(std::is_same_v<D, float> && std::is_same_v<A, float>, "the kernels store float");
  static_assert(CONFIG.format == CO2Layout::ROW_MAJOR, "the twin models row-major output");
  twin::Instruction fix(twin::FIX, "Fixpipe");
  if (src.space != twin::L0C) twin::Fail("Fixpipe drains L0C, not %s", twin::SPACE_NAME[src.space]);
  src.Aligned();
  if (p.nSize == 0 || p.nSize > 4095 || p.mSize == 0 || p.mSize > 8192 || p.ndNum != 1 || p.reluEn ||
      p.quantPre != QuantMode_t::NoQuant)
    twin::Fail("a field of FixpipeParamsV220 is out of range");
  const Access access = twin::now->atomicAdd ? Access::ATOMIC : Access::WRITE;
  const uint32_t panel = p.srcStride * 16;  // one column of fractals, 16 wide
  for (uint32_t n = 0; n < p.nSize; n += 16) src.Use(n / 16 * panel, p.mSize * 16, Access::READ);
  const A *from = reinterpret_cast<const A *>(twin::now->local[twin::L0C].bytes.data() + src.begin);
  for (uint32_t m = 0; m < p.mSize; ++m) {
    D *to = dst.Use(uint64_t(m) * p.dstStride, p.nSize, access);
    for (uint32_t n = 0; n < p.nSize; ++n) {
      const float value = from[n / 16 * panel + m * 16 + n % 16];
      to[n] = access == Access::ATOMIC ? to[n] + value : value;
    }
  }
  twin::Moved(uint64_t(p.mSize) * p.nSize * sizeof(D));
}

}  // namespace AscendC
