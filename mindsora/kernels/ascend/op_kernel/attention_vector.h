// What the vector cores of forward and gradients share: row arithmetic on blocks in UB, and results on their way out.
//
// A vector instruction works on 64 floats and repeats. Instructions that need what another has written, or write what it
// reads, stand behind a PipeBarrier: the functions here say in which of their steps, the caller puts the barrier.
#ifndef MINDSORA_ATTENTION_VECTOR_H
#define MINDSORA_ATTENTION_VECTOR_H

#include "attention_units.h"

namespace mindsora {

constexpr uint32_t LANES = 64;      // floats of one vector instruction
constexpr float EXCLUDED = -1e30f;  // the score of columns that fill up 64: its exponential is exactly 0

using Floats = AscendC::LocalTensor<float>;

// The vector core's share of a tile: half of its rows.
struct Half {
    uint32_t first, rows, stored;
    __aicore__ inline Half(const Unit &unit)
    {
        const uint32_t half = RoundUp(CeilDiv(unit.stored, 2), 8);
        first = AscendC::GetSubBlockIdx() * half;
        rows = Min(Minus(unit.rows, first), half);
        stored = Min(Minus(unit.stored, first), half);
    }
};

// A matrix in UB: `columns` of the `blockColumns` that its rows have room for. Whole rows lie close together, so that one
// instruction does for all of them; columns that fill up 64 are worked on with the rest.
struct Extent {
    uint32_t rows, columns, blockColumns;
    __aicore__ inline bool Whole() const { return columns == blockColumns; }
    __aicore__ inline int32_t Count() const { return static_cast<int32_t>(rows * blockColumns); }
    __aicore__ inline uint32_t Stride() const { return blockColumns / 8; }  // of rows, in blocks
};

// parts[row][columns / 8] = maxima or sums of eight neighbouring columns each: the first of two steps to one number a row.
template <bool SUM>
__aicore__ inline void ReduceBlocks(const Floats &parts, const Floats &matrix, const Extent &e)
{
    const uint32_t steps = e.Whole() ? 1 : CeilDiv(e.columns, LANES);
    const int32_t repeat = e.Whole() ? e.Count() / static_cast<int32_t>(LANES) : static_cast<int32_t>(e.rows);
    const int32_t to = e.Whole() ? 1 : static_cast<int32_t>(e.Stride() / 8), from = e.Whole() ? 8 : e.Stride();
    for (uint32_t step = 0; step < steps; ++step) {
        if constexpr (SUM) {
            AscendC::BlockReduceSum(parts[step * 8], matrix[step * LANES], repeat, LANES, to, 1, from);
        } else {
            AscendC::BlockReduceMax(parts[step * 8], matrix[step * LANES], repeat, LANES, to, 1, from);
        }
    }
}

// numbers[row] = maximum or sum of the row's parts.
template <bool SUM>
__aicore__ inline void ReduceParts(const Floats &numbers, const Floats &parts, const Extent &e)
{
    const int32_t lanes = RoundUp(e.columns, LANES) / 8, stride = e.Stride() / 8;
    if constexpr (SUM) {
        AscendC::WholeReduceSum(numbers, parts, lanes, static_cast<int32_t>(e.rows), 1, 1, stride);
    } else {
        AscendC::WholeReduceMax(numbers, parts, lanes, static_cast<int32_t>(e.rows), 1, 1, stride,
                                AscendC::ReduceOrder::ORDER_ONLY_VALUE);
    }
}

// One number a row, spread over a block each: an operand with block stride 0 and repeat stride 1.
__aicore__ inline void SpreadRows(const Floats &spread, const Floats &numbers, uint32_t rows)
{
    AscendC::Brcb(spread, numbers, CeilDiv(rows, 8), AscendC::BrcbRepeatParams(1, 8));
}

// matrix = matrix * factor + addend. `factor`: a block of one number; `addend`: a block for every row (PER_ROW), or a row.
template <bool PER_ROW>
__aicore__ inline void ScaleAndAdd(const Floats &matrix, const Floats &factor, const Floats &addend, const Extent &e)
{
    const AscendC::BinaryRepeatParams params(1, 0, PER_ROW ? 0 : 1, e.Stride(), 0, PER_ROW ? 1 : 0);
    for (uint32_t c = 0; c < e.columns; c += LANES) {
        AscendC::FusedMulAdd(matrix[c], factor, PER_ROW ? addend : addend[c], LANES, e.rows, params);
    }
}

enum class RowOp { MUL, DIV };

// matrix[row] op= numbers[row], the numbers spread. The last instruction covers what is left of `columns`.
template <RowOp OP>
__aicore__ inline void PerRow(const Floats &matrix, const Floats &spread, uint32_t columns, uint32_t rows)
{
    const AscendC::BinaryRepeatParams params(1, 1, 0, columns / 8, columns / 8, 1);
    for (uint32_t c = 0; c < columns; c += LANES) {
        const uint32_t lanes = Min(LANES, columns - c);
        if constexpr (OP == RowOp::MUL) {
            AscendC::Mul(matrix[c], matrix[c], spread, lanes, rows, params);
        } else {
            AscendC::Div(matrix[c], matrix[c], spread, lanes, rows, params);
        }
    }
}

__aicore__ inline void Exponentiate(const Floats &matrix, const Extent &e)
{
    if (e.Whole()) {
        AscendC::Exp(matrix, matrix, e.Count());
        return;
    }
    for (uint32_t c = 0; c < e.columns; c += LANES) {
        AscendC::Exp(matrix[c], matrix[c], LANES, e.rows, AscendC::UnaryRepeatParams(1, 1, e.Stride(), e.Stride()));
    }
}

__aicore__ inline void Multiply(const Floats &matrix, const Floats &other, const Extent &e)
{
    if (e.Whole()) {
        AscendC::Mul(matrix, matrix, other, e.Count());
        return;
    }
    const AscendC::BinaryRepeatParams params(1, 1, 1, e.Stride(), e.Stride(), e.Stride());
    for (uint32_t c = 0; c < e.columns; c += LANES) {
        AscendC::Mul(matrix[c], matrix[c], other[c], LANES, e.rows, params);
    }
}

// Rows of a block of scores on their way from the workspace; TakeScores has them.
template <typename Queue>
__aicore__ inline void LoadScores(Queue &queue, const AscendC::GlobalTensor<float> &from, const Extent &e, float filler)
{
    Floats scores = queue.template AllocTensor<float>();
    const uint32_t columns8 = RoundUp(e.columns, 8);
    AscendC::DataCopyExtParams params =
        Strided(e.rows, e.columns * sizeof(float), (e.blockColumns - e.columns) * sizeof(float),
                (e.blockColumns - columns8) / 8);
    AscendC::DataCopyPadExtParams<float> pad;
    pad.isPad = columns8 != e.columns;
    pad.leftPadding = 0;
    pad.rightPadding = columns8 - e.columns;
    pad.paddingValue = filler;
    AscendC::DataCopyPad(scores, from, params, pad);
    queue.EnQue(scores);
}

// Filled up with `filler` to whole 64 columns.
template <typename Queue>
__aicore__ inline Floats TakeScores(Queue &queue, const Extent &e, float filler)
{
    const Floats scores = queue.template DeQue<float>();
    const uint32_t columns8 = RoundUp(e.columns, 8), columns64 = RoundUp(e.columns, LANES);
    if (columns8 != columns64) {
        AscendC::Duplicate(scores[columns8], filler, columns64 - columns8, e.rows, 1, e.Stride());
        AscendC::PipeBarrier<PIPE_V>();
    }
    return scores;
}

// Rows of weights, rounded, to the workspace. Columns are filled up to 16 by what the scores were filled up with.
template <typename T, typename Queue>
__aicore__ inline void StoreWeights(Queue &queue, const AscendC::GlobalTensor<T> &to, const Floats &weights,
                                    const Extent &e)
{
    AscendC::LocalTensor<T> rounded = queue.template AllocTensor<T>();
    if (e.Whole()) {
        AscendC::Cast(rounded, weights, AscendC::RoundMode::CAST_RINT, static_cast<uint32_t>(e.Count()));
    } else {
        for (uint32_t c = 0; c < e.columns; c += LANES) {
            AscendC::Cast(rounded[c], weights[c], AscendC::RoundMode::CAST_RINT, LANES, e.rows,
                          AscendC::UnaryRepeatParams(1, 1, e.blockColumns / 16, e.blockColumns / 8));
        }
    }
    queue.EnQue(rounded);
    rounded = queue.template DeQue<T>();
    const uint32_t columns16 = RoundUp(e.columns, 16), rest = e.blockColumns - columns16;
    AscendC::DataCopyPad(to, rounded, Strided(e.rows, columns16 * sizeof(T), rest / 16, rest * sizeof(T)));
    queue.FreeTensor(rounded);
}

// `count` numbers rounded to T, in a buffer of the queue that may be stored.
template <typename T, typename Queue>
__aicore__ inline AscendC::LocalTensor<T> Narrowed(Queue &queue, const Floats &matrix, uint32_t count)
{
    AscendC::LocalTensor<T> rounded = queue.template AllocTensor<T>();
    AscendC::Cast(rounded, matrix, AscendC::RoundMode::CAST_RINT, count);
    queue.EnQue(rounded);
    return queue.template DeQue<T>();
}

// sum += count neighbouring numbers; `first`: sum = them. S is float or T.
template <typename S, typename Queue>
__aicore__ inline void AddPart(Queue &queue, const AscendC::GlobalTensor<S> &from, uint32_t count, bool first,
                               const Floats &sum, const Floats &tmp)
{
    AscendC::DataCopyPadExtParams<S> noPad;
    noPad.isPad = false;
    AscendC::LocalTensor<S> part = queue.template AllocTensor<S>();
    AscendC::DataCopyPad(part, from, Strided(1, count * sizeof(S), 0, 0), noPad);
    queue.EnQue(part);
    part = queue.template DeQue<S>();
    const Floats wide = first ? sum : tmp;
    if constexpr (sizeof(S) == sizeof(float)) {
        AscendC::Adds(wide, part, 0.0f, static_cast<int32_t>(count));
    } else {
        AscendC::Cast(wide, part, AscendC::RoundMode::CAST_NONE, count);
    }
    AscendC::PipeBarrier<PIPE_V>();
    queue.FreeTensor(part);
    if (!first) {
        AscendC::Add(sum, sum, tmp, static_cast<int32_t>(count));
        AscendC::PipeBarrier<PIPE_V>();
    }
}

}  // namespace mindsora

#endif
