// What the vector cores of forward and gradients share: row arithmetic on blocks in UB, and results on their way out.
//
// A matrix of `rows` rows in UB is worked on 64 columns at a time, one instruction repeating over the rows.
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
    __aicore__ inline Half(const Unit &unit, uint32_t tileRows)
    {
        const uint32_t half = tileRows / 2;
        first = AscendC::GetSubBlockIdx() * half;
        rows = Min(Minus(unit.rows, first), half);
        stored = Min(Minus(unit.stored, first), half);
    }
};

// tmp[row][64] = the columns of each row folded with Max or Add; returns where the result is and its row stride in
// blocks.
template <bool SUM>
__aicore__ inline void FoldColumns(const Floats &matrix, const Floats &tmp, uint32_t columns, uint32_t rows,
                                   uint32_t rowBlocks, Floats &result, uint32_t &resultBlocks)
{
    result = matrix;
    resultBlocks = rowBlocks;
    for (uint32_t c = LANES; c < columns; c += LANES) {
        const AscendC::BinaryRepeatParams params(1, 1, 1, 8, resultBlocks, rowBlocks);
        if constexpr (SUM) {
            AscendC::Add(tmp, result, matrix[c], LANES, rows, params);
        } else {
            AscendC::Max(tmp, result, matrix[c], LANES, rows, params);
        }
        AscendC::PipeBarrier<PIPE_V>();
        result = tmp;
        resultBlocks = 8;
    }
}

// One number a row, spread over a block each: an operand with block stride 0 and repeat stride 1.
__aicore__ inline void SpreadRows(const Floats &spread, const Floats &numbers, uint32_t rows)
{
    AscendC::Brcb(spread, numbers, CeilDiv(rows, 8), AscendC::BrcbRepeatParams(1, 8));
    AscendC::PipeBarrier<PIPE_V>();
}

enum class RowOp { SUB, MUL, DIV };

// matrix[row] op= numbers[row], the numbers spread. The last instruction covers what is left of `columns`.
template <RowOp OP>
__aicore__ inline void PerRow(const Floats &matrix, const Floats &spread, uint32_t columns, uint32_t rows,
                              uint32_t rowBlocks)
{
    const AscendC::BinaryRepeatParams params(1, 1, 0, rowBlocks, rowBlocks, 1);
    for (uint32_t c = 0; c < columns; c += LANES) {
        const uint32_t lanes = Min(LANES, columns - c);
        if constexpr (OP == RowOp::SUB) {
            AscendC::Sub(matrix[c], matrix[c], spread, lanes, rows, params);
        } else if constexpr (OP == RowOp::MUL) {
            AscendC::Mul(matrix[c], matrix[c], spread, lanes, rows, params);
        } else {
            AscendC::Div(matrix[c], matrix[c], spread, lanes, rows, params);
        }
    }
    AscendC::PipeBarrier<PIPE_V>();
}

__aicore__ inline void Scale(const Floats &matrix, float factor, uint32_t columns, uint32_t rows, uint32_t rowBlocks)
{
    for (uint32_t c = 0; c < columns; c += LANES) {
        AscendC::Muls(matrix[c], matrix[c], factor, LANES, rows,
                      AscendC::UnaryRepeatParams(1, 1, rowBlocks, rowBlocks));
    }
    AscendC::PipeBarrier<PIPE_V>();
}

__aicore__ inline void Exponentiate(const Floats &matrix, uint32_t columns, uint32_t rows, uint32_t rowBlocks)
{
    for (uint32_t c = 0; c < columns; c += LANES) {
        AscendC::Exp(matrix[c], matrix[c], LANES, rows, AscendC::UnaryRepeatParams(1, 1, rowBlocks, rowBlocks));
    }
    AscendC::PipeBarrier<PIPE_V>();
}

// Rows of a block of scores from the workspace, filled up with `filler` to whole 64 columns.
template <typename Queue>
__aicore__ inline Floats LoadScores(Queue &queue, const AscendC::GlobalTensor<float> &from, uint32_t columns,
                                    uint32_t rows, uint32_t blockColumns, float filler)
{
    Floats scores = queue.template AllocTensor<float>();
    const uint32_t columns8 = RoundUp(columns, 8), columns64 = RoundUp(columns, LANES);
    AscendC::DataCopyExtParams params =
        Strided(rows, columns * sizeof(float), (blockColumns - columns) * sizeof(float), (blockColumns - columns8) / 8);
    AscendC::DataCopyPadExtParams<float> pad;
    pad.isPad = columns8 != columns;
    pad.leftPadding = 0;
    pad.rightPadding = columns8 - columns;
    pad.paddingValue = filler;
    AscendC::DataCopyPad(scores, from, params, pad);
    queue.EnQue(scores);
    scores = queue.template DeQue<float>();
    if (columns8 != columns64) {
        AscendC::Duplicate(scores[columns8], filler, columns64 - columns8, rows, 1, blockColumns / 8);
        AscendC::PipeBarrier<PIPE_V>();
    }
    return scores;
}

// Rows of weights, rounded, to the workspace. Columns are filled up to 16 by what the scores were filled up with.
template <typename T, typename Queue>
__aicore__ inline void StoreWeights(Queue &queue, const AscendC::GlobalTensor<T> &to, const Floats &weights,
                                    uint32_t columns, uint32_t rows, uint32_t blockColumns)
{
    AscendC::LocalTensor<T> rounded = queue.template AllocTensor<T>();
    for (uint32_t c = 0; c < columns; c += LANES) {
        AscendC::Cast(rounded[c], weights[c], AscendC::RoundMode::CAST_RINT, LANES, rows,
                      AscendC::UnaryRepeatParams(1, 1, blockColumns / 16, blockColumns / 8));
    }
    AscendC::PipeBarrier<PIPE_V>();
    queue.EnQue(rounded);
    rounded = queue.template DeQue<T>();
    const uint32_t columns16 = RoundUp(columns, 16);
    AscendC::DataCopyPad(
        to, rounded,
        Strided(rows, columns16 * sizeof(T), (blockColumns - columns16) / 16, (blockColumns - columns16) * sizeof(T)));
    queue.FreeTensor(rounded);
}

// `count` numbers rounded to T, in a buffer of the queue that may be stored.
template <typename T, typename Queue>
__aicore__ inline AscendC::LocalTensor<T> Narrowed(Queue &queue, const Floats &matrix, uint32_t count)
{
    AscendC::LocalTensor<T> rounded = queue.template AllocTensor<T>();
    AscendC::Cast(rounded, matrix, AscendC::RoundMode::CAST_RINT, count);
    AscendC::PipeBarrier<PIPE_V>();
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

// sum += `count` neighbouring numbers, `most` at a time; `first`: sum = them.
template <typename Queue>
__aicore__ inline void AddProducts(Queue &queue, const AscendC::GlobalTensor<float> &from, uint32_t count,
                                   uint32_t most, bool first, const Floats &sum)
{
    for (uint32_t at = 0; at < count; at += most) {
        const uint32_t length = Min(most, count - at);
        Floats part = queue.template AllocTensor<float>();
        AscendC::DataCopy(part, from[at], length);
        queue.EnQue(part);
        part = queue.template DeQue<float>();
        if (first) {
            AscendC::Adds(sum[at], part, 0.0f, static_cast<int32_t>(length));
        } else {
            AscendC::Add(sum[at], sum[at], part, static_cast<int32_t>(length));
        }
        AscendC::PipeBarrier<PIPE_V>();
        queue.FreeTensor(part);
    }
}

}  // namespace mindsora

#endif
