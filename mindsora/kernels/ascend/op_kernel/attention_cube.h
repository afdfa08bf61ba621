// The cube core's part of skiparse attention: loads that gather tokens by stride, and the two kinds of products.
//
//   Scores:    [tile of rows that stays] x [rows that stream]^T, a block of columns at a time, to workspace
//   Products:  [weights, from workspace] x [rows that stream], summed over the block's columns in L0C, to workspace
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

template <typename T, uint32_t LOAD>
class Cube {
public:
    using Local = AscendC::LocalTensor<T>;
    using Global = AscendC::GlobalTensor<T>;

    // stationary: matrices that stay (1 forward, 2 gradients), each with a second buffer to load ahead. Buffers of L1
    // are eight in all, as many as there are events between MTE2 and MTE1.
    __aicore__ inline void Init(const SkiparseAttentionTiling &t, const Units &units, uint32_t stationary,
                                AscendC::TPipe *pipe)
    {
        t_ = &t;
        units_ = &units;
        const uint32_t tile = t.tileRows * t.headDim * sizeof(T);
        pipe->InitBuffer(stay_, stationary * 2, tile);
        pipe->InitBuffer(stream_, 6 - stationary * 2, t.chunkRows * t.headDim * sizeof(T));
        pipe->InitBuffer(weights_, 2, t.tileRows * t.chunkRows * sizeof(T));
        const uint32_t inner = Max(t.tileRows, t.headDim);
        pipe->InitBuffer(left_, 2, t.tileRows * inner * sizeof(T));
        pipe->InitBuffer(right_, 2, t.tileRows * inner * sizeof(T));
        pipe->InitBuffer(sums_, 2, t.tileRows * inner * sizeof(float));
    }

    // The unit's own tile of the tensor (video, text), which stays in L1 until it is freed.
    __aicore__ inline Local LoadTile(const Unit &unit, const Global &video, const Global &text)
    {
        const uint32_t row = unit.text ? unit.real + unit.row : unit.row;
        Local tile = stay_.template AllocTensor<T>();
        LoadTokens(tile, t_->tileRows, unit, video, text, row, row + unit.rows);
        stay_.EnQue(tile);
        return stay_.template DeQue<T>();
    }

    __aicore__ inline void FreeTile(Local &tile) { stay_.FreeTensor(tile); }

    // scores[rows, columns of the block] = tile x stream^T
    __aicore__ inline void Scores(const Steps &step, const Local &tile, const Global &video, const Global &text,
                                  const AscendC::GlobalTensor<float> &scores)
    {
        const Unit &unit = step.Now();
        const uint32_t rows16 = RoundUp(unit.rows, 16), columns = step.Columns();
        Local left = left_.template AllocTensor<T>();
        LoadLeft(left, tile, t_->tileRows, 0, rows16, t_->headDim);
        left_.EnQue(left);
        left = left_.template DeQue<T>();
        for (uint32_t chunk = 0; chunk < columns; chunk += t_->chunkRows) {
            const uint32_t chunkEnd = Min(chunk + t_->chunkRows, columns);
            Local stream = LoadChunk(unit, video, text, step.Column() + chunk, step.Column() + chunkEnd);
            for (uint32_t part = chunk; part < chunkEnd; part += t_->tileRows) {
                const uint32_t count = Min(t_->tileRows, chunkEnd - part), count16 = RoundUp(count, 16);
                Local right = right_.template AllocTensor<T>();
                LoadRight(right, stream, part - chunk, count16, t_->headDim);
                right_.EnQue(right);
                right = right_.template DeQue<T>();
                AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
                Multiply(sum, left, right, rows16, count16, t_->headDim, true);
                right_.FreeTensor(right);
                Store(scores[part], sum, unit.rows, count, rows16, t_->blockColumns);
            }
            stream_.FreeTensor(stream);
        }
        left_.FreeTensor(left);
    }

    // products[rows, headDim] = weights[rows, columns of the block] x stream
    __aicore__ inline void Products(const Steps &step, const Global &weights, const Global &video, const Global &text,
                                    const AscendC::GlobalTensor<float> &products)
    {
        const Unit &unit = step.Now();
        const uint32_t rows16 = RoundUp(unit.rows, 16), columns = step.Columns();
        AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
        for (uint32_t chunk = 0; chunk < columns; chunk += t_->chunkRows) {
            const uint32_t chunkEnd = Min(chunk + t_->chunkRows, columns);
            Local factors = LoadWeights(weights, unit.rows, chunk, chunkEnd);
            Local stream = LoadChunk(unit, video, text, step.Column() + chunk, step.Column() + chunkEnd);
            for (uint32_t part = chunk; part < chunkEnd; part += t_->tileRows) {
                const uint32_t count = Min(t_->tileRows, chunkEnd - part), count16 = RoundUp(count, 16);
                Local left = left_.template AllocTensor<T>();
                LoadLeft(left, factors, t_->tileRows, part - chunk, rows16, count16);
                left_.EnQue(left);
                Local right = right_.template AllocTensor<T>();
                LoadRightTurned(right, stream, t_->chunkRows, part - chunk, count16);
                right_.EnQue(right);
                left = left_.template DeQue<T>();
                right = right_.template DeQue<T>();
                // k is the exact number of rows: the cube ignores what fills up the last fractal.
                Multiply(sum, left, right, rows16, t_->headDim, count, part == 0);
                left_.FreeTensor(left);
                right_.FreeTensor(right);
            }
            weights_.FreeTensor(factors);
            stream_.FreeTensor(stream);
        }
        Store(products, sum, unit.rows, t_->headDim, rows16, t_->headDim);
    }

