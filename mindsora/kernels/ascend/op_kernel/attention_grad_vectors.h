// The vector cores' part of the gradients of skiparse attention; skiparse_attention_grad.cpp says what they compute.
#ifndef MINDSORA_ATTENTION_GRAD_VECTORS_H
#define MINDSORA_ATTENTION_GRAD_VECTORS_H

#include "attention_vector.h"

namespace mindsora {

struct GradArguments {
    GM_ADDR q;
    GM_ADDR k;
    GM_ADDR v;
    GM_ADDR out;
    GM_ADDR dOut;
    GM_ADDR lse;
    GM_ADDR text;
    GM_ADDR lengths;
    GM_ADDR dQ;
    GM_ADDR dK;
    GM_ADDR dV;
    GM_ADDR dText;
    GM_ADDR workspace;
};

// Text tensors (B, L, H, D) stacked in `text`: first the n parts, then these.
enum class TextInput : uint32_t { Q, K, V, D_OUT };

template <typename T>
__aicore__ inline void SetText(AscendC::GlobalTensor<T> &tensor, const GradArguments &a,
                               const SkiparseAttentionTiling &t, TextInput which)
{
    const uint64_t text = Elements(t, t.textLen);
    tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.text) + (t.n + static_cast<uint32_t>(which)) * text, text);
}

// Places in one core's part of the workspace: slots of two blocks of scores, of two of weights, and, by unit, of two sums.
__aicore__ inline uint64_t BlockAt(const SkiparseAttentionTiling &t, uint32_t slot, uint32_t kind)
{
    return (static_cast<uint64_t>(slot) * 2 + kind) * t.tileRows * t.blockColumns;
}

__aicore__ inline uint64_t ProductAt(const SkiparseAttentionTiling &t, uint32_t slot, uint32_t kind)
{
    return (static_cast<uint64_t>(slot) * 2 + kind) * t.tileRows * t.headDim;
}

template <typename T>
class GradVectors {
public:
    __aicore__ inline void Init(const GradArguments &a, const SkiparseAttentionTiling &t, AscendC::TPipe *pipe)
    {
        t_ = &t;
        pipe_ = pipe;
        queries_.Init(t, a.lengths, false);
        keys_.Init(t, a.lengths, true);
        core_ = AscendC::GetBlockIdx() / 2;
        const uint64_t video = Elements(t, t.tokens), text = Elements(t, t.textLen);
        const uint64_t groups = static_cast<uint64_t>(t.batch) * t.heads * t.n, rows = groups * (t.rows + t.textLen);
        out_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.out), video);
        dOut_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dOut), video);
        dQ_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dQ), video);
        dK_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dK), video);
        dV_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dV), video);
        textParts_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.text), text * t.n);
        SetText(dTextOut_, a, t, TextInput::D_OUT);
        dTextQ_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dText), text);
        dTextK_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dText) + text, text);
        dTextV_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dText) + 2 * text, text);
        lse_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.lse), rows);
        rowLse_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.workspace + t.lseAt), rows);
        rowDelta_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.workspace + t.deltaAt), rows);
        const uint64_t textSums = groups * t.textLen * t.headDim;
        sums_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.workspace + t.sumsAt),
                              t.deterministic != 0 ? textSums : rows * t.headDim);
        textKeys_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.workspace + t.textKeysAt), textSums);
        textValues_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.workspace + t.textValuesAt), textSums);
        GM_ADDR own = a.workspace + core_ * t.coreBytes;
        const uint64_t blocks = BlockAt(t, SLOTS, 0);
        scores_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own), blocks);
        weights_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(own + t.weightsAt), blocks);
        products_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own + t.productsAt), ProductAt(t, UNIT_SLOTS, 0));

        const uint32_t pass = t.passRows, scores = pass * t.blockColumns, rows8 = RoundUp(pass, 8);
        pipe->InitBuffer(scoresIn_, 3, scores * sizeof(float));
        pipe->InitBuffer(weightsOut_, 2, Max(scores * sizeof(T), Part() * sizeof(float)));
        pipe->InitBuffer(productsIn_, 1, Part() * sizeof(float));
        pipe->InitBuffer(statisticsIn_, 2, Max(t.blockColumns, t.tileRows / 2) * sizeof(float));
        pipe->InitBuffer(statisticsOut_, 2, rows8 * sizeof(float));
        pipe->InitBuffer(sum_, 2 * Part() * sizeof(float));
        pipe->InitBuffer(spread_, (2 * rows8 + 1) * 8 * sizeof(float));
        first_ = sum_.Get<float>();
        second_ = first_[Part()];
        lseOf_ = spread_.Get<float>();
        deltaOf_ = lseOf_[rows8 * 8];
        scale_ = deltaOf_[rows8 * 8];
        AscendC::Duplicate(scale_, t.scale, 8);
    }

    __aicore__ inline void Process()
    {
        RowStatistics();
        if (t_->deterministic == 0) {
            ClearSums();
        }
        AscendC::SyncAll();  // statistics are there, sums are zero
        if (t_->deterministic == 0) {
            AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(MAY_ADD);
        }
        Sweep<true>(keys_);
        if (t_->deterministic != 0) {
            Sweep<false>(queries_);
        }
        AscendC::SyncAll();  // what other cores have added and left in the workspace is there
        if (t_->deterministic == 0) {
            StoreQueries();
        }
        if (t_->textLen > 0) {
            StoreText();
        }
    }

