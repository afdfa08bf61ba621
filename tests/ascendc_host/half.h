// The two 16-bit floating types of the device, as plain bits with conversions that round to nearest even.
#pragma once

#include <cstdint>
#include <cstring>

namespace twin {

inline uint32_t BitsOf(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float FloatOf(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float HalfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000) << 16, magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00) return FloatOf(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);  // infinity, NaN
  if (magnitude >= 0x400) return FloatOf(sign | ((magnitude << 13) + (112u << 23)));
  const float value = magnitude * 0x1p-24f;  // subnormal
  return sign ? -value : value;
}

inline uint16_t FloatToHalf(float value) {
  const uint32_t bits = BitsOf(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // 65520 and above round to infinity
  if (magnitude < 0x38800000) {  // subnormal: adding 0.5 leaves the rounded result in the low mantissa bits
    return uint16_t(sign | (BitsOf(FloatOf(magnitude) + 0.5f) - BitsOf(0.5f)));
  }
  return uint16_t(sign | (((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13) - (112u << 10)));
}

inline float BrainToFloat(uint16_t b) { return FloatOf(uint32_t(b) << 16); }

inline uint16_t FloatToBrain(float value) {
  const uint32_t bits = BitsOf(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace twin

struct half {
  uint16_t bits;
  half() = default;
  half(float value) : bits(twin::FloatToHalf(value)) {}
  operator float() const { return twin::HalfToFloat(bits); }
};

struct bfloat16_t {
  uint16_t bits;
  bfloat16_t() = default;
  bfloat16_t(float value) : bits(twin::FloatToBrain(value)) {}
  operator float() const { return twin::BrainToFloat(bits); }
};
