// The cube core's part of skiparse attention: loads that gather tokens by stride, and the two kinds of products.
//
//   Scores:       [tile of rows that stays] x [rows that stream]^T, a block of columns at a time, to workspace
//   Products:     [weights, from workspace] x [rows that stream], summed over the block's columns in L0C, to workspace
//   AddProducts:  the same, added up over the unit's blocks in workspace
//   AddTurned:    [weights]^T x [the tile], summed over the tile's rows in L0C, added to sums that cores share
//
// Matrices in L1 are in Nz order (columns of 16 x 16 fractals), in L0A in Zz, in L0B in Zn. LOAD says how a
// sub-sequence is gathered (the tiling key): 0 single skip, one instruction; 1 group skip, one instruction for whole
// runs; 2 an instruction for every run, where a stride does not fit the 16 bits it has.
#ifndef MINDSORA_ATTENTION_CUBE_H
#define MINDSORA_ATTENTION_CUBE_H

#include "attention_units.h"

namespace mindsora {

constexpr uint32_t FRACTAL = 256;           // elements of 16 x 16
constexpr uint32_t LONGEST_STRIDE = 65535;  // of an Nd2Nz instruction, elements
constexpr uint32_t HALVES = 2;              // of a tile that stays: what L0 holds at a time, baseRows
constexpr uint32_t MOST_CHUNKS = 4;         // of a block of rows that stream

template <typename T, uint32_t LOAD>
class Cube {
public:
    using Local = AscendC::LocalTensor<T>;
    using Global = AscendC::GlobalTensor<T>;

    // Buffers of L1 are eight in all, as many as there are events between MTE2 and MTE1: tiles that stay (one, with
    // gradients two), halves of a block of weights, and chunks of the rows that stream.
    __aicore__ inline void Init(const SkiparseAttentionTiling &t, const Units &units, uint32_t tiles, uint32_t chunks,
                                AscendC::TPipe *pipe)
    {
        t_ = &t;
        units_ = &units;
        pipe->InitBuffer(stay_, tiles, t.tileRows * t.headDim * sizeof(T));
        pipe->InitBuffer(stream_, chunks, t.baseRows * t.headDim * sizeof(T));
        pipe->InitBuffer(weights_, 2, t.baseRows * t.blockColumns * sizeof(T));
        const uint32_t inner = Max(t.baseRows, t.headDim);
        pipe->InitBuffer(left_, 2, t.baseRows * inner * sizeof(T));
        pipe->InitBuffer(right_, 2, t.baseRows * inner * sizeof(T));
        pipe->InitBuffer(sums_, 2, t.baseRows * inner * sizeof(float));
    }

    // The unit's own tile of the tensor (video, text), which stays in L1 until it is freed.
    __aicore__ inline Local LoadTile(const Unit &unit, const Global &video, const Global &text)
    {
        Local tile = stay_.template AllocTensor<T>();
        LoadTokens(tile, t_->tileRows, unit, video, text, Row(unit), Row(unit) + unit.rows);
        stay_.EnQue(tile);
        return stay_.template DeQue<T>();
    }

    __aicore__ inline void FreeTile(Local &tile) { stay_.FreeTensor(tile); }

