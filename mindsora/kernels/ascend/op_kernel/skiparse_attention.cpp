// Skiparse attention, forward: every sub-sequence of the video attends to itself and to the text, softmax taken online.
//
//   q, k, v (B, N, H, D)  textQ, textK, textV (B, L, H, D)  textLengths (B) int32, at most L
//   ->  out (B, N, H, D)   textOut (B, L, H, D), the mean over sub-sequences
//       lse (B, H, n, R + L) float, log-sum-exp of each row (text: plus ln n, so that exp(score - lse) carries the 1/n)
//       textParts (n, B, L, H, D), the text output of each sub-sequence
//   lse and textParts are what the gradients need. Other layouts than (B, N, H, D) differ in the strides only.
//
// One cube core and two vector cores work on a tile of 256 queries, keys streaming past in blocks of up to 512:
//   cube    S = Q K^T to workspace, two blocks ahead                        flag SCORES_READY
//   vector  row maximum, P = exp(S - maximum), row sum, to workspace        flag WEIGHTS_READY
//   cube    P V to workspace                                                flag PRODUCTS_READY
//   vector  O = O * exp(old maximum - new) + P V; after the last block O / sum, stored where the queries' tokens are
// The workspace has three slots of each. No flag says that a slot is free: the cube core writes S of block i + 3 only
// after it has waited for P of block i, and the vector cores write P of block i + 3 only after S of block i + 3, hence
// P V of block i, was made.
#include "attention_cube.h"
#include "attention_vector.h"

namespace mindsora {

struct ForwardArguments {
    GM_ADDR q;
    GM_ADDR k;
    GM_ADDR v;
    GM_ADDR textQ;
    GM_ADDR textK;
    GM_ADDR textV;
    GM_ADDR textLengths;
    GM_ADDR out;
    GM_ADDR textOut;
    GM_ADDR lse;
    GM_ADDR textParts;
    GM_ADDR workspace;
};

template <typename T>
class SoftmaxSide {  // the vector cores
public:
    __aicore__ inline void Init(const ForwardArguments &a, const SkiparseAttentionTiling &t, AscendC::TPipe *pipe)
    {
        t_ = &t;
        units_.Init(t, a.textLengths, false);
        core_ = AscendC::GetBlockIdx() / 2;
        const uint64_t video = Elements(t, t.tokens), text = Elements(t, t.textLen);
        out_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.out), video);
        textOut_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.textOut), text);
        textParts_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.textParts), text * t.n);
        lse_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.lse),
                             static_cast<uint64_t>(t.batch) * t.heads * t.n * (t.rows + t.textLen));
        GM_ADDR own = a.workspace + core_ * t.coreBytes;
        const uint64_t block = t.tileRows * t.blockColumns;
        scores_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own), SLOTS * block);
        weights_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(own + t.weightsAt), SLOTS * block);
        products_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own + t.productsAt), SLOTS * t.tileRows * t.headDim);

        const uint32_t half = HalfRows(), pass = t.passRows;
        pipe->InitBuffer(scoresIn_, 2, pass * t.blockColumns * sizeof(float));
        pipe->InitBuffer(weightsOut_, 2, pass * t.blockColumns * sizeof(T));
        pipe->InitBuffer(sum_, half * t.headDim * sizeof(float));
        pipe->InitBuffer(parts_, pass * t.blockColumns / 8 * sizeof(float));
        pipe->InitBuffer(spread_, Max(pass * t.blockColumns / 8, half * 8) * sizeof(float));
        pipe->InitBuffer(lseOut_, 1, half * sizeof(float));
        pipe->InitBuffer(statistics_, ((2 + 2 * SLOTS) * half + 4 * RoundUp(pass, 8) + 8) * sizeof(float));
        Floats next = statistics_.Get<float>();
        maximum_ = next;
        total_ = next[half];
        rescale_ = next[2 * half];
        norm_ = next[(2 + SLOTS) * half];
        next = next[(2 + 2 * SLOTS) * half];
        one_ = next;
        more_ = next[RoundUp(pass, 8)];
        raised_ = next[2 * RoundUp(pass, 8)];
        negative_ = next[3 * RoundUp(pass, 8)];
        scale_ = next[4 * RoundUp(pass, 8)];
        AscendC::Duplicate(scale_, t.scale, 8);
    }

    __aicore__ inline void Process()
    {
        StoreEmpty();
        Steps ahead, behind;
        ahead.Init(*t_, units_, core_, AscendC::GetBlockNum());
        behind.Init(*t_, units_, core_, AscendC::GetBlockNum());
        for (bool started = false; behind.Valid(); started = true) {
            if (ahead.Valid()) {
                Softmax(ahead);
                ahead.Next();
            }
            if (started) {
                Accumulate(behind);
                behind.Next();
            }
        }
        if (t_->textLen > 0) {
            AscendC::SyncAll();  // every sub-sequence's text output is there
            MeanOfText();
        }
    }

