// Adaptive layer norm and gated residual. Vector cores only.
//
//   h = x + gate * branch                     if gated, else h = x
//   y = norm(h) * (1 + scale) + shift         if normed; norm: minus mean, over standard deviation, weight, bias
//
//   x, branch (B, S, C) half or bfloat16   shift, scale, gate (B, C) float   weight, bias (C) float   eps (1) float
//   ->   h, y (B, S, C)
//
// Everything between the casts is float. weight, bias, shift and scale of a batch item are folded into one factor and
// one offset per channel, kept in UB with the gate while its rows go by, two tiles in flight in each direction.
#include "ada_norm_modulate_tiling.h"
#include "skiparse_rows.h"

namespace mindsora {

template <typename T>
class AdaNormModulate {
public:
    __aicore__ inline void Init(GM_ADDR x, GM_ADDR branch, GM_ADDR gate, GM_ADDR shift, GM_ADDR scale, GM_ADDR weight,
                                GM_ADDR bias, GM_ADDR eps, GM_ADDR h, GM_ADDR y, const AdaNormModulateTiling &tiling,
                                AscendC::TPipe *pipe)
    {
        t_ = tiling;
        full_ = t_.channels / LANES;
        tail_ = t_.channels % LANES;
        const uint64_t tokens = static_cast<uint64_t>(t_.batch) * t_.rows * t_.channels;
        const uint64_t items = static_cast<uint64_t>(t_.batch) * t_.channels;
        x_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(x), tokens);
        branch_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(branch), tokens);
        h_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(h), tokens);
        y_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(y), tokens);
        gate_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(gate), items);
        shift_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(shift), items);
        scale_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(scale), items);
        weight_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(weight), t_.channels);
        bias_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(bias), t_.channels);
        if (t_.normed != 0) {
            AscendC::GlobalTensor<float> number;
            number.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(eps), 1);
            eps_ = number.GetValue(0);
        }
        const uint32_t tile = t_.tileRows * t_.channels;
        pipe->InitBuffer(xIn_, 2, tile * sizeof(T));
        if (t_.normed != 0) {
            pipe->InitBuffer(yOut_, 2, tile * sizeof(T));
        }
        if (t_.gated != 0) {
            pipe->InitBuffer(branchIn_, 2, tile * sizeof(T));
            pipe->InitBuffer(hOut_, 2, tile * sizeof(T));
            pipe->InitBuffer(gateRow_, t_.channels * sizeof(float));
        }
        pipe->InitBuffer(rowIn_, 1, t_.channels * sizeof(float));
        pipe->InitBuffer(value_, tile * sizeof(float));
        pipe->InitBuffer(work_, tile * sizeof(float));
        pipe->InitBuffer(factorRow_, t_.channels * sizeof(float));
        pipe->InitBuffer(offsetRow_, t_.channels * sizeof(float));
        pipe->InitBuffer(partial_, t_.tileRows * LANES * sizeof(float));
        pipe->InitBuffer(stat_, 8 * sizeof(float));
        pipe->InitBuffer(ones_, 8 * sizeof(float));
        pipe->InitBuffer(spread_, 64 * sizeof(float));
    }

    __aicore__ inline void Process()
    {
        AscendC::Duplicate(ones_.Get<float>(), 1.0f, 8);
        const uint32_t core = AscendC::GetBlockIdx(), cores = AscendC::GetBlockNum();
        const uint32_t end = ShareStart(t_.tiles, core + 1, cores);
        uint32_t loaded = t_.batch;  // none
        for (uint32_t tile = ShareStart(t_.tiles, core, cores); tile < end; ++tile) {
            const uint32_t item = tile / t_.itemTiles, row = tile % t_.itemTiles * t_.tileRows;
            if (item != loaded) {
                LoadModulation(item);
                loaded = item;
            }
            const uint32_t rows = Min(t_.tileRows, t_.rows - row);
            Tile((static_cast<uint64_t>(item) * t_.rows + row) * t_.channels, rows);
        }
    }