    // scores[rows, columns of the block] = tile x stream^T. Both halves of the tile stay in L0A.
    __aicore__ inline void Scores(const Steps &step, const Local &tile, const Global &video, const Global &text,
                                  const AscendC::GlobalTensor<float> &scores)
    {
        const Unit &unit = step.Now();
        const uint32_t columns = step.Columns(), halves = CeilDiv(unit.rows, t_->baseRows);
        Local left[HALVES];
        for (uint32_t half = 0; half < halves; ++half) {
            left[half] = left_.template AllocTensor<T>();
            LoadLeft(left[half], tile, t_->tileRows, half * t_->baseRows, 0, RoundUp(HalfRows(unit, half), 16),
                     t_->headDim);
            left_.EnQue(left[half]);
            left[half] = left_.template DeQue<T>();
        }
        for (uint32_t chunk = 0; chunk < columns; chunk += t_->baseRows) {
            const uint32_t chunkEnd = Min(chunk + t_->baseRows, columns);
            const uint32_t count = chunkEnd - chunk, count16 = RoundUp(count, 16);
            Local stream = LoadChunk(unit, video, text, step.Column() + chunk, step.Column() + chunkEnd);
            Local right = right_.template AllocTensor<T>();
            LoadRight(right, stream, count16, t_->headDim);
            right_.EnQue(right);
            stream_.FreeTensor(stream);
            right = right_.template DeQue<T>();
            for (uint32_t half = 0; half < halves; ++half) {
                const uint32_t rows = HalfRows(unit, half), rows16 = RoundUp(rows, 16);
                AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
                Multiply(sum, left[half], right, rows16, count16, t_->headDim, true);
                Store(scores[static_cast<uint64_t>(half) * t_->baseRows * t_->blockColumns + chunk], sum, rows, count,
                      rows16, t_->blockColumns);
            }
            right_.FreeTensor(right);
        }
        for (uint32_t half = 0; half < halves; ++half) {
            left_.FreeTensor(left[half]);
        }
    }

    // All the rows of the block that stream: their loads begin before anything is known about the weights.
    __aicore__ inline void LoadStream(const Steps &step, const Global &video, const Global &text)
    {
        const uint32_t columns = step.Columns();
        for (uint32_t chunk = 0; chunk < columns; chunk += t_->baseRows) {
            const uint32_t chunkEnd = Min(chunk + t_->baseRows, columns);
            chunks_[chunk / t_->baseRows] =
                LoadChunk(step.Now(), video, text, step.Column() + chunk, step.Column() + chunkEnd);
        }
    }

    // products[rows, headDim] = weights[rows, columns of the block] x what LoadStream has loaded
    __aicore__ inline void Products(const Steps &step, const Global &weights,
                                    const AscendC::GlobalTensor<float> &products)
    {
        const Unit &unit = step.Now();
        const uint32_t columns = step.Columns(), halves = CeilDiv(unit.rows, t_->baseRows);
        for (uint32_t half = 0; half < halves; ++half) {
            const uint32_t rows = HalfRows(unit, half);
            Local factors = LoadWeights(weights, half, rows, columns);
            AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
            for (uint32_t chunk = 0; chunk < columns; chunk += t_->baseRows) {
                Local &stream = chunks_[chunk / t_->baseRows];
                AddChunk(sum, factors, stream, chunk, Min(chunk + t_->baseRows, columns), rows);
                if (half + 1 == halves) {
                    stream_.FreeTensor(stream);
                }
            }
            weights_.FreeTensor(factors);
            Store(products[half * t_->baseRows * t_->headDim], sum, rows, t_->headDim, RoundUp(rows, 16), t_->headDim);
        }
    }

    // sums[rows, headDim] += weights[rows, columns of the block] x stream, in global memory; the unit's first block
    // stores. KEEP: the weights stay in L1 for AddTurned.
    template <bool KEEP>
    __aicore__ inline void AddProducts(const Steps &step, const Global &weights, const Global &video,
                                       const Global &text, const AscendC::GlobalTensor<float> &sums)
    {
        const Unit &unit = step.Now();
        const uint32_t columns = step.Columns(), halves = CeilDiv(unit.rows, t_->baseRows);
        for (uint32_t half = 0; half < halves; ++half) {
            const uint32_t rows = HalfRows(unit, half);
            Local factors = LoadWeights(weights, half, rows, columns);
            AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
            for (uint32_t chunk = 0; chunk < columns; chunk += t_->baseRows) {
                const uint32_t chunkEnd = Min(chunk + t_->baseRows, columns);
                Local stream = LoadChunk(unit, video, text, step.Column() + chunk, step.Column() + chunkEnd);
                AddChunk(sum, factors, stream, chunk, chunkEnd, rows);
                stream_.FreeTensor(stream);
            }
            if constexpr (KEEP) {
                kept_[half] = factors;
            } else {
                weights_.FreeTensor(factors);
            }
            if (!step.First()) {
                AscendC::PipeBarrier<PIPE_FIX>();  // the block before may have stored just now
                AscendC::SetAtomicAdd<float>();
            }
            Store(sums[half * t_->baseRows * t_->headDim], sum, rows, t_->headDim, RoundUp(rows, 16), t_->headDim);
            AscendC::SetAtomicNone();
        }
    }