private:
    __aicore__ inline uint32_t HalfRows() const { return t_->tileRows / 2; }

    // Where in a block's slot the pass begins that has the half's row `row`, and its extent.
    __aicore__ inline uint64_t At(const Steps &step, const Half &half, uint32_t row) const
    {
        return (static_cast<uint64_t>(step.Slot()) * t_->tileRows + half.first + row) * t_->blockColumns;
    }
    __aicore__ inline Extent Pass(const Steps &step, const Half &half, uint32_t row) const
    {
        return {Min(t_->passRows, half.rows - row), step.Columns(), t_->blockColumns};
    }

    __aicore__ inline void Softmax(const Steps &step)
    {
        const Half half(step.Now());
        AscendC::CrossCoreWaitFlag(SCORES_READY);
        if (half.rows > 0) {
            if (step.First()) {
                AscendC::Duplicate(maximum_, EXCLUDED, static_cast<int32_t>(half.rows));
                AscendC::Duplicate(total_, 0.0f, static_cast<int32_t>(half.rows));
            }
            SoftmaxPasses(step, half);
        }
        AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(WEIGHTS_READY);
        if (step.Last()) {
            StoreLse(step.Now(), half);
        }
    }

    // Eight steps a pass, a barrier between two. The sums of a pass are taken with the maxima of the next.
    __aicore__ inline void SoftmaxPasses(const Steps &step, const Half &half)
    {
        const Floats parts = parts_.Get<float>(), spread = spread_.Get<float>();
        Extent e = Pass(step, half, 0), before = e;
        LoadScores(scoresIn_, scores_[At(step, half, 0)], e, EXCLUDED);
        Floats scores = TakeScores(scoresIn_, e, EXCLUDED);
        ReduceBlocks<false>(parts, scores, e);
        for (uint32_t row = 0; row < half.rows; row += t_->passRows) {
            const uint32_t next = row + t_->passRows;
            const int32_t count = e.rows;
            const Floats maximum = maximum_[row], rescale = rescale_[step.Slot() * HalfRows() + row];
            if (next < half.rows) {
                LoadScores(scoresIn_, scores_[At(step, half, next)], Pass(step, half, next), EXCLUDED);
            }
            AscendC::PipeBarrier<PIPE_V>();
            ReduceParts<false>(one_, parts, e);
            if (row > 0) {
                ReduceParts<true>(more_, spread, before);
            }
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Max(raised_, maximum, one_, count);
            if (row > 0) {
                AddTotals(row - t_->passRows, before);
            }
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Muls(negative_, raised_, -t_->scale, count);
            AscendC::Sub(rescale, maximum, raised_, count);
            AscendC::PipeBarrier<PIPE_V>();
            SpreadRows(spread, negative_, e.rows);
            AscendC::Muls(rescale, rescale, t_->scale, count);
            AscendC::Adds(maximum, raised_, 0.0f, count);
            AscendC::PipeBarrier<PIPE_V>();
            ScaleAndAdd<true>(scores, scale_, spread, e);
            AscendC::Exp(rescale, rescale, count);
            AscendC::PipeBarrier<PIPE_V>();
            Exponentiate(scores, e);
            AscendC::Mul(total_[row], total_[row], rescale, count);
            AscendC::PipeBarrier<PIPE_V>();
            ReduceBlocks<true>(spread, scores, e);
            StoreWeights(weightsOut_, weights_[At(step, half, row)], scores, e);
            scoresIn_.FreeTensor(scores);
            before = e;
            if (next < half.rows) {
                e = Pass(step, half, next);
                scores = TakeScores(scoresIn_, e, EXCLUDED);
                ReduceBlocks<false>(parts, scores, e);
            }
        }
        AscendC::PipeBarrier<PIPE_V>();
        ReduceParts<true>(more_, spread, before);
        AscendC::PipeBarrier<PIPE_V>();
        AddTotals((half.rows - 1) / t_->passRows * t_->passRows, before);
        AscendC::PipeBarrier<PIPE_V>();
        if (step.Last()) {  // in a slot: the next unit's sums begin before this one's output is divided
            AscendC::Adds(norm_[step.Slot() * HalfRows()], total_, 0.0f, static_cast<int32_t>(half.rows));
        }
    }

    __aicore__ inline void AddTotals(uint32_t row, const Extent &e)
    {
        AscendC::Add(total_[row], total_[row], more_, static_cast<int32_t>(e.rows));
    }

    // Rows that are padding get 0.
    __aicore__ inline void StoreLse(const Unit &unit, const Half &half)
    {
        if (half.stored == 0) {
            return;
        }
        const int32_t count = half.rows;
        Floats lse = lseOut_.AllocTensor<float>();
        AscendC::Duplicate(lse, 0.0f, static_cast<int32_t>(HalfRows()));
        AscendC::PipeBarrier<PIPE_V>();
        if (half.rows > 0) {
            AscendC::Ln(lse, total_, count);
            AscendC::Muls(maximum_, maximum_, t_->scale, count);  // the next unit begins with its own
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Add(lse, lse, maximum_, count);
            AscendC::PipeBarrier<PIPE_V>();
            if (unit.text) {
                AscendC::Adds(lse, lse, t_->logN, count);
            }
        }
        lseOut_.EnQue(lse);
        lse = lseOut_.DeQue<float>();
        const uint64_t at = units_.Statistics(unit) + (unit.text ? t_->rows : 0) + unit.row + half.first;
        AscendC::DataCopyPad(lse_[at], lse, Strided(1, half.stored * sizeof(float), 0, 0));
        lseOut_.FreeTensor(lse);
    }

    __aicore__ inline void Accumulate(const Steps &step)
    {
        const Half half(step.Now());
        AscendC::CrossCoreWaitFlag(PRODUCTS_READY);
        if (half.rows == 0) {
            return;
        }
        const uint32_t d = t_->headDim, most = t_->passRows * t_->blockColumns, count = half.rows * d;
        const Floats sum = sum_.Get<float>(), spread = spread_.Get<float>();
        if (!step.First()) {
            SpreadRows(spread, rescale_[step.Slot() * HalfRows()], half.rows);
            AscendC::PipeBarrier<PIPE_V>();
            PerRow<RowOp::MUL>(sum, spread, d, half.rows);
            AscendC::PipeBarrier<PIPE_V>();
        }
        const uint64_t from = (static_cast<uint64_t>(step.Slot()) * t_->tileRows + half.first) * d;
        for (uint32_t at = 0; at < count; at += most) {
            const uint32_t length = Min(most, count - at);
            Floats part = scoresIn_.AllocTensor<float>();
            AscendC::DataCopy(part, products_[from + at], length);
            scoresIn_.EnQue(part);
            part = scoresIn_.DeQue<float>();
            if (step.First()) {
                AscendC::Adds(sum[at], part, 0.0f, static_cast<int32_t>(length));
            } else {
                AscendC::Add(sum[at], sum[at], part, static_cast<int32_t>(length));
            }
            scoresIn_.FreeTensor(part);
        }
        AscendC::PipeBarrier<PIPE_V>();
        if (step.Last()) {
            SpreadRows(spread, norm_[step.Slot() * HalfRows()], half.rows);
            AscendC::PipeBarrier<PIPE_V>();
            PerRow<RowOp::DIV>(sum, spread, d, half.rows);
            AscendC::PipeBarrier<PIPE_V>();
            StoreOutput(step.Now(), half, sum);
            AscendC::PipeBarrier<PIPE_V>();
        }
    }

    // As many rows at a time as the weights' buffers hold.
    __aicore__ inline void StoreOutput(const Unit &unit, const Half &half, const Floats &sum)
    {
        const uint32_t d = t_->headDim, most = t_->passRows * t_->blockColumns / d, first = unit.row + half.first;
        for (uint32_t at = 0; at < half.rows; at += most) {
            const uint32_t rows = Min(most, half.rows - at), row = first + at;
            AscendC::LocalTensor<T> rounded = Narrowed<T>(weightsOut_, sum[at * d], rows * d);
            if (unit.text) {
                const uint64_t to = (static_cast<uint64_t>(unit.j) * t_->batch + unit.b) * t_->textBatchStride +
                                    unit.h * t_->textHeadStride + static_cast<uint64_t>(row) * t_->tokenStride;
                AscendC::DataCopyPad(textParts_[to], rounded,
                                     Strided(rows, d * sizeof(T), 0, (t_->tokenStride - d) * sizeof(T)));
            } else {
                StoreRows(out_[units_.Video(unit)], rounded, units_.Rows(), unit.j, row, row + rows, d,
                          t_->tokenStride);
            }
            weightsOut_.FreeTensor(rounded);
        }
    }

    // Tiles without work: padding only (lse 0), or text rows of a sub-sequence that has no key at all (output 0 too).
    __aicore__ inline void StoreEmpty()
    {
        for (uint32_t number = core_; number < t_->tiles; number += AscendC::GetBlockNum()) {
            Unit unit = units_.At(number);
            if (unit.rows > 0 && unit.stream > 0) {
                continue;
            }
            Half half(unit);
            if (half.rows > 0) {
                AscendC::PipeBarrier<PIPE_V>();
                AscendC::Duplicate(sum_.Get<float>(), 0.0f, static_cast<int32_t>(half.rows * t_->headDim));
                AscendC::PipeBarrier<PIPE_V>();
                StoreOutput(unit, half, sum_.Get<float>());
            }
            half.rows = 0;
            AscendC::PipeBarrier<PIPE_V>();
            StoreLse(unit, half);
        }
    }

    // textOut = sum over sub-sequences of textParts / n, always added in the same order.
    __aicore__ inline void MeanOfText()
    {
        const uint32_t most = Min(t_->passRows * t_->blockColumns, HalfRows() * t_->headDim) / 32 * 16;
        const uint32_t total = t_->textBatchStride, chunks = CeilDiv(total, most), cores = 2 * AscendC::GetBlockNum();
        const Floats sum = sum_.Get<float>();
        for (uint32_t task = AscendC::GetBlockIdx(); task < t_->batch * chunks; task += cores) {
            const uint32_t b = task / chunks, at = task % chunks * most, count = Min(most, total - at);
            for (uint32_t j = 0; j < t_->n; ++j) {
                AddPart(scoresIn_, textParts_[(static_cast<uint64_t>(j) * t_->batch + b) * total + at], count, j == 0, sum,
                        sum[most]);
            }
            AscendC::Muls(sum, sum, 1.0f / static_cast<float>(t_->n), static_cast<int32_t>(count));
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::LocalTensor<T> rounded = Narrowed<T>(weightsOut_, sum, count);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::DataCopyPad(textOut_[static_cast<uint64_t>(b) * total + at], rounded,
                                 Strided(1, count * sizeof(T), 0, 0));
            weightsOut_.FreeTensor(rounded);
        }
    }

    const SkiparseAttentionTiling *t_;
    Units units_;
    uint32_t core_;
    AscendC::GlobalTensor<T> out_, textOut_, textParts_, weights_;
    AscendC::GlobalTensor<float> lse_, scores_, products_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> scoresIn_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> weightsOut_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> lseOut_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> sum_, parts_, spread_, statistics_;
    Floats maximum_, total_, rescale_, norm_;  // of every row; maxima of scores before they are scaled
    Floats one_, more_, raised_, negative_;    // of the rows of a pass
    Floats scale_;                             // a block
};

