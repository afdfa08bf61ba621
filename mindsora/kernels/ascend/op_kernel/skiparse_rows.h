// Which tokens are the rows of a skiparse sub-sequence, and copies between tokens in global memory and rows in UB.
//
//   single skip   row r of group j is token r * n + j
//   group skip    row r of group j is token r / n * n^2 + j * n + r % n: runs of n tokens, one run every n^2
//
// Tokens at or behind `tokens` are padding. They are the last rows of a group, so a group is described by how many of
// its rows are real.
#ifndef MINDSORA_SKIPARSE_ROWS_H
#define MINDSORA_SKIPARSE_ROWS_H

#include "kernel_operator.h"

namespace mindsora {

__aicore__ inline uint32_t Min(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}
__aicore__ inline uint32_t Max(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}
__aicore__ inline uint32_t Minus(uint32_t a, uint32_t b)
{
    return a > b ? a - b : 0;
}  // not below zero
__aicore__ inline uint32_t CeilDiv(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}
__aicore__ inline uint32_t RoundUp(uint32_t a, uint32_t b)
{
    return CeilDiv(a, b) * b;
}

// `blocks` blocks of `blockRows` neighbouring tokens, one block every `stride` tokens: what one strided copy can move.
struct Run {
    uint32_t row, token, blocks, blockRows, stride;
    __aicore__ inline uint32_t Rows() const { return blocks * blockRows; }
};

class GroupRows {
public:
    __aicore__ inline GroupRows() {}
    __aicore__ inline GroupRows(uint32_t tokens, uint32_t n, bool group) : tokens_(tokens), n_(n), group_(group) {}

    __aicore__ inline uint32_t Real(uint32_t j) const
    {
        if (!group_) {
            return CeilDiv(Minus(tokens_, j), n_);
        }
        return tokens_ / (n_ * n_) * n_ + Min(Minus(tokens_ % (n_ * n_), j * n_), n_);
    }

    // The longest run that starts at `row` and ends before `end`. Call again with row + run.Rows().
    __aicore__ inline Run From(uint32_t j, uint32_t row, uint32_t end) const
    {
        Run run;
        run.row = row;
        if (n_ == 1) {
            run.token = row;
            run.blocks = 1;
            run.blockRows = end - row;
            run.stride = 1;
        } else if (!group_) {
            run.token = row * n_ + j;
            run.blocks = end - row;
            run.blockRows = 1;
            run.stride = n_;
        } else {
            run.token = row / n_ * n_ * n_ + j * n_ + row % n_;
            run.stride = n_ * n_;
            if (row % n_ != 0 || end - row < n_) {  // part of a block
                run.blocks = 1;
                run.blockRows = Min(n_ - row % n_, end - row);
            } else {
                run.blocks = (end - row) / n_;
                run.blockRows = n_;
            }
        }
        return run;
    }

private:
    uint32_t tokens_, n_;
    bool group_;
};

// Parameters of a strided copy, in bytes on the global side; the rows lie close together in UB.
__aicore__ inline AscendC::DataCopyExtParams Strided(uint32_t blocks, uint32_t bytes, uint32_t sourceGap,
                                                     uint32_t targetGap)
{
    AscendC::DataCopyExtParams params;
    params.blockCount = blocks;
    params.blockLen = bytes;
    params.srcStride = sourceGap;
    params.dstStride = targetGap;
    params.rsv = 0;
    return params;
}

// Copies of rows [row, end) of group j. `width` elements of every row are moved, a multiple of 32 bytes; in global
// memory tokens are `tokenStride` elements apart, `global` being the place of token 0.
template <typename T>
__aicore__ inline void LoadRows(const AscendC::LocalTensor<T> &local, const AscendC::GlobalTensor<T> &global,
                                const GroupRows &rows, uint32_t j, uint32_t row, uint32_t end, uint32_t width,
                                uint32_t tokenStride)
{
    AscendC::DataCopyPadExtParams<T> noPad;
    noPad.isPad = false;
    const uint32_t first = row;
    while (row < end) {
        const Run run = rows.From(j, row, end);
        const AscendC::LocalTensor<T> to = local[(row - first) * width];
        if (width == tokenStride || run.blockRows == 1) {
            const uint32_t length = run.blockRows * width;
            AscendC::DataCopyPad(
                to, global[static_cast<uint64_t>(run.token) * tokenStride],
                Strided(run.blocks, length * sizeof(T), (run.stride * tokenStride - length) * sizeof(T), 0), noPad);
        } else {  // a slice of each token: two strides, so one copy per block
            for (uint32_t b = 0; b < run.blocks; ++b) {
                AscendC::DataCopyPad(to[b * run.blockRows * width],
                                     global[static_cast<uint64_t>(run.token + b * run.stride) * tokenStride],
                                     Strided(run.blockRows, width * sizeof(T), (tokenStride - width) * sizeof(T), 0),
                                     noPad);
            }
        }
        row += run.Rows();
    }
}

template <typename T>
__aicore__ inline void StoreRows(const AscendC::GlobalTensor<T> &global, const AscendC::LocalTensor<T> &local,
                                 const GroupRows &rows, uint32_t j, uint32_t row, uint32_t end, uint32_t width,
                                 uint32_t tokenStride)
{
    const uint32_t first = row;
    while (row < end) {
        const Run run = rows.From(j, row, end);
        const AscendC::LocalTensor<T> from = local[(row - first) * width];
        if (width == tokenStride || run.blockRows == 1) {
            const uint32_t length = run.blockRows * width;
            AscendC::DataCopyPad(
                global[static_cast<uint64_t>(run.token) * tokenStride], from,
                Strided(run.blocks, length * sizeof(T), 0, (run.stride * tokenStride - length) * sizeof(T)));
        } else {
            for (uint32_t b = 0; b < run.blocks; ++b) {
                AscendC::DataCopyPad(global[static_cast<uint64_t>(run.token + b * run.stride) * tokenStride],
                                     from[b * run.blockRows * width],
                                     Strided(run.blockRows, width * sizeof(T), 0, (tokenStride - width) * sizeof(T)));
            }
        }
        row += run.Rows();
    }
}

// What the vector unit has written into a TBuf so far may be stored.
__aicore__ inline void VectorBeforeStore(AscendC::TPipe *pipe)
{
    const int32_t event = pipe->FetchEventID(AscendC::HardEvent::V_MTE3);
    AscendC::SetFlag<AscendC::HardEvent::V_MTE3>(event);
    AscendC::WaitFlag<AscendC::HardEvent::V_MTE3>(event);
}

// Share [0, total) out over `parts`: part p has [p * total / parts, (p + 1) * total / parts).
__aicore__ inline uint32_t ShareStart(uint32_t total, uint32_t part, uint32_t parts)
{
    return static_cast<uint32_t>(static_cast<uint64_t>(total) * part / parts);
}

}  // namespace mindsora

#endif