    // sums[columns of the block, headDim] += kept weights[rows, columns]^T x the unit's tile of the tensor (video,
    // text): what the tile gives to the rows that stream, summed over the tile in L0C.
    __aicore__ inline void AddTurned(const Steps &step, const Global &video, const Global &text,
                                     const AscendC::GlobalTensor<float> &sums)
    {
        const Unit &unit = step.Now();
        const uint32_t columns = step.Columns(), halves = CeilDiv(unit.rows, t_->baseRows);
        Local tile[HALVES];
        for (uint32_t half = 0; half < halves; ++half) {
            const uint32_t row = Row(unit) + half * t_->baseRows;
            tile[half] = LoadChunk(unit, video, text, row, row + HalfRows(unit, half));
        }
        AscendC::SetAtomicAdd<float>();
        for (uint32_t part = 0; part < columns; part += t_->baseRows) {
            const uint32_t count = Min(t_->baseRows, columns - part), count16 = RoundUp(count, 16);
            AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
            for (uint32_t half = 0; half < halves; ++half) {
                const uint32_t rows = HalfRows(unit, half), rows16 = RoundUp(rows, 16);
                Local left = left_.template AllocTensor<T>();
                LoadLeftTurned(left, kept_[half], part, count16, rows16);
                left_.EnQue(left);
                Local right = right_.template AllocTensor<T>();
                LoadRightTurned(right, tile[half], rows16);
                right_.EnQue(right);
                left = left_.template DeQue<T>();
                right = right_.template DeQue<T>();
                Multiply(sum, left, right, count16, t_->headDim, rows, half == 0);
                left_.FreeTensor(left);
                right_.FreeTensor(right);
            }
            Store(sums[static_cast<uint64_t>(step.Column() + part) * t_->headDim], sum, count, t_->headDim, count16,
                  t_->headDim);
        }
        AscendC::SetAtomicNone();
        for (uint32_t half = 0; half < halves; ++half) {
            stream_.FreeTensor(tile[half]);
            weights_.FreeTensor(kept_[half]);
        }
    }

private:
    __aicore__ inline Local LoadChunk(const Unit &unit, const Global &video, const Global &text, uint32_t row,
                                      uint32_t end)
    {
        Local chunk = stream_.template AllocTensor<T>();
        LoadTokens(chunk, t_->baseRows, unit, video, text, row, end);
        stream_.EnQue(chunk);
        return stream_.template DeQue<T>();
    }

    // Rows of a half tile, of HALVES.
    __aicore__ inline uint32_t HalfRows(const Unit &unit, uint32_t half) const
    {
        return Min(Minus(unit.rows, half * t_->baseRows), t_->baseRows);
    }

    // The unit's first row among [real visual rows | text rows].
    __aicore__ inline uint32_t Row(const Unit &unit) const { return unit.text ? unit.real + unit.row : unit.row; }

    __aicore__ inline Local LoadWeights(const Global &weights, uint32_t half, uint32_t rows, uint32_t columns)
    {
        Local factors = weights_.template AllocTensor<T>();
        Nd2Nz(factors, weights[static_cast<uint64_t>(half) * t_->baseRows * t_->blockColumns], 1, rows, columns, 0,
              t_->blockColumns, t_->baseRows);
        weights_.EnQue(factors);
        return weights_.template DeQue<T>();
    }