template <typename T, uint32_t LOAD>
class ProductSide {  // the cube core
public:
    __aicore__ inline void Init(const ForwardArguments &a, const SkiparseAttentionTiling &t, AscendC::TPipe *pipe)
    {
        t_ = &t;
        units_.Init(t, a.textLengths, false);
        cube_.Init(t, units_, 1, MOST_CHUNKS + 1, pipe);
        const uint64_t video = Elements(t, t.tokens), text = Elements(t, t.textLen);
        q_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.q), video);
        k_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.k), video);
        v_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.v), video);
        textQ_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.textQ), text);
        textK_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.textK), text);
        textV_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.textV), text);
        GM_ADDR own = a.workspace + AscendC::GetBlockIdx() * t.coreBytes;
        const uint64_t block = t.tileRows * t.blockColumns;
        scores_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own), SLOTS * block);
        weights_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(own + t.weightsAt), SLOTS * block);
        products_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own + t.productsAt), SLOTS * t.tileRows * t.headDim);
    }

    __aicore__ inline void Process()
    {
        Steps ahead, behind;
        ahead.Init(*t_, units_, AscendC::GetBlockIdx(), AscendC::GetBlockNum());
        behind.Init(*t_, units_, AscendC::GetBlockIdx(), AscendC::GetBlockNum());
        for (uint32_t lead = 0; behind.Valid(); ++lead) {
            if (ahead.Valid()) {
                Scores(ahead);
                ahead.Next();
            }
            if (lead >= 2) {
                Products(behind);
                behind.Next();
            }
        }
    }