private:
    static constexpr uint32_t LANES = 64;  // floats of one vector instruction

    // One row of float into `to`.
    __aicore__ inline void LoadRow(const AscendC::LocalTensor<float> &to, const AscendC::GlobalTensor<float> &from)
    {
        AscendC::LocalTensor<float> row = rowIn_.AllocTensor<float>();
        AscendC::DataCopy(row, from, t_.channels);
        rowIn_.EnQue(row);
        row = rowIn_.DeQue<float>();
        AscendC::Adds(to, row, 0.0f, static_cast<int32_t>(t_.channels));
        AscendC::PipeBarrier<PIPE_V>();
        rowIn_.FreeTensor(row);
    }

    // factor = weight * (1 + scale), offset = bias * (1 + scale) + shift
    __aicore__ inline void LoadModulation(uint32_t item)
    {
        const int32_t count = t_.channels;
        const uint64_t at = static_cast<uint64_t>(item) * t_.channels;
        const AscendC::LocalTensor<float> factor = factorRow_.Get<float>(), offset = offsetRow_.Get<float>();
        const AscendC::LocalTensor<float> work = work_.Get<float>();
        AscendC::PipeBarrier<PIPE_V>();
        if (t_.gated != 0) {
            LoadRow(gateRow_.Get<float>(), gate_[at]);
        }
        if (t_.normed == 0) {
            return;
        }
        LoadRow(factor, scale_[at]);
        AscendC::Adds(factor, factor, 1.0f, count);
        AscendC::PipeBarrier<PIPE_V>();
        LoadRow(offset, bias_);
        AscendC::Mul(offset, offset, factor, count);
        AscendC::PipeBarrier<PIPE_V>();
        LoadRow(work, shift_[at]);
        AscendC::Add(offset, offset, work, count);
        AscendC::PipeBarrier<PIPE_V>();
        LoadRow(work, weight_);
        AscendC::Mul(factor, factor, work, count);
        AscendC::PipeBarrier<PIPE_V>();
    }

    template <typename Queue>
    __aicore__ inline void Load(Queue &queue, const AscendC::GlobalTensor<T> &from, uint32_t count)
    {
        AscendC::LocalTensor<T> part = queue.template AllocTensor<T>();
        AscendC::DataCopy(part, from, count);
        queue.EnQue(part);
    }

    template <typename Queue>
    __aicore__ inline void Store(Queue &queue, const AscendC::GlobalTensor<T> &to,
                                 const AscendC::LocalTensor<float> &from, uint32_t count)
    {
        AscendC::LocalTensor<T> part = queue.template AllocTensor<T>();
        AscendC::Cast(part, from, AscendC::RoundMode::CAST_RINT, count);
        queue.EnQue(part);
        part = queue.template DeQue<T>();
        AscendC::DataCopy(to, part, count);
        queue.FreeTensor(part);
    }

    __aicore__ inline void Tile(uint64_t at, uint32_t rows)
    {
        const uint32_t count = rows * t_.channels;
        const AscendC::LocalTensor<float> value = value_.Get<float>(), work = work_.Get<float>();
        Load(xIn_, x_[at], count);
        if (t_.gated != 0) {
            Load(branchIn_, branch_[at], count);
        }
        AscendC::LocalTensor<T> x = xIn_.template DeQue<T>();
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Cast(value, x, AscendC::RoundMode::CAST_NONE, count);
        xIn_.FreeTensor(x);
        if (t_.gated != 0) {
            AscendC::LocalTensor<T> branch = branchIn_.template DeQue<T>();
            AscendC::Cast(work, branch, AscendC::RoundMode::CAST_NONE, count);
            branchIn_.FreeTensor(branch);
            AscendC::PipeBarrier<PIPE_V>();
            const AscendC::LocalTensor<float> gate = gateRow_.Get<float>();
            for (uint32_t r = 0; r < rows; ++r) {
                AscendC::Mul(work[r * t_.channels], work[r * t_.channels], gate, static_cast<int32_t>(t_.channels));
            }
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Add(value, value, work, static_cast<int32_t>(count));
            AscendC::PipeBarrier<PIPE_V>();
            Store(hOut_, h_[at], value, count);
        }
        AscendC::PipeBarrier<PIPE_V>();
        if (t_.normed != 0) {
            Normalise(value, rows);
            Store(yOut_, y_[at], value, count);
        }
    }

    __aicore__ inline void Normalise(const AscendC::LocalTensor<float> &value, uint32_t rows)
    {
        const uint32_t count = rows * t_.channels;
        const AscendC::LocalTensor<float> work = work_.Get<float>();
        // Two passes: the sum of squares of x would cancel against the square of its mean.
        const AscendC::LocalTensor<float> stat = stat_.Get<float>(), spread = spread_.Get<float>();
        RowMeans(value, rows, true);
        AscendC::Brcb(spread, stat, 1, AscendC::BrcbRepeatParams(1, 8));
        AscendC::PipeBarrier<PIPE_V>();
        PerRow<false>(value, rows);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Mul(work, value, value, static_cast<int32_t>(count));
        AscendC::PipeBarrier<PIPE_V>();
        RowMeans(work, rows, false);
        AscendC::Adds(stat, stat, eps_, 8);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Sqrt(stat, stat, 8);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Div(stat, ones_.Get<float>(), stat, 8);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Brcb(spread, stat, 1, AscendC::BrcbRepeatParams(1, 8));
        AscendC::PipeBarrier<PIPE_V>();
        PerRow<true>(value, rows);
        AscendC::PipeBarrier<PIPE_V>();

        const AscendC::LocalTensor<float> factor = factorRow_.Get<float>(), offset = offsetRow_.Get<float>();
        for (uint32_t r = 0; r < rows; ++r) {
            AscendC::Mul(value[r * t_.channels], value[r * t_.channels], factor, static_cast<int32_t>(t_.channels));
        }
        AscendC::PipeBarrier<PIPE_V>();
        for (uint32_t r = 0; r < rows; ++r) {
            AscendC::Add(value[r * t_.channels], value[r * t_.channels], offset, static_cast<int32_t>(t_.channels));
        }
        AscendC::PipeBarrier<PIPE_V>();
    }

    // stat[r] = mean of row r, in two steps: 64 lanes to one, then the partial sums. `keep`: the source is read again,
    // so channels behind the last whole 64 are folded in a copy of it.
    __aicore__ inline void RowMeans(AscendC::LocalTensor<float> source, uint32_t rows, bool keep)
    {
        const AscendC::LocalTensor<float> partial = partial_.Get<float>(), stat = stat_.Get<float>();
        const uint32_t parts = Max(full_, 1), lanes = full_ > 0 ? LANES : tail_;
        if (full_ > 0 && tail_ > 0) {
            if (keep) {
                AscendC::Adds(work_.Get<float>(), source, 0.0f, static_cast<int32_t>(rows * t_.channels));
                AscendC::PipeBarrier<PIPE_V>();
                source = work_.Get<float>();
            }
            for (uint32_t r = 0; r < rows; ++r) {
                const AscendC::LocalTensor<float> row = source[r * t_.channels];
                AscendC::Add(row, row, row[full_ * LANES], static_cast<int32_t>(tail_));
            }
            AscendC::PipeBarrier<PIPE_V>();
        }
        for (uint32_t r = 0; r < rows; ++r) {
            AscendC::WholeReduceSum(partial[r * LANES], source[r * t_.channels], static_cast<int32_t>(lanes),
                                    static_cast<int32_t>(parts), 1, 1, 8);
        }
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::WholeReduceSum(stat, partial, static_cast<int32_t>(parts), static_cast<int32_t>(rows), 1, 1, 8);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Muls(stat, stat, 1.0f / static_cast<float>(t_.channels), 8);
        AscendC::PipeBarrier<PIPE_V>();
    }

    // Each row minus, or times, its number in `spread`.
    template <bool TIMES>
    __aicore__ inline void PerRow(const AscendC::LocalTensor<float> &value, uint32_t rows)
    {
        const AscendC::LocalTensor<float> spread = spread_.Get<float>();
        const AscendC::BinaryRepeatParams params(1, 1, 0, 8, 8, 0);
        for (uint32_t r = 0; r < rows; ++r) {
            const AscendC::LocalTensor<float> row = value[r * t_.channels];
            if (full_ > 0) {
                if constexpr (TIMES) {
                    AscendC::Mul(row, row, spread[r * 8], LANES, full_, params);
                } else {
                    AscendC::Sub(row, row, spread[r * 8], LANES, full_, params);
                }
            }
            if (tail_ > 0) {
                const AscendC::LocalTensor<float> rest = row[full_ * LANES];
                if constexpr (TIMES) {
                    AscendC::Mul(rest, rest, spread[r * 8], tail_, 1, params);
                } else {
                    AscendC::Sub(rest, rest, spread[r * 8], tail_, 1, params);
                }
            }
        }
    }

    AdaNormModulateTiling t_;
    uint32_t full_, tail_;
    float eps_;
    AscendC::GlobalTensor<T> x_, branch_, h_, y_;
    AscendC::GlobalTensor<float> gate_, shift_, scale_, weight_, bias_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> xIn_, branchIn_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> rowIn_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> yOut_, hOut_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> value_, work_, factorRow_, offsetRow_, gateRow_, partial_, stat_, ones_,
        spread_;
};

