// Norm of every head, then RoPE over (t, y, x), stored as the sub-sequences of skiparse attention. Vector cores only.
//
//   x (B, N, H, D), text (B, L, H, D) half or bfloat16   weight, bias (2, D) float: visual, text
//   cos, sin (N, D) float, the sine of every first half negated   settings (5) int32, see below
//   ->   y (B, n, R + L, H, D)
//
// n = 1 without text is the plain layout. Padding rows are zero; the text rows have no position and stand behind each
// sub-sequence. A tile is some tokens with all their heads, one row of D floats per head: statistics are taken by
// reductions over rows, and what a token shares among its heads (angles) or a head among all tokens (weight) is an
// operand with repeat stride 0. Between the casts everything is float.
//
// RoPE pairs channel k of the first half of an axis' slice with channel k of the second half. Where the halves are
// whole blocks of 8 floats the exchange is in the operands' offsets (HALVES_ALIGNED), a block of eight heads at a time,
// so that all 64 lanes work; otherwise Gather does it.
#include "qk_norm_rope_tiling.h"
#include "skiparse_rows.h"

namespace mindsora {

// What the operator is told as numbers: norm (0 none, 1 root mean square, 2 layer norm), the channels of a head that t, y
// and x rotate, and the bits of the float eps.
struct QkNormRopeSettings {
    uint32_t norm, split[3];
    float eps;

    __aicore__ inline void Read(GM_ADDR address)
    {
        AscendC::GlobalTensor<int32_t> numbers;
        numbers.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t *>(address), 5);
        norm = numbers.GetValue(0);
        for (uint32_t axis = 0; axis < 3; ++axis) {
            split[axis] = numbers.GetValue(1 + axis);
        }
        const int32_t bits = numbers.GetValue(4);
        eps = *reinterpret_cast<const float *>(&bits);
    }

    __aicore__ inline bool HalvesAligned() const
    {
        return split[0] % 16 == 0 && split[1] % 16 == 0 && split[2] % 16 == 0;
    }
};

template <typename T, bool HALVES_ALIGNED>
class QkNormRope {
public:
    __aicore__ inline void Init(GM_ADDR x, GM_ADDR text, GM_ADDR weight, GM_ADDR bias, GM_ADDR cos, GM_ADDR sin,
                                GM_ADDR y, const QkNormRopeSettings &settings, const QkNormRopeTiling &tiling,
                                AscendC::TPipe *pipe)
    {
        t_ = tiling;
        settings_ = settings;
        pipe_ = pipe;
        rows_ = GroupRows(t_.tokens, t_.n, t_.group != 0);
        width_ = t_.heads * t_.headDim;
        blocks_ = t_.headDim / 8;
        const uint64_t all = t_.batch;
        x_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(x), all * t_.tokens * width_);
        text_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(text), all * t_.textLen * width_);
        y_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(y), all * t_.n * (t_.rows + t_.textLen) * width_);
        weight_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(weight), 2 * t_.headDim);
        bias_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(bias), 2 * t_.headDim);
        cos_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(cos), static_cast<uint64_t>(t_.tokens) * t_.headDim);
        sin_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(sin), static_cast<uint64_t>(t_.tokens) * t_.headDim);
        const uint32_t tile = t_.tileRows * width_, heads = RoundUp(t_.tileRows * t_.heads, 8);
        pipe->InitBuffer(in_, 2, tile * sizeof(T));
        pipe->InitBuffer(out_, 2, tile * sizeof(T));
        pipe->InitBuffer(value_, tile * sizeof(float));
        pipe->InitBuffer(work_, tile * sizeof(float));
        pipe->InitBuffer(zeros_, t_.tileRows * width_ * sizeof(T));
        if (t_.learnt != 0) {
            pipe->InitBuffer(learnt_, 1, 4 * t_.headDim * sizeof(float));
        }
        if (settings_.norm != 0) {
            pipe->InitBuffer(stat_, heads * sizeof(float));
            pipe->InitBuffer(ones_, heads * sizeof(float));
            pipe->InitBuffer(spread_, heads * 8 * sizeof(float));
        }
        if (t_.rope != 0) {
            pipe->InitBuffer(angles_, 2, 2 * t_.tileRows * t_.headDim * sizeof(float));
            if constexpr (!HALVES_ALIGNED) {
                pipe->InitBuffer(offsets_, width_ * sizeof(int32_t));
            }
        }
    }

    __aicore__ inline void Process()
    {
        AscendC::LocalTensor<float> learnt;
        if (t_.learnt != 0) {
            learnt = learnt_.template AllocTensor<float>();
            AscendC::DataCopy(learnt, weight_, 2 * t_.headDim);
            AscendC::DataCopy(learnt[2 * t_.headDim], bias_, 2 * t_.headDim);
            learnt_.EnQue(learnt);
            learnt = learnt_.template DeQue<float>();
        }
        if (settings_.norm != 0) {
            AscendC::Duplicate(ones_.Get<float>(), 1.0f, static_cast<int32_t>(RoundUp(t_.tileRows * t_.heads, 8)));
        }
        AscendC::Duplicate(zeros_.Get<T>().template ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
                           static_cast<int32_t>(t_.tileRows * width_));
        VectorBeforeStore(pipe_);
        if constexpr (!HALVES_ALIGNED) {
            MakeOffsets();
        }
        AscendC::PipeBarrier<PIPE_V>();

        const uint32_t core = AscendC::GetBlockIdx(), cores = AscendC::GetBlockNum();
        const uint32_t end = ShareStart(t_.tiles, core + 1, cores), visual = t_.batch * t_.n * t_.groupTiles;
        for (uint32_t tile = ShareStart(t_.tiles, core, cores); tile < end; ++tile) {
            if (tile < visual) {
                VisualTile(tile / (t_.n * t_.groupTiles), tile / t_.groupTiles % t_.n,
                           tile % t_.groupTiles * t_.tileRows, learnt);
            } else {
                TextTile((tile - visual) / t_.textTiles, (tile - visual) % t_.textTiles * t_.tileRows, learnt);
            }
        }
        if (t_.learnt != 0) {
            learnt_.FreeTensor(learnt);
        }
    }

