// What every tiling function needs: the processor it plans for, and errors. Plain C++, so it is tested without CANN.
#ifndef MINDSORA_PLAN_H
#define MINDSORA_PLAN_H

#include <algorithm>
#include <cstdint>
#include <string>

namespace mindsora {

struct Part {        // a processor, as the runtime describes it
    uint32_t cubes;  // cube cores in use; each has two vector cores
    uint32_t vectors;
    uint64_t ub = 192 * 1024 - 8448;  // bytes a kernel may use: printf and asserts keep 8 KB, the runtime 256 B
    uint64_t l1 = 512 * 1024 - 256;
    uint64_t l0ab = 64 * 1024;  // each of L0A and L0B
    uint64_t l0c = 128 * 1024;
};

// What a tiling function gives beside its struct. A non-empty `error` means that the shape cannot be served.
struct Plan {
    uint32_t blocks = 1;     // SetBlockDim
    uint64_t key = 0;        // SetTilingKey
    uint64_t workspace = 0;  // bytes, without the library's own
    bool together = false;   // the kernel uses SyncAll: SetScheduleMode(1), or cores of two streams wait for each other
    std::string error;
};

inline uint64_t CeilTo(uint64_t value, uint64_t unit)
{
    return (value + unit - 1) / unit * unit;
}

// R: rows of a sub-sequence, padding included.
inline uint64_t RowsOf(uint64_t tokens, uint64_t n)
{
    return CeilTo(tokens, n * n) / n;
}

inline std::string CheckSkip(uint64_t tokens, uint64_t n)
{
    if (n < 1 || n > 64) {
        return "sparse_n " + std::to_string(n) + " must be 1 to 64";
    }
    if (tokens < 1 || tokens > (1u << 24)) {
        return std::to_string(tokens) + " tokens; 1 to 16777216 are supported";
    }
    return "";
}

}  // namespace mindsora

#endif