template <typename T>
__aicore__ inline void RunAdaNormModulate(GM_ADDR x, GM_ADDR branch, GM_ADDR gate, GM_ADDR shift, GM_ADDR scale,
                                          GM_ADDR weight, GM_ADDR bias, GM_ADDR eps, GM_ADDR h, GM_ADDR y,
                                          const AdaNormModulateTiling &tiling)
{
    AscendC::TPipe pipe;
    AdaNormModulate<T> kernel;
    kernel.Init(x, branch, gate, shift, scale, weight, bias, eps, h, y, tiling, &pipe);
    kernel.Process();
}

}  // namespace mindsora

// Tiling key: 0 half, 1 bfloat16.
extern "C" __global__ __aicore__ void ada_norm_modulate(GM_ADDR x, GM_ADDR branch, GM_ADDR gate, GM_ADDR shift,
                                                        GM_ADDR scale, GM_ADDR weight, GM_ADDR bias, GM_ADDR eps,
                                                        GM_ADDR h, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    REGISTER_TILING_DEFAULT(AdaNormModulateTiling);
    GET_TILING_DATA_WITH_STRUCT(AdaNormModulateTiling, data, tiling);
    if (TILING_KEY_IS(0)) {
        mindsora::RunAdaNormModulate<half>(x, branch, gate, shift, scale, weight, bias, eps, h, y, data);
    } else if (TILING_KEY_IS(1)) {
        mindsora::RunAdaNormModulate<bfloat16_t>(x, branch, gate, shift, scale, weight, bias, eps, h, y, data);
    }
}