    // sums[columns of the block, headDim] += weights[rows, columns]^T x tile: what the tile gives to the rows that
    // stream.
    __aicore__ inline void AddTurned(const Steps &step, const Global &weights, const Local &tile,
                                     const AscendC::GlobalTensor<float> &sums)
    {
        const Unit &unit = step.Now();
        const uint32_t rows16 = RoundUp(unit.rows, 16), columns = step.Columns();
        AscendC::SetAtomicAdd<float>();
        for (uint32_t chunk = 0; chunk < columns; chunk += t_->chunkRows) {
            const uint32_t chunkEnd = Min(chunk + t_->chunkRows, columns);
            Local factors = LoadWeights(weights, unit.rows, chunk, chunkEnd);
            for (uint32_t part = chunk; part < chunkEnd; part += t_->tileRows) {
                const uint32_t count = Min(t_->tileRows, chunkEnd - part), count16 = RoundUp(count, 16);
                Local left = left_.template AllocTensor<T>();
                LoadLeftTurned(left, factors, part - chunk, count16, rows16);
                left_.EnQue(left);
                Local right = right_.template AllocTensor<T>();
                LoadRightTurned(right, tile, t_->tileRows, 0, rows16);
                right_.EnQue(right);
                left = left_.template DeQue<T>();
                right = right_.template DeQue<T>();
                AscendC::LocalTensor<float> sum = sums_.template AllocTensor<float>();
                Multiply(sum, left, right, count16, t_->headDim, unit.rows, true);
                left_.FreeTensor(left);
                right_.FreeTensor(right);
                Store(sums[static_cast<uint64_t>(step.Column() + part) * t_->headDim], sum, count, t_->headDim, count16,
                      t_->headDim);
            }
            weights_.FreeTensor(factors);
        }
        AscendC::SetAtomicNone();
    }

private:
    __aicore__ inline Local LoadChunk(const Unit &unit, const Global &video, const Global &text, uint32_t row,
                                      uint32_t end)
    {
        Local chunk = stream_.template AllocTensor<T>();
        LoadTokens(chunk, t_->chunkRows, unit, video, text, row, end);
        stream_.EnQue(chunk);
        return stream_.template DeQue<T>();
    }

    __aicore__ inline Local LoadWeights(const Global &weights, uint32_t rows, uint32_t column, uint32_t end)
    {
        Local factors = weights_.template AllocTensor<T>();
        Nd2Nz(factors, weights[column], 1, rows, end - column, 0, t_->blockColumns, t_->tileRows);
        weights_.EnQue(factors);
        return weights_.template DeQue<T>();
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

    // Left operand [rows, depth] from columns [column, column + depth) of a matrix of `height` rows.
    __aicore__ inline void LoadLeft(const Local &to, const Local &from, uint32_t height, uint32_t column, uint32_t rows,
                                    uint32_t depth)
    {
        for (uint32_t i = 0; i < rows / 16; ++i) {
            LoadFractals(to[i * (depth / 16) * FRACTAL], from, column / 16 * (height / 16) + i, depth / 16, height / 16,
                         false);
        }
    }

    // Left operand [rows, depth], the transpose of columns [column, column + rows) of the weights.
    __aicore__ inline void LoadLeftTurned(const Local &to, const Local &from, uint32_t column, uint32_t rows,
                                          uint32_t depth)
    {
        for (uint32_t i = 0; i < rows / 16; ++i) {
            LoadFractals(to[i * (depth / 16) * FRACTAL], from, (column / 16 + i) * (t_->tileRows / 16), depth / 16, 1,
                         true);
        }
    }

    // Right operand [depth, count], the transpose of rows [row, row + count) of a chunk: its fractals as they are.
    __aicore__ inline void LoadRight(const Local &to, const Local &from, uint32_t row, uint32_t count, uint32_t depth)
    {
        for (uint32_t d = 0; d < depth / 16; ++d) {
            LoadFractals(to[d * (count / 16) * FRACTAL], from, d * (t_->chunkRows / 16) + row / 16, count / 16, 1,
                         false);
        }
    }

    // Right operand [count, headDim]: rows [row, row + count), each fractal transposed.
    __aicore__ inline void LoadRightTurned(const Local &to, const Local &from, uint32_t height, uint32_t row,
                                           uint32_t count)
    {
        for (uint32_t i = 0; i < count / 16; ++i) {
            LoadFractals(to[i * (t_->headDim / 16) * FRACTAL], from, row / 16 + i, t_->headDim / 16, height / 16, true);
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
    AscendC::TQue<AscendC::TPosition::A1, 1> stay_;
    AscendC::TQue<AscendC::TPosition::B1, 1> stream_;
    AscendC::TQue<AscendC::TPosition::A1, 1> weights_;
    AscendC::TQue<AscendC::TPosition::A2, 1> left_;
    AscendC::TQue<AscendC::TPosition::B2, 1> right_;
    AscendC::TQue<AscendC::TPosition::CO1, 1> sums_;
};

}  // namespace mindsora

#endif