    // sum += weights[rows, columns chunk to chunkEnd of the block] x the chunk of rows that stream
    __aicore__ inline void AddChunk(const AscendC::LocalTensor<float> &sum, const Local &factors, const Local &stream,
                                    uint32_t chunk, uint32_t chunkEnd, uint32_t rows)
    {
        const uint32_t rows16 = RoundUp(rows, 16), count = chunkEnd - chunk, count16 = RoundUp(count, 16);
        Local left = left_.template AllocTensor<T>();
        LoadLeft(left, factors, t_->baseRows, 0, chunk, rows16, count16);
        left_.EnQue(left);
        Local right = right_.template AllocTensor<T>();
        LoadRightTurned(right, stream, count16);
        right_.EnQue(right);
        left = left_.template DeQue<T>();
        right = right_.template DeQue<T>();
        // k is the exact number of rows: the cube ignores what fills up the last fractal.
        Multiply(sum, left, right, rows16, t_->headDim, count, chunk == 0);
        left_.FreeTensor(left);
        right_.FreeTensor(right);
    }

    // `count` matrices of `rows` rows, one under the other. Strides in elements; height: rows the L1 buffer is laid out
    // for.
    __aicore__ inline void Nd2Nz(const Local &to, const Global &from, uint32_t count, uint32_t rows, uint32_t width,
                                 uint32_t matrixStride, uint32_t rowStride, uint32_t height)
    {
        AscendC::Nd2NzParams params;  // no casts: a value that needs more than 16 bits must not go unnoticed
        params.ndNum = count;
        params.nValue = rows;
        params.dValue = width;
        params.srcNdMatrixStride = matrixStride;
        params.srcDValue = rowStride;
        params.dstNzC0Stride = height;
        params.dstNzNStride = 1;
        params.dstNzMatrixStride = count > 1 ? rows * 16 : 0;
        AscendC::DataCopy(to, from, params);
    }

    // Rows [row, end) of the sub-sequence's [visual | text] rows.
    __aicore__ inline void LoadTokens(const Local &to, uint32_t height, const Unit &unit, const Global &video,
                                      const Global &text, uint32_t row, uint32_t end)
    {
        const uint32_t first = row, videoEnd = Min(end, unit.real);
        while (row < videoEnd) {
            const Run run = units_->Rows().From(unit.j, row, videoEnd);
            LoadRun(to[(row - first) * 16], height, video, run);
            row += run.Rows();
        }
        if (row < end) {
            LoadNeighbours(to[(row - first) * 16], height, text, row - unit.real, end - row);
        }
    }

    __aicore__ inline void LoadRun(const Local &to, uint32_t height, const Global &video, const Run &run)
    {
        const uint32_t stride = t_->tokenStride;
        if (run.blocks == 1) {
            LoadNeighbours(to, height, video, run.token, run.blockRows);
        } else if constexpr (LOAD == 0) {
            Nd2Nz(to, video[static_cast<uint64_t>(run.token) * stride], 1, run.blocks, t_->headDim, 0,
                  run.stride * stride, height);
        } else if constexpr (LOAD == 1) {
            Nd2Nz(to, video[static_cast<uint64_t>(run.token) * stride], run.blocks, run.blockRows, t_->headDim,
                  run.stride * stride, stride, height);
        } else {
            for (uint32_t b = 0; b < run.blocks; ++b) {
                LoadNeighbours(to[b * run.blockRows * 16], height, video, run.token + b * run.stride, run.blockRows);
            }
        }
    }

    __aicore__ inline void LoadNeighbours(const Local &to, uint32_t height, const Global &from, uint32_t token,
                                          uint32_t count)
    {
        const uint64_t stride = t_->tokenStride;
        if (LOAD != 2 || stride <= LONGEST_STRIDE || count == 1) {
            Nd2Nz(to, from[token * stride], 1, count, t_->headDim, 0, count == 1 ? t_->headDim : stride, height);
            return;
        }
        for (uint32_t r = 0; r < count; ++r) {
            Nd2Nz(to[r * 16], from[(token + r) * stride], 1, 1, t_->headDim, 0, t_->headDim, height);
        }
    }

    __aicore__ inline void LoadFractals(const Local &to, const Local &from, uint32_t start, uint32_t count,
                                        uint32_t stride, bool turned)
    {
        AscendC::LoadData2DParams params;
        params.startIndex = start;
        params.repeatTimes = count;
        params.srcStride = stride;
        params.dstGap = 0;
        params.ifTranspose = turned;
        AscendC::LoadData(to, from, params);
    }

