// Skiparse permutation: (B, N, C) -> (B, n, R, C) and back. Vector cores only, no arithmetic.
//
// A tile of rows of one group is gathered by strided copies, and stored in one piece; the inverse swaps the two. Rows
// that are padding are stored as zeros and never read back. Data moves as 16-bit words whatever its type.
#include "skiparse_permute_tiling.h"
#include "skiparse_rows.h"

namespace mindsora {

constexpr uint32_t ZERO_BYTES = 8192;

class SkiparsePermute {
public:
    __aicore__ inline void Init(GM_ADDR x, GM_ADDR y, const SkiparsePermuteTiling &tiling, AscendC::TPipe *pipe)
    {
        t_ = tiling;
        pipe_ = pipe;
        rows_ = GroupRows(t_.tokens, t_.n, t_.group != 0);
        tokens_.SetGlobalBuffer(reinterpret_cast<__gm__ int16_t *>(t_.inverse != 0 ? y : x),
                                static_cast<uint64_t>(t_.batch) * t_.tokens * t_.width);
        grouped_.SetGlobalBuffer(reinterpret_cast<__gm__ int16_t *>(t_.inverse != 0 ? x : y),
                                 static_cast<uint64_t>(t_.batch) * t_.n * t_.rows * t_.width);
        pipe->InitBuffer(queue_, 2, t_.tileRows * t_.width * sizeof(int16_t));
        pipe->InitBuffer(zeros_, ZERO_BYTES);
    }

    __aicore__ inline void Process()
    {
        if (t_.inverse == 0) {
            const AscendC::LocalTensor<int16_t> zeros = zeros_.Get<int16_t>();
            AscendC::Duplicate(zeros, static_cast<int16_t>(0), static_cast<int32_t>(ZERO_BYTES / sizeof(int16_t)));
            VectorBeforeStore(pipe_);
        }
        const uint32_t core = AscendC::GetBlockIdx(), cores = AscendC::GetBlockNum();
        const uint32_t end = ShareStart(t_.tiles, core + 1, cores);
        for (uint32_t tile = ShareStart(t_.tiles, core, cores); tile < end; ++tile) {
            Move(tile / (t_.n * t_.groupTiles), tile / t_.groupTiles % t_.n, tile % t_.groupTiles * t_.tileRows);
        }
    }

private:
    __aicore__ inline void Move(uint32_t b, uint32_t j, uint32_t row)
    {
        const uint32_t end = Min(row + t_.tileRows, t_.rows), realEnd = Min(end, Max(rows_.Real(j), row));
        const uint64_t place = (static_cast<uint64_t>(b) * t_.n + j) * t_.rows;
        const AscendC::GlobalTensor<int16_t> item = tokens_[static_cast<uint64_t>(b) * t_.tokens * t_.width];
        if (realEnd > row) {
            const uint32_t bytes = (realEnd - row) * t_.width * sizeof(int16_t);
            AscendC::DataCopyPadExtParams<int16_t> noPad;
            noPad.isPad = false;
            AscendC::LocalTensor<int16_t> part = queue_.AllocTensor<int16_t>();
            if (t_.inverse == 0) {
                LoadRows(part, item, rows_, j, row, realEnd, t_.width, t_.width);
            } else {
                AscendC::DataCopyPad(part, grouped_[(place + row) * t_.width], Strided(1, bytes, 0, 0), noPad);
            }
            queue_.EnQue(part);
            part = queue_.DeQue<int16_t>();
            if (t_.inverse == 0) {
                AscendC::DataCopyPad(grouped_[(place + row) * t_.width], part, Strided(1, bytes, 0, 0));
            } else {
                StoreRows(item, part, rows_, j, row, realEnd, t_.width, t_.width);
            }
            queue_.FreeTensor(part);
        }
        if (t_.inverse == 0) {
            StoreZeros((place + realEnd) * t_.width, (end - realEnd) * t_.width);
        }
    }

    __aicore__ inline void StoreZeros(uint64_t place, uint32_t count)
    {
        const AscendC::LocalTensor<int16_t> zeros = zeros_.Get<int16_t>();
        while (count > 0) {
            const uint32_t part = Min(count, ZERO_BYTES / sizeof(int16_t));
            AscendC::DataCopyPad(grouped_[place], zeros, Strided(1, part * sizeof(int16_t), 0, 0));
            place += part;
            count -= part;
        }
    }

    SkiparsePermuteTiling t_;
    AscendC::TPipe *pipe_;
    GroupRows rows_;
    AscendC::GlobalTensor<int16_t> tokens_, grouped_;
    AscendC::TQueBind<AscendC::TPosition::VECIN, AscendC::TPosition::VECOUT, 1> queue_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> zeros_;
};

}  // namespace mindsora

extern "C" __global__ __aicore__ void skiparse_permute(GM_ADDR x, GM_ADDR how, GM_ADDR y, GM_ADDR workspace,
                                                       GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    REGISTER_TILING_DEFAULT(SkiparsePermuteTiling);
    GET_TILING_DATA_WITH_STRUCT(SkiparsePermuteTiling, data, tiling);
    AscendC::TPipe pipe;
    mindsora::SkiparsePermute kernel;
    kernel.Init(x, y, data, &pipe);
    kernel.Process();
}
