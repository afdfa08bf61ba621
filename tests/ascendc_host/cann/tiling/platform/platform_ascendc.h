#pragma once

#include <cstdint>

namespace platform_ascendc {

class PlatformAscendC {  // a 910B2
 public:
  explicit PlatformAscendC(const void *) {}
  uint32_t GetCoreNumAic() const { return 24; }
  uint32_t GetCoreNumAiv() const { return 48; }
  uint32_t GetLibApiWorkSpaceSize() const { return 16 * 1024 * 1024; }
};

}  // namespace platform_ascendc
