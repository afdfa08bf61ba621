// The part of the Ascend C API that MindSora's kernels use, for g++ on a machine without CANN.
//
// Names and parameter order follow the documented API (CANN 8.1 subset); the behaviour is our own model of it, built on
// machine.h: every call checks its operands and tells the machine what it reads and writes, on which pipe.
#pragma once

#include "compute.h"
#include "half.h"
#include "machine.h"
#include "movement.h"
#include "tensors.h"

#define __aicore__
#define __global__
#define GM_ADDR uint8_t *
#define ASCEND_IS_AIC (::twin::now->kind == ::twin::Kind::CUBE)
#define ASCEND_IS_AIV (::twin::now->kind == ::twin::Kind::VECTOR)

// What the operator build generates around a kernel.
#define KERNEL_TASK_TYPE_DEFAULT(type) ::twin::CheckTaskType(type)
#define REGISTER_TILING_DEFAULT(type) static_assert(std::is_trivially_copyable_v<type>, "tiling data is plain data")
#define GET_TILING_DATA_WITH_STRUCT(type, name, address) const type name = *reinterpret_cast<const type *>(address)
#define TILING_KEY_IS(key) (::twin::launch.tilingKey == (key))

constexpr int KERNEL_TYPE_AIV_ONLY = 1, KERNEL_TYPE_MIX_AIC_1_2 = 2;

namespace twin {
inline void CheckTaskType(int type) {
  if ((type == KERNEL_TYPE_MIX_AIC_1_2) != launch.mixed) Fail("the kernel's task type does not match its launch");
}
}  // namespace twin