private:
    // Elements of the rows that are worked on at a time, where it is not scores.
    __aicore__ inline uint32_t Part() const { return t_->passRows * t_->headDim; }

    // Where the unit's rows stand among [real visual rows | text rows] of their sub-sequence.
    __aicore__ inline uint64_t RowAt(const Unit &unit, uint32_t row) const
    {
        return queries_.Statistics(unit) + (unit.text ? unit.real : 0) + unit.row + row;
    }

    // rowLse and rowDelta: -lse and -scale * delta of every query, as they are added; text right behind the real visual
    // rows, as the rows stream.
    __aicore__ inline void RowStatistics()
    {
        const uint32_t cores = 2 * AscendC::GetBlockNum();
        for (uint32_t number = AscendC::GetBlockIdx(); number < t_->tiles; number += cores) {
            const Unit unit = queries_.At(number);
            for (uint32_t row = 0; row < unit.rows; row += t_->passRows) {
                RowStatisticsPass(unit, row, Min(t_->passRows, unit.rows - row));
            }
        }
    }

    __aicore__ inline void RowStatisticsPass(const Unit &unit, uint32_t row, uint32_t rows)
    {
        const uint32_t d = t_->headDim, blocks = d / 8;
        LoadOutputs(unit, row, rows, out_, textParts_, unit.j, first_);
        LoadOutputs(unit, row, rows, dOut_, dTextOut_, t_->n, second_);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Mul(first_, first_, second_, static_cast<int32_t>(rows * d));
        AscendC::PipeBarrier<PIPE_V>();
        for (uint32_t c = LANES; c < d; c += LANES) {
            AscendC::Add(first_, first_, first_[c], Min(LANES, d - c), rows,
                         AscendC::BinaryRepeatParams(1, 1, 1, blocks, blocks, blocks));
            AscendC::PipeBarrier<PIPE_V>();
        }
        Floats delta = statisticsOut_.AllocTensor<float>();
        AscendC::WholeReduceSum(delta, first_, static_cast<int32_t>(Min(LANES, d)), static_cast<int32_t>(rows), 1, 1,
                                static_cast<int32_t>(blocks));
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Muls(delta, delta, -t_->scale, static_cast<int32_t>(rows));
        StoreNumbers(rowDelta_[RowAt(unit, row)], delta, rows);

        const uint64_t at = queries_.Statistics(unit) + (unit.text ? t_->rows : 0) + unit.row + row;
        Floats in = LoadNumbers(lse_[at], rows);
        Floats lse = statisticsOut_.AllocTensor<float>();
        AscendC::Muls(lse, in, -1.0f, static_cast<int32_t>(rows));
        statisticsIn_.FreeTensor(in);
        StoreNumbers(rowLse_[RowAt(unit, row)], lse, rows);
    }

    __aicore__ inline void StoreNumbers(const AscendC::GlobalTensor<float> &to, Floats &numbers, uint32_t count)
    {
        statisticsOut_.EnQue(numbers);
        numbers = statisticsOut_.DeQue<float>();
        AscendC::DataCopyPad(to, numbers, Strided(1, count * sizeof(float), 0, 0));
        statisticsOut_.FreeTensor(numbers);
    }

    // Rows of an output or its gradient, as float. part: the sub-sequence whose text part is wanted, n for the whole.
    __aicore__ inline void LoadOutputs(const Unit &unit, uint32_t row, uint32_t rows,
                                       const AscendC::GlobalTensor<T> &video, const AscendC::GlobalTensor<T> &text,
                                       uint32_t part, const Floats &to)
    {
        const uint32_t d = t_->headDim;
        AscendC::LocalTensor<T> in = scoresIn_.template AllocTensor<T>();
        if (unit.text) {
            const uint64_t item = part == t_->n ? unit.b : static_cast<uint64_t>(part) * t_->batch + unit.b;
            const uint64_t at = item * t_->textBatchStride + unit.h * t_->textHeadStride +
                                static_cast<uint64_t>(unit.row + row) * t_->tokenStride;
            AscendC::DataCopyPadExtParams<T> noPad;
            noPad.isPad = false;
            AscendC::DataCopyPad(in, text[at], Strided(rows, d * sizeof(T), (t_->tokenStride - d) * sizeof(T), 0),
                                 noPad);
        } else {
            LoadRows(in, video[queries_.Video(unit)], queries_.Rows(), unit.j, unit.row + row, unit.row + row + rows, d,
                     t_->tokenStride);
        }
        scoresIn_.EnQue(in);
        in = scoresIn_.template DeQue<T>();
        AscendC::Cast(to, in, AscendC::RoundMode::CAST_NONE, rows * d);
        scoresIn_.FreeTensor(in);
    }

    // Numbers in a row, filled up with zeros to whole 64. The caller frees them.
    __aicore__ inline Floats LoadNumbers(const AscendC::GlobalTensor<float> &from, uint32_t count)
    {
        const Extent e = {1, count, RoundUp(count, 8)};
        LoadScores(statisticsIn_, from, e, 0.0f);
        return TakeScores(statisticsIn_, e, 0.0f);
    }

    __aicore__ inline void ClearSums()
    {
        const uint64_t total =
            static_cast<uint64_t>(t_->batch) * t_->heads * t_->n * (t_->rows + t_->textLen) * t_->headDim;
        const uint32_t most = Part(), cores = 2 * AscendC::GetBlockNum();
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::Duplicate(second_, 0.0f, static_cast<int32_t>(most));
        VectorBeforeStore(pipe_);
        for (uint64_t at = static_cast<uint64_t>(AscendC::GetBlockIdx()) * most; at < total; at += cores * most) {
            const uint32_t count = total - at < most ? static_cast<uint32_t>(total - at) : most;
            AscendC::DataCopy(sums_[at], second_, count);
        }
    }

    template <bool KEYS_STAY>
    __aicore__ inline void Sweep(const Units &units)
    {
        if (t_->textLen > 0) {
            ClearText<KEYS_STAY>(units);
        }
        Steps ahead, behind;
        ahead.Init(*t_, units, core_, AscendC::GetBlockNum());
        behind.Init(*t_, units, core_, AscendC::GetBlockNum());
        for (bool started = false; behind.Valid(); started = true) {
            if (ahead.Valid()) {
                Weights<KEYS_STAY>(ahead);
                ahead.Next();
            }
            if (started) {
                if (behind.Last()) {
                    StoreSums<KEYS_STAY>(behind, units);
                }
                behind.Next();
            }
        }
    }

    template <bool KEYS_STAY>
    __aicore__ inline void Weights(const Steps &step)
    {
        const Unit &unit = step.Now();
        const Half half(unit);
        AscendC::CrossCoreWaitFlag(SCORES_READY);
        if (half.rows > 0) {
            const uint64_t at = KEYS_STAY ? queries_.Statistics(unit) + step.Column() : RowAt(unit, half.first);
            const uint32_t count = KEYS_STAY ? step.Columns() : half.rows;
            Floats lse = LoadNumbers(rowLse_[at], count), delta = LoadNumbers(rowDelta_[at], count);
            for (uint32_t row = 0; row < half.rows; row += t_->passRows) {
                const Extent e = {Min(t_->passRows, half.rows - row), step.Columns(), t_->blockColumns};
                const uint64_t from = static_cast<uint64_t>(half.first + row) * t_->blockColumns;
                if constexpr (KEYS_STAY) {
                    WeightsPass<true>(step, from, e, lse, delta);
                } else {
                    SpreadRows(lseOf_, lse[row], e.rows);
                    SpreadRows(deltaOf_, delta[row], e.rows);
                    AscendC::PipeBarrier<PIPE_V>();
                    WeightsPass<false>(step, from, e, lseOf_, deltaOf_);
                }
            }
            statisticsIn_.FreeTensor(lse);
            statisticsIn_.FreeTensor(delta);
        }
        AscendC::CrossCoreSetFlag<2, PIPE_MTE3>(WEIGHTS_READY);
    }

    // P = exp(scale * S - lse) and dS = P * (scale * dP - scale * delta). lse and delta belong to the queries: the columns
    // where keys stay, the rows, spread, where queries do.
    template <bool KEYS_STAY>
    __aicore__ inline void WeightsPass(const Steps &step, uint64_t from, const Extent &e, const Floats &lse,
                                       const Floats &delta)
    {
        const uint64_t one = BlockAt(*t_, step.Slot(), 0) + from, two = BlockAt(*t_, step.Slot(), 1) + from;
        LoadScores(scoresIn_, scores_[one], e, EXCLUDED);
        Floats p = TakeScores(scoresIn_, e, EXCLUDED);
        LoadScores(scoresIn_, scores_[two], e, 0.0f);
        Floats ds = TakeScores(scoresIn_, e, 0.0f);
        ScaleAndAdd<!KEYS_STAY>(p, scale_, lse, e);
        ScaleAndAdd<!KEYS_STAY>(ds, scale_, delta, e);
        AscendC::PipeBarrier<PIPE_V>();
        Exponentiate(p, e);
        AscendC::PipeBarrier<PIPE_V>();
        Multiply(ds, p, e);
        if constexpr (KEYS_STAY) {
            StoreWeights(weightsOut_, weights_[one], p, e);
        }
        scoresIn_.FreeTensor(p);
        AscendC::PipeBarrier<PIPE_V>();
        StoreWeights(weightsOut_, weights_[two], ds, e);
        scoresIn_.FreeTensor(ds);
    }

    // What the cube core has added up over all blocks of a unit.
    template <bool KEYS_STAY>
    __aicore__ inline void StoreSums(const Steps &step, const Units &units)
    {
        const uint64_t one = ProductAt(*t_, step.UnitSlot(), 0), two = ProductAt(*t_, step.UnitSlot(), 1);
        AscendC::CrossCoreWaitFlag(PRODUCTS_READY);
        if constexpr (KEYS_STAY) {
            StoreRowsOf(units, step.Now(), products_[one], dV_, textValues_);
            StoreRowsOf(units, step.Now(), products_[two], dK_, textKeys_);
        } else {
            StoreRowsOf(units, step.Now(), products_[one], dQ_, sums_);
        }
    }

    // A finished half tile: visual rows to their tokens, text rows as float to the sub-sequence's part.
    __aicore__ inline void StoreRowsOf(const Units &units, const Unit &unit, const AscendC::GlobalTensor<float> &from,
                                       const AscendC::GlobalTensor<T> &video, const AscendC::GlobalTensor<float> &text)
    {
        const Half half(unit);
        const uint32_t d = t_->headDim;
        for (uint32_t at = 0; at < half.rows; at += t_->passRows) {
            const uint32_t rows = Min(t_->passRows, half.rows - at), row = unit.row + half.first + at;
            Floats in = productsIn_.AllocTensor<float>();
            AscendC::DataCopy(in, from[(half.first + at) * d], rows * d);
            productsIn_.EnQue(in);
            in = productsIn_.DeQue<float>();
            if (unit.text) {
                Floats out = weightsOut_.template AllocTensor<float>();
                AscendC::Adds(out, in, 0.0f, static_cast<int32_t>(rows * d));
                weightsOut_.EnQue(out);
                out = weightsOut_.template DeQue<float>();
                AscendC::DataCopy(text[(units.TextRows(unit) + row) * d], out, rows * d);
                weightsOut_.FreeTensor(out);
            } else {
                AscendC::LocalTensor<T> out = Narrowed<T>(weightsOut_, in, rows * d);
                StoreRows(video[units.Video(unit)], out, units.Rows(), unit.j, row, row + rows, d, t_->tokenStride);
                weightsOut_.FreeTensor(out);
            }
            productsIn_.FreeTensor(in);
        }
    }

    // Text rows that take part in nothing: behind the text's length, or in a sub-sequence without a partner.
    template <bool KEYS_STAY>
    __aicore__ inline void ClearText(const Units &units)
    {
        const uint32_t d = t_->headDim;
        bool cleared = false;
        for (uint32_t number = core_; number < t_->tiles; number += AscendC::GetBlockNum()) {
            const Unit unit = units.At(number);
            const Half half(unit);
            const uint32_t used = unit.stream > 0 ? half.rows : 0;
            if (!unit.text || used == half.stored) {
                continue;
            }
            if (!cleared) {
                AscendC::PipeBarrier<PIPE_V>();
                AscendC::Duplicate(first_, 0.0f, static_cast<int32_t>(Part()));
                VectorBeforeStore(pipe_);
                cleared = true;
            }
            for (uint32_t row = used; row < half.stored; row += t_->passRows) {
                const uint64_t at = (units.TextRows(unit) + unit.row + half.first + row) * d;
                const uint32_t count = Min(t_->passRows, half.stored - row) * d;
                if constexpr (KEYS_STAY) {
                    AscendC::DataCopy(textValues_[at], first_, count);
                    AscendC::DataCopy(textKeys_[at], first_, count);
                } else {
                    AscendC::DataCopy(sums_[at], first_, count);
                }
            }
        }
        if (cleared) {
            const int32_t event = pipe_->FetchEventID(AscendC::HardEvent::MTE3_V);
            AscendC::SetFlag<AscendC::HardEvent::MTE3_V>(event);
            AscendC::WaitFlag<AscendC::HardEvent::MTE3_V>(event);
        }
    }

    // dQ of visual rows: sums of all keys' additions, rounded.
    __aicore__ inline void StoreQueries()
    {
        const uint32_t d = t_->headDim, part = t_->passRows, cores = 2 * AscendC::GetBlockNum();
        for (uint32_t number = AscendC::GetBlockIdx(); number < t_->tiles; number += cores) {
            const Unit unit = queries_.At(number);
            if (unit.text) {
                continue;
            }
            for (uint32_t row = 0; row < unit.rows; row += part) {
                const uint32_t rows = Min(part, unit.rows - row), first = unit.row + row;
                AddPart(productsIn_, sums_[RowAt(unit, row) * d], rows * d, true, first_, second_);
                AscendC::LocalTensor<T> out = Narrowed<T>(weightsOut_, first_, rows * d);
                AscendC::PipeBarrier<PIPE_V>();
                StoreRows(dQ_[queries_.Video(unit)], out, queries_.Rows(), unit.j, first, first + rows, d,
                          t_->tokenStride);
                weightsOut_.FreeTensor(out);
            }
        }
    }

    __aicore__ inline void StoreText()
    {
        const uint32_t part = t_->passRows, chunks = CeilDiv(t_->textLen, part), cores = 2 * AscendC::GetBlockNum();
        for (uint32_t task = AscendC::GetBlockIdx(); task < t_->batch * t_->heads * chunks; task += cores) {
            Unit unit = queries_.At(0);
            unit.text = true;
            unit.b = task / chunks / t_->heads;
            unit.h = task / chunks % t_->heads;
            unit.row = task % chunks * part;
            unit.rows = Min(part, t_->textLen - unit.row);
            SumOverGroups(unit, textKeys_, dTextK_, false);
            SumOverGroups(unit, textValues_, dTextV_, false);
            SumOverGroups(unit, sums_, dTextQ_, t_->deterministic == 0);
        }
    }

    // behindVideo: the parts stand behind the sub-sequence's real visual rows.
    __aicore__ inline void SumOverGroups(Unit &unit, const AscendC::GlobalTensor<float> &parts,
                                         const AscendC::GlobalTensor<T> &to, bool behindVideo)
    {
        const uint32_t d = t_->headDim, count = unit.rows * d;
        for (unit.j = 0; unit.j < t_->n; ++unit.j) {
            unit.real = queries_.Rows().Real(unit.j);
            const uint64_t at = behindVideo ? RowAt(unit, 0) : queries_.TextRows(unit) + unit.row;
            AddPart(productsIn_, parts[at * d], count, unit.j == 0, first_, second_);
        }
        AscendC::LocalTensor<T> out = Narrowed<T>(weightsOut_, first_, count);
        AscendC::PipeBarrier<PIPE_V>();
        AscendC::DataCopyPad(to[queries_.Text(unit) + static_cast<uint64_t>(unit.row) * t_->tokenStride], out,
                             Strided(unit.rows, d * sizeof(T), 0, (t_->tokenStride - d) * sizeof(T)));
        weightsOut_.FreeTensor(out);
    }

    const SkiparseAttentionTiling *t_;
    AscendC::TPipe *pipe_;
    Units queries_, keys_;  // units of queries that stay, and of keys that stay
    uint32_t core_;
    AscendC::GlobalTensor<T> out_, dOut_, dQ_, dK_, dV_, textParts_, dTextOut_, dTextQ_, dTextK_, dTextV_, weights_;
    AscendC::GlobalTensor<float> lse_, rowLse_, rowDelta_, sums_, textKeys_, textValues_, scores_, products_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> scoresIn_;
    AscendC::TQue<AscendC::TPosition::VECIN, 1> productsIn_, statisticsIn_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> weightsOut_;
    AscendC::TQue<AscendC::TPosition::VECOUT, 1> statisticsOut_;
    AscendC::TBuf<AscendC::TPosition::VECCALC> sum_, spread_;
    Floats first_, second_;  // rows of tokens
    Floats lseOf_, deltaOf_, scale_;  // spread: of rows, of a block
};

}  // namespace mindsora

#endif