private:
    __aicore__ inline void Scores(const Steps &step)
    {
        const Unit &unit = step.Now();
        const uint64_t video = units_.Video(unit), text = units_.Text(unit);
        if (step.First()) {
            tile_ = cube_.LoadTile(unit, q_[video], textQ_[text]);
        }
        cube_.Scores(step, tile_, k_[video], textK_[text],
                     scores_[static_cast<uint64_t>(step.Slot()) * t_->tileRows * t_->blockColumns]);
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(SCORES_READY);
        if (step.Last()) {
            cube_.FreeTile(tile_);
        }
    }

    __aicore__ inline void Products(const Steps &step)
    {
        cube_.LoadStream(step, v_[units_.Video(step.Now())], textV_[units_.Text(step.Now())]);
        AscendC::CrossCoreWaitFlag(WEIGHTS_READY);
        cube_.Products(step, weights_[static_cast<uint64_t>(step.Slot()) * t_->tileRows * t_->blockColumns],
                       products_[static_cast<uint64_t>(step.Slot()) * t_->tileRows * t_->headDim]);
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(PRODUCTS_READY);
    }

    const SkiparseAttentionTiling *t_;
    Units units_;
    Cube<T, LOAD> cube_;
    AscendC::LocalTensor<T> tile_;
    AscendC::GlobalTensor<T> q_, k_, v_, textQ_, textK_, textV_, weights_;
    AscendC::GlobalTensor<float> scores_, products_;
};