private:
    static constexpr uint32_t LANES = 64;

    __aicore__ inline uint64_t Place(uint32_t b, uint32_t j, uint32_t row) const
    {
        return ((static_cast<uint64_t>(b) * t_.n + j) * (t_.rows + t_.textLen) + row) * width_;
    }

    __aicore__ inline void VisualTile(uint32_t b, uint32_t j, uint32_t row, const AscendC::LocalTensor<float> &learnt)
    {
        const uint32_t end = Min(row + t_.tileRows, t_.rows), realEnd = Min(end, Max(rows_.Real(j), row));
        const uint32_t count = realEnd - row;
        if (count > 0) {
            AscendC::LocalTensor<T> in = in_.template AllocTensor<T>();
            LoadRows(in, x_[static_cast<uint64_t>(b) * t_.tokens * width_], rows_, j, row, realEnd, width_, width_);
            in_.EnQue(in);
            AscendC::LocalTensor<float> angles;
            if (t_.rope != 0) {
                angles = angles_.template AllocTensor<float>();
                LoadRows(angles, cos_, rows_, j, row, realEnd, t_.headDim, t_.headDim);
                LoadRows(angles[t_.tileRows * t_.headDim], sin_, rows_, j, row, realEnd, t_.headDim, t_.headDim);
                angles_.EnQue(angles);
            }
            Widen(count);
            Normalise(count, learnt, 0);
            if (t_.rope != 0) {
                angles = angles_.template DeQue<float>();
                Rotate(count, angles, angles[t_.tileRows * t_.headDim]);
                angles_.FreeTensor(angles);
            }
            AscendC::LocalTensor<T> out = Narrow(count);
            AscendC::DataCopy(y_[Place(b, j, row)], out, count * width_);
            out_.FreeTensor(out);
        }
        if (realEnd < end) {
            AscendC::DataCopy(y_[Place(b, j, realEnd)], zeros_.Get<T>(), (end - realEnd) * width_);
        }
    }

    // Text is normalised once and stored behind every sub-sequence.
    __aicore__ inline void TextTile(uint32_t b, uint32_t row, const AscendC::LocalTensor<float> &learnt)
    {
        const uint32_t count = Min(t_.tileRows, t_.textLen - row);
        AscendC::LocalTensor<T> in = in_.template AllocTensor<T>();
        AscendC::DataCopy(in, text_[(static_cast<uint64_t>(b) * t_.textLen + row) * width_], count * width_);
        in_.EnQue(in);
        Widen(count);
        Normalise(count, learnt, t_.headDim);
        AscendC::LocalTensor<T> out = Narrow(count);
        for (uint32_t j = 0; j < t_.n; ++j) {
            AscendC::DataCopy(y_[Place(b, j, t_.rows + row)], out, count * width_);
        }
        out_.FreeTensor(out);
    }

    __aicore__ inline void Widen(uint32_t count)
    {
        AscendC::LocalTensor<T> in = in_.template DeQue<T>();
        AscendC::Cast(value_.Get<float>(), in, AscendC::RoundMode::CAST_NONE, count * width_);
        AscendC::PipeBarrier<PIPE_V>();
        in_.FreeTensor(in);
    }

    __aicore__ inline AscendC::LocalTensor<T> Narrow(uint32_t count)
    {
        AscendC::LocalTensor<T> out = out_.template AllocTensor<T>();
        AscendC::Cast(out, value_.Get<float>(), AscendC::RoundMode::CAST_RINT, count * width_);
        AscendC::PipeBarrier<PIPE_V>();
        out_.EnQue(out);
        return out_.template DeQue<T>();
    }

    __aicore__ inline uint32_t Lanes(uint32_t channel) const { return Min(LANES, t_.headDim - channel); }

    // stat[row] = mean of the row. The row's first 64 channels are overwritten with the sums of its parts.
    __aicore__ inline void RowMeans(const AscendC::LocalTensor<float> &source, uint32_t heads)
    {
        const AscendC::LocalTensor<float> stat = stat_.Get<float>();
        for (uint32_t c = LANES; c < t_.headDim; c += LANES) {
            AscendC::Add(source, source, source[c], Lanes(c), heads,
                         AscendC::BinaryRepeatParams(1, 1, 1, blocks_, blocks_, blocks_));
            AscendC::PipeBarrier<PIPE_V>();
        }
        AscendC::WholeReduceSum(stat, source, static_cast<int32_t>(Lanes(0)), static_cast<int32_t>(heads), 1, 1,
                                static_cast<int32_t>(blocks_));
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Muls(stat, stat, 1.0f / static_cast<float>(t_.headDim), static_cast<int32_t>(heads));
        AscendC::PipeBarrier<PIPE_V>();
    }

    // One number a row, spread over a block each: an operand with block stride 0 and repeat stride 1.
    __aicore__ inline void Spread(uint32_t heads)
    {
        AscendC::Brcb(spread_.Get<float>(), stat_.Get<float>(), CeilDiv(heads, 8), AscendC::BrcbRepeatParams(1, 8));
        AscendC::PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void Normalise(uint32_t count, const AscendC::LocalTensor<float> &learnt, uint32_t stream)
    {
        if (settings_.norm == 2) {
            SubtractMeans(count);
        }
        if (settings_.norm != 0) {
            DivideByRootMeanSquares(count);
        }
        if (t_.learnt == 0) {
            return;
        }
        const uint32_t heads = count * t_.heads;
        const AscendC::LocalTensor<float> value = value_.Get<float>();
        const AscendC::BinaryRepeatParams perChannel(1, 1, 1, blocks_, blocks_, 0);
        for (uint32_t c = 0; c < t_.headDim; c += LANES) {
            AscendC::Mul(value[c], value[c], learnt[stream + c], Lanes(c), heads, perChannel);
        }
        AscendC::PipeBarrier<PIPE_V>();
        for (uint32_t c = 0; c < t_.headDim; c += LANES) {
            AscendC::Add(value[c], value[c], learnt[2 * t_.headDim + stream + c], Lanes(c), heads, perChannel);
        }
        AscendC::PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void SubtractMeans(uint32_t count)
    {
        const uint32_t heads = count * t_.heads;
        const AscendC::LocalTensor<float> value = value_.Get<float>(), work = work_.Get<float>();
        AscendC::Adds(work, value, 0.0f, static_cast<int32_t>(count * width_));
        AscendC::PipeBarrier<PIPE_V>();
        RowMeans(work, heads);
        Spread(heads);
        for (uint32_t c = 0; c < t_.headDim; c += LANES) {
            AscendC::Sub(value[c], value[c], spread_.Get<float>(), Lanes(c), heads,
                         AscendC::BinaryRepeatParams(1, 1, 0, blocks_, blocks_, 1));
        }
        AscendC::PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void DivideByRootMeanSquares(uint32_t count)
    {
        const uint32_t heads = count * t_.heads;
        const AscendC::LocalTensor<float> value = value_.Get<float>(), work = work_.Get<float>(),
                                          stat = stat_.Get<float>();
        AscendC::Mul(work, value, value,
                     static_cast<int32_t>(count * width_));  // float: the square of a half overflows
        AscendC::PipeBarrier<PIPE_V>();
        RowMeans(work, heads);
        AscendC::Adds(stat, stat, settings_.eps, static_cast<int32_t>(heads));
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Sqrt(stat, stat, static_cast<int32_t>(heads));  // Rsqrt is off by more than 1e-4
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Div(stat, ones_.Get<float>(), stat, static_cast<int32_t>(heads));
        AscendC::PipeBarrier<PIPE_V>();
        Spread(heads);
        for (uint32_t c = 0; c < t_.headDim; c += LANES) {
            AscendC::Mul(value[c], value[c], spread_.Get<float>(), Lanes(c), heads,
                         AscendC::BinaryRepeatParams(1, 1, 0, blocks_, blocks_, 1));
        }
        AscendC::PipeBarrier<PIPE_V>();
    }

    // value = value * cos + swapped(value) * sin
    __aicore__ inline void Rotate(uint32_t count, const AscendC::LocalTensor<float> &cos,
                                  const AscendC::LocalTensor<float> &sin)
    {
        const AscendC::LocalTensor<float> value = value_.Get<float>(), work = work_.Get<float>();
        if constexpr (HALVES_ALIGNED) {
            TimesAngles(work, value, sin, count);
            AscendC::PipeBarrier<PIPE_V>();
            TimesAngles(value, value, cos, count);
            AscendC::PipeBarrier<PIPE_V>();
            uint32_t c = 0;
            for (uint32_t axis = 0; axis < 3; c += settings_.split[axis], ++axis) {
                const uint32_t half = settings_.split[axis] / 2;
                for (uint32_t k = c; k < c + half; k += 8) {
                    SubtractBlock(value[k], work[k + half], count * t_.heads);
                    SubtractBlock(value[k + half], work[k], count * t_.heads);
                }
            }
        } else {
            for (uint32_t token = 0; token < count; ++token) {
                AscendC::Gather(work[token * width_], value[token * width_],
                                offsets_.Get<int32_t>().template ReinterpretCast<uint32_t>(), 0, width_);
            }
            AscendC::PipeBarrier<PIPE_V>();
            TimesAngles(work, work, sin, count);
            TimesAngles(value, value, cos, count);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Add(value, value, work, static_cast<int32_t>(count * width_));
        }
        AscendC::PipeBarrier<PIPE_V>();
    }

    // to = from * the numbers of each token's channels, which its heads share.
    __aicore__ inline void TimesAngles(const AscendC::LocalTensor<float> &to, const AscendC::LocalTensor<float> &from,
                                       const AscendC::LocalTensor<float> &angles, uint32_t count)
    {
        const AscendC::BinaryRepeatParams perHead(1, 1, 1, blocks_, blocks_, 0);
        for (uint32_t token = 0; token < count; ++token) {
            for (uint32_t c = 0; c < t_.headDim; c += LANES) {
                const uint32_t at = token * width_ + c;
                AscendC::Mul(to[at], from[at], angles[token * t_.headDim + c], Lanes(c), t_.heads, perHead);
            }
        }
    }

    // Eight channels of every head, minus eight others: a repeat covers as many heads as its strides reach, eight up to
    // head_dim 248. The table has -sin where the exchanged half has sin, so value * sin is subtracted, not added.
    __aicore__ inline void SubtractBlock(const AscendC::LocalTensor<float> &to, const AscendC::LocalTensor<float> &from,
                                         uint32_t heads)
    {
        const uint32_t most = Min(8, 255 / blocks_), whole = heads / most, rest = heads % most;
        const AscendC::BinaryRepeatParams params(blocks_, blocks_, blocks_, most * blocks_, most * blocks_,
                                                 most * blocks_);
        if (whole > 0) {
            AscendC::Sub(to, to, from, most * 8, whole, params);
        }
        if (rest > 0) {
            const uint32_t at = whole * most * t_.headDim;
            AscendC::Sub(to[at], to[at], from[at], rest * 8, 1, params);
        }
    }

    // Byte offsets of one token's channels with the halves of every axis' slice exchanged.
    __aicore__ inline void MakeOffsets()
    {
        if (t_.rope == 0) {
            return;
        }
        const AscendC::LocalTensor<int32_t> offsets = offsets_.Get<int32_t>();
        uint32_t c = 0;
        for (uint32_t axis = 0; axis < 3; ++axis) {
            const uint32_t half = settings_.split[axis] / 2;
            for (uint32_t k = 0; k < 2 * half; ++k, ++c) {
                const uint32_t partner = k < half ? c + half : c - half;
                offsets.SetValue(c, static_cast<int32_t>(partner * sizeof(float)));
            }
        }
        const int32_t event = pipe_->FetchEventID(AscendC::HardEvent::S_V);
        AscendC::SetFlag<AscendC::HardEvent::S_V>(event);
        AscendC::WaitFlag<AscendC::HardEvent::S_V>(event);
        for (uint32_t h = 1; h < t_.heads; ++h) {
            AscendC::Adds(offsets[h * t_.headDim], offsets, static_cast<int32_t>(h * t_.headDim * sizeof(float)),
                          static_cast<int32_t>(t_.headDim));
        }
    }

    QkNormRopeTiling t_;
    QkNormRopeSettings settings_;
    AscendC::TPipe *pipe_;
    GroupRows rows_;
    uint32_t width_, blocks_;  // elements of a token, blocks of 32 bytes of one head's floats
    AscendC::GlobalTensor<T> x_, text_, y_;
    AscendC::GlobalTensor<float> weight_, bias_, cos_, sin_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> in_, angles_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> learnt_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> out_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> value_, work_, zeros_, stat_, ones_, spread_, offsets_;
};

template <typename T, bool HALVES_ALIGNED>
__aicore__ inline void RunQkNormRope(GM_ADDR x, GM_ADDR text, GM_ADDR weight, GM_ADDR bias, GM_ADDR cos, GM_ADDR sin,
                                     GM_ADDR y, const QkNormRopeSettings &settings, const QkNormRopeTiling &tiling)
{
    AscendC::TPipe pipe;
    QkNormRope<T, HALVES_ALIGNED> kernel;
    kernel.Init(x, text, weight, bias, cos, sin, y, settings, tiling, &pipe);
    kernel.Process();
}

template <typename T>
__aicore__ inline void RunQkNormRope(GM_ADDR x, GM_ADDR text, GM_ADDR weight, GM_ADDR bias, GM_ADDR cos, GM_ADDR sin,
                                     GM_ADDR settings, GM_ADDR y, const QkNormRopeTiling &tiling)
{
    QkNormRopeSettings numbers;
    numbers.Read(settings);
    if (tiling.rope == 0 || numbers.HalvesAligned()) {
        RunQkNormRope<T, true>(x, text, weight, bias, cos, sin, y, numbers, tiling);
    } else {
        RunQkNormRope<T, false>(x, text, weight, bias, cos, sin, y, numbers, tiling);
    }
}

}  // namespace mindsora

// Tiling key: 0 half, 1 bfloat16.
extern "C" __global__ __aicore__ void qk_norm_rope(GM_ADDR x, GM_ADDR text, GM_ADDR weight, GM_ADDR bias, GM_ADDR cos,
                                                   GM_ADDR sin, GM_ADDR skip, GM_ADDR settings, GM_ADDR y,
                                                   GM_ADDR workspace, GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    REGISTER_TILING_DEFAULT(QkNormRopeTiling);
    GET_TILING_DATA_WITH_STRUCT(QkNormRopeTiling, data, tiling);
    if (TILING_KEY_IS(0)) {
        mindsora::RunQkNormRope<half>(x, text, weight, bias, cos, sin, settings, y, data);
    } else if (TILING_KEY_IS(1)) {
        mindsora::RunQkNormRope<bfloat16_t>(x, text, weight, bias, cos, sin, settings, y, data);
    }
}