    // Left operand [rows, depth] from `row` and `column` on of a matrix laid out for `height` rows.
    __aicore__ inline void LoadLeft(const Local &to, const Local &from, uint32_t height, uint32_t row, uint32_t column,
                                    uint32_t rows, uint32_t depth)
    {
        for (uint32_t i = 0; i < rows / 16; ++i) {
            LoadFractals(to[i * (depth / 16) * FRACTAL], from, column / 16 * (height / 16) + row / 16 + i, depth / 16,
                         height / 16, false);
        }
    }

    // Left operand [rows, depth], the transpose of columns [column, column + rows) of the weights.
    __aicore__ inline void LoadLeftTurned(const Local &to, const Local &from, uint32_t column, uint32_t rows,
                                          uint32_t depth)
    {
        for (uint32_t i = 0; i < rows / 16; ++i) {
            LoadFractals(to[i * (depth / 16) * FRACTAL], from, (column / 16 + i) * (t_->baseRows / 16), depth / 16, 1,
                         true);
        }
    }

    // Right operand [depth, count], the transpose of the first `count` rows of a chunk: its fractals as they are.
    __aicore__ inline void LoadRight(const Local &to, const Local &from, uint32_t count, uint32_t depth)
    {
        if (count == t_->baseRows) {  // they lie close together
            LoadFractals(to, from, 0, depth / 16 * (count / 16), 1, false);
            return;
        }
        for (uint32_t d = 0; d < depth / 16; ++d) {
            LoadFractals(to[d * (count / 16) * FRACTAL], from, d * (t_->baseRows / 16), count / 16, 1, false);
        }
    }

    // Right operand [count, headDim]: the first `count` rows of a chunk, each fractal transposed.
    __aicore__ inline void LoadRightTurned(const Local &to, const Local &from, uint32_t count)
    {
        for (uint32_t i = 0; i < count / 16; ++i) {
            LoadFractals(to[i * (t_->headDim / 16) * FRACTAL], from, i, t_->headDim / 16, t_->baseRows / 16, true);
        }
    }

    __aicore__ inline void Multiply(const AscendC::LocalTensor<float> &sum, const Local &left, const Local &right,
                                    uint32_t m, uint32_t n, uint32_t k, bool first)
    {
        if (!first && m / 16 * (n / 16) < 10) {
            AscendC::PipeBarrier<PIPE_M>();  // so small a product may overtake the one it adds to
        }
        AscendC::MmadParams params;
        params.m = m;
        params.n = n;
        params.k = k;
        params.cmatrixInitVal = first;
        AscendC::Mmad(sum, left, right, params);
    }

    // [rows, columns] of a finished sum to global memory; height: rows that L0C is laid out for.
    __aicore__ inline void Store(const AscendC::GlobalTensor<float> &to, AscendC::LocalTensor<float> sum, uint32_t rows,
                                 uint32_t columns, uint32_t height, uint32_t stride)
    {
        sums_.EnQue(sum);
        sum = sums_.template DeQue<float>();
        AscendC::FixpipeParamsV220 params;
        params.nSize = columns;
        params.mSize = rows;
        params.srcStride = height;
        params.dstStride = stride;
        params.ndNum = 1;
        AscendC::Fixpipe<float, float, AscendC::CFG_ROW_MAJOR>(to, sum, params);
        sums_.FreeTensor(sum);
    }

    const SkiparseAttentionTiling *t_;
    const Units *units_;
    Local chunks_[MOST_CHUNKS], kept_[HALVES];
    AscendC::TQue<AscendC::TPosition::A1, 1> stay_;
    AscendC::TQue<AscendC::TPosition::B1, 1> stream_;
    AscendC::TQue<AscendC::TPosition::A1, 1> weights_;
    AscendC::TQue<AscendC::TPosition::A2, 1> left_;
    AscendC::TQue<AscendC::TPosition::B2, 1> right_;
    AscendC::TQue<AscendC::TPosition::CO1, 1> sums_;
};

}  // namespace mindsora

#endif