template <typename T, uint32_t LOAD>
__aicore__ inline void RunForward(const ForwardArguments &arguments, const SkiparseAttentionTiling &tiling)
{
    AscendC::TPipe pipe;
    if ASCEND_IS_AIC {
        ProductSide<T, LOAD> side;
        side.Init(arguments, tiling, &pipe);
        side.Process();
    }
    if ASCEND_IS_AIV {
        SoftmaxSide<T> side;
        side.Init(arguments, tiling, &pipe);
        side.Process();
    }
}

}  // namespace mindsora

// Tiling key: LOAD (attention_cube.h) for half, plus 3 for bfloat16.
extern "C" __global__ __aicore__ void skiparse_attention(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR textQ, GM_ADDR textK,
                                                         GM_ADDR textV, GM_ADDR textLengths, GM_ADDR skip, GM_ADDR out,
                                                         GM_ADDR textOut, GM_ADDR lse, GM_ADDR textParts,
                                                         GM_ADDR workspace, GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
    REGISTER_TILING_DEFAULT(SkiparseAttentionTiling);
    GET_TILING_DATA_WITH_STRUCT(SkiparseAttentionTiling, data, tiling);
    const mindsora::ForwardArguments arguments = {
        q, k, v, textQ, textK, textV, textLengths, out, textOut, lse, textParts, AscendC::GetUserWorkspace(workspace)};
    if (TILING_KEY_IS(0)) {
        mindsora::RunForward<half, 0>(arguments, data);
    } else if (TILING_KEY_IS(1)) {
        mindsora::RunForward<half, 1>(arguments, data);
    } else if (TILING_KEY_IS(2)) {
        mindsora::RunForward<half, 2>(arguments, data);
    } else if (TILING_KEY_IS(3)) {
        mindsora::RunForward<bfloat16_t, 0>(arguments, data);
    } else if (TILING_KEY_IS(4)) {
        mindsora::RunForward<bfloat16_t, 1>(arguments, data);
    } else if (TILING_KEY_IS(5)) {
        mindsora::RunForward<bfloat16_t, 2>(arguments, data);
    }
}
