// Skiparse attention, forward: every sub-sequence of the video attends to itself and to the text, softmax taken online.
//
//   q, k, v (B, N, H, D)  textQ, textK, textV (B, L, H, D)  textLengths (B) int32, at most L
//   ->  out (B, N, H, D)   textOut (B, L, H, D), the mean over sub-sequences
//       lse (B, H, n, R + L) float, log-sum-exp of each row (text: plus ln n, so that exp(score - lse) carries the 1/n)
//       textParts (n, B, L, H, D), the text output of each sub-sequence
//   lse and textParts are what the gradients need. Other layouts than (B, N, H, D) differ in the strides only.
//
// One cube core and two vector cores work on a tile of 128 queries, keys streaming past in blocks of up to 512:
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

        const uint32_t half = t.tileRows / 2, pass = t.passRows;
        pipe->InitBuffer(scoresIn_, 2, pass * t.blockColumns * sizeof(float));
        pipe->InitBuffer(weightsOut_, 2, Max(pass * t.blockColumns, half * t.headDim) * sizeof(T));
        pipe->InitBuffer(productsIn_, 2, half / 2 * t.headDim * sizeof(float));
        pipe->InitBuffer(sum_, half * t.headDim * sizeof(float));
        pipe->InitBuffer(tmp_, pass * LANES * sizeof(float));
        pipe->InitBuffer(spread_, half * 8 * sizeof(float));
        pipe->InitBuffer(lseOut_, 1, half * sizeof(float));
        pipe->InitBuffer(statistics_, (4 + 2 * SLOTS) * half * sizeof(float));
        const Floats statistics = statistics_.Get<float>();
        maximum_ = statistics;
        total_ = statistics[half];
        one_ = statistics[2 * half];
        other_ = statistics[3 * half];
        rescale_ = statistics[4 * half];
        norm_ = statistics[(4 + SLOTS) * half];
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

    __aicore__ inline void Softmax(const Steps &step)
    {
        const Half half(step.Now(), t_->tileRows);
        AscendC::CrossCoreWaitFlag(SCORES_READY);
        for (uint32_t row = 0; row < half.rows; row += t_->passRows) {
            SoftmaxPass(step, half.first, row, Min(t_->passRows, half.rows - row));
        }
        AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(WEIGHTS_READY);
        if (step.Last()) {
            StoreLse(step.Now(), half);
        }
    }

    __aicore__ inline void SoftmaxPass(const Steps &step, uint32_t first, uint32_t row, uint32_t rows)
    {
        const uint32_t columns = step.Columns(), rowBlocks = t_->blockColumns / 8;
        const uint64_t at = (static_cast<uint64_t>(step.Slot()) * t_->tileRows + first + row) * t_->blockColumns;
        const int32_t count = rows;
        Floats scores = LoadScores(scoresIn_, scores_[at], columns, rows, t_->blockColumns, EXCLUDED);
        const Floats tmp = tmp_.Get<float>(), spread = spread_.Get<float>();
        const Floats maximum = maximum_[row], total = total_[row], one = one_[row], other = other_[row];
        const Floats rescale = rescale_[step.Slot() * HalfRows() + row];
        Scale(scores, t_->scale, columns, rows, rowBlocks);
        Floats folded;
        uint32_t foldedBlocks;
        FoldColumns<false>(scores, tmp, columns, rows, rowBlocks, folded, foldedBlocks);
        AscendC::WholeReduceMax(one, folded, static_cast<int32_t>(LANES), count, 1, 1,
                                static_cast<int32_t>(foldedBlocks), AscendC::ReduceOrder::ORDER_ONLY_VALUE);
        AscendC::PipeBarrier<PIPE_V>();
        if (step.First()) {
            AscendC::Adds(maximum, one, 0.0f, count);
        } else {
            AscendC::Max(other, maximum, one, count);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Sub(rescale, maximum, other, count);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Exp(rescale, rescale, count);
            AscendC::Adds(maximum, other, 0.0f, count);
        }
        AscendC::PipeBarrier<PIPE_V>();
        SpreadRows(spread, maximum, rows);
        PerRow<RowOp::SUB>(scores, spread, RoundUp(columns, LANES), rows, rowBlocks);
        Exponentiate(scores, columns, rows, rowBlocks);
        FoldColumns<true>(scores, tmp, columns, rows, rowBlocks, folded, foldedBlocks);
        AscendC::WholeReduceSum(one, folded, static_cast<int32_t>(LANES), count, 1, 1,
                                static_cast<int32_t>(foldedBlocks));
        AscendC::PipeBarrier<PIPE_V>();
        if (step.First()) {
            AscendC::Adds(total, one, 0.0f, count);
        } else {
            AscendC::Mul(total, total, rescale, count);
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Add(total, total, one, count);
        }
        AscendC::PipeBarrier<PIPE_V>();
        if (step.Last()) {  // in a slot: the next unit's sums begin before this one's output is divided
            AscendC::Adds(norm_[step.Slot() * HalfRows() + row], total, 0.0f, count);
        }
        StoreWeights(weightsOut_, weights_[at], scores, columns, rows, t_->blockColumns);
        scoresIn_.FreeTensor(scores);
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
            AscendC::PipeBarrier<PIPE_V>();
            AscendC::Add(lse, lse, maximum_, count);
            AscendC::PipeBarrier<PIPE_V>();
            if (unit.text) {
                AscendC::Adds(lse, lse, t_->logN, count);
                AscendC::PipeBarrier<PIPE_V>();
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
        const Half half(step.Now(), t_->tileRows);
        AscendC::CrossCoreWaitFlag(PRODUCTS_READY);
        if (half.rows == 0) {
            return;
        }
        const uint32_t d = t_->headDim;
        const Floats sum = sum_.Get<float>(), spread = spread_.Get<float>();
        if (!step.First()) {
            SpreadRows(spread, rescale_[step.Slot() * HalfRows()], half.rows);
            PerRow<RowOp::MUL>(sum, spread, d, half.rows, d / 8);
        }
        const uint64_t at = (static_cast<uint64_t>(step.Slot()) * t_->tileRows + half.first) * d;
        AddProducts(productsIn_, products_[at], half.rows * d, HalfRows() / 2 * d, step.First(), sum);
        if (step.Last()) {
            SpreadRows(spread, norm_[step.Slot() * HalfRows()], half.rows);
            PerRow<RowOp::DIV>(sum, spread, d, half.rows, d / 8);
            StoreOutput(step.Now(), half, sum);
        }
    }

    __aicore__ inline void StoreOutput(const Unit &unit, const Half &half, const Floats &sum)
    {
        const uint32_t d = t_->headDim, row = unit.row + half.first;
        AscendC::LocalTensor<T> rounded = Narrowed<T>(weightsOut_, sum, half.rows * d);
        if (unit.text) {
            const uint64_t at = (static_cast<uint64_t>(unit.j) * t_->batch + unit.b) * t_->textBatchStride +
                                unit.h * t_->textHeadStride + static_cast<uint64_t>(row) * t_->tokenStride;
            AscendC::DataCopyPad(textParts_[at], rounded,
                                 Strided(half.rows, d * sizeof(T), 0, (t_->tokenStride - d) * sizeof(T)));
        } else {
            StoreRows(out_[units_.Video(unit)], rounded, units_.Rows(), unit.j, row, row + half.rows, d,
                      t_->tokenStride);
        }
        weightsOut_.FreeTensor(rounded);
    }

    // Tiles without work: padding only (lse 0), or text rows of a sub-sequence that has no key at all (output 0 too).
    __aicore__ inline void StoreEmpty()
    {
        for (uint32_t number = core_; number < t_->tiles; number += AscendC::GetBlockNum()) {
            Unit unit = units_.At(number);
            if (unit.rows > 0 && unit.stream > 0) {
                continue;
            }
            Half half(unit, t_->tileRows);
            if (half.rows > 0) {
                AscendC::Duplicate(sum_.Get<float>(), 0.0f, static_cast<int32_t>(half.rows * t_->headDim));
                AscendC::PipeBarrier<PIPE_V>();
                StoreOutput(unit, half, sum_.Get<float>());
            }
            half.rows = 0;
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
    AscendC::TQue<AscendC::TPosition::VECIN, 1> scoresIn_, productsIn_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> weightsOut_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> lseOut_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> sum_, tmp_, spread_, statistics_;
    Floats maximum_, total_, one_, other_, rescale_, norm_;
};

template <typename T, uint32_t LOAD>
class ProductSide {  // the cube core
public:
    __aicore__ inline void Init(const ForwardArguments &a, const SkiparseAttentionTiling &t, AscendC::TPipe *pipe)
    {
        t_ = &t;
        units_.Init(t, a.textLengths, false);
        cube_.Init(t, units_, 1, pipe);
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
        const uint64_t video = units_.Video(step.Now()), text = units_.Text(step.Now());
        AscendC::CrossCoreWaitFlag(WEIGHTS_READY);
        cube_.Products(step, weights_[static_cast<uint64_t>(step.Slot()) * t_->tileRows * t_->blockColumns], v_[video],
                       textV_[text], products_[static_cast<uint64_t>(step.Slot()) * t_->tileRows * t_->headDim]);
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
