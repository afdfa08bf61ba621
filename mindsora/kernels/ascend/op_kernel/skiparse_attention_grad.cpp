// Skiparse attention, gradients, from the row statistics that the forward pass stored: P is computed again.
//
//   q, k, v, out, lse as in skiparse_attention.cpp, dOut (B, N, H, D)
//   text (n + 4, B, L, H, D): the n parts of the text output, then textQ, textK, textV, dTextOut
//   lengths int32: its first B numbers are the text lengths
//   ->  dQ, dK, dV (B, N, H, D)   dText (3, B, L, H, D): of textQ, textK, textV
//
//   delta = row sum of dOut * out      P = exp(scale * Q K^T - lse)      dP = dOut V^T      dS = scale * P * (dP -
//   delta) dV = P^T dOut      dK = dS^T Q      dQ = dS K
// Text rows carry ln n in lse, so their P is that of the mean over sub-sequences, and dTextOut is used as it comes.
//
// Sweep 1: a tile of 256 keys stays, queries stream past in blocks of 512; everything transposed, [keys, queries].
//   cube    S^T = K Q^T and dP^T = V dOut^T, two blocks ahead                        flag SCORES_READY
//   vector  P^T and dS^T                                                             flag WEIGHTS_READY
//   cube    dV += P^T dOut and dK += dS^T Q in workspace, dQ += dS K by atomic       after the last block flag
//           addition; dS is loaded once for both                                     PRODUCTS_READY
//   vector  dV and dK stored where the keys' tokens are
// A sum over the 512 queries of a block, or the 256 keys of a tile, is taken in L0C. The deterministic form leaves out the
// addition to dQ, which cores share, and takes a second sweep, in which a tile of queries stays and keys stream: 7
// products instead of 5, and every sum in a fixed order.
// What several sub-sequences give to a text row goes to the workspace as float and is added up at the end.
#include "attention_cube.h"
#include "attention_grad_vectors.h"

namespace mindsora {

template <typename T, uint32_t LOAD>
class GradProducts {  // the cube core
public:
    __aicore__ inline void Init(const GradArguments &a, const SkiparseAttentionTiling &t, AscendC::TPipe *pipe)
    {
        t_ = &t;
        queries_.Init(t, a.lengths, false);
        keys_.Init(t, a.lengths, true);
        cube_.Init(t, keys_, 2, 3, pipe);
        const uint64_t video = Elements(t, t.tokens);
        q_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.q), video);
        k_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.k), video);
        v_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.v), video);
        dOut_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(a.dOut), video);
        SetText(textQ_, a, t, TextInput::Q);
        SetText(textK_, a, t, TextInput::K);
        SetText(textV_, a, t, TextInput::V);
        SetText(dTextOut_, a, t, TextInput::D_OUT);
        GM_ADDR own = a.workspace + AscendC::GetBlockIdx() * t.coreBytes;
        const uint64_t blocks = BlockAt(t, SLOTS, 0);
        scores_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own), blocks);
        weights_.SetGlobalBuffer(reinterpret_cast<__gm__ T *>(own + t.weightsAt), blocks);
        products_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(own + t.productsAt), ProductAt(t, UNIT_SLOTS, 0));
        if (t.deterministic == 0) {
            const uint64_t rows = static_cast<uint64_t>(t.batch) * t.heads * t.n * (t.rows + t.textLen);
            sums_.SetGlobalBuffer(reinterpret_cast<__gm__ float *>(a.workspace + t.sumsAt), rows * t.headDim);
        }
    }

    __aicore__ inline void Process()
    {
        if (t_->deterministic == 0) {
            AscendC::CrossCoreWaitFlag(MAY_ADD);
        }
        Sweep<true>(keys_);
        if (t_->deterministic != 0) {
            Sweep<false>(queries_);
        }
    }

private:
    template <bool KEYS_STAY>
    __aicore__ inline void Sweep(const Units &units)
    {
        Steps ahead, behind;
        ahead.Init(*t_, units, AscendC::GetBlockIdx(), AscendC::GetBlockNum());
        behind.Init(*t_, units, AscendC::GetBlockIdx(), AscendC::GetBlockNum());
        for (uint32_t lead = 0; behind.Valid(); ++lead) {
            if (ahead.Valid()) {
                Scores<KEYS_STAY>(ahead, units.Video(ahead.Now()), units.Text(ahead.Now()));
                ahead.Next();
            }
            if (lead >= 2) {
                Products<KEYS_STAY>(behind, units.Video(behind.Now()), units.Text(behind.Now()));
                behind.Next();
            }
        }
    }

    template <bool KEYS_STAY>
    __aicore__ inline void Scores(const Steps &step, uint64_t video, uint64_t text)
    {
        if (step.First()) {
            tile_ = KEYS_STAY ? cube_.LoadTile(step.Now(), k_[video], textK_[text])
                              : cube_.LoadTile(step.Now(), q_[video], textQ_[text]);
            other_ = KEYS_STAY ? cube_.LoadTile(step.Now(), v_[video], textV_[text])
                               : cube_.LoadTile(step.Now(), dOut_[video], dTextOut_[text]);
        }
        const AscendC::GlobalTensor<float> s = scores_[BlockAt(*t_, step.Slot(), 0)];
        const AscendC::GlobalTensor<float> dp = scores_[BlockAt(*t_, step.Slot(), 1)];
        if constexpr (KEYS_STAY) {
            cube_.Scores(step, tile_, q_[video], textQ_[text], s);
            cube_.Scores(step, other_, dOut_[video], dTextOut_[text], dp);
        } else {
            cube_.Scores(step, tile_, k_[video], textK_[text], s);
            cube_.Scores(step, other_, v_[video], textV_[text], dp);
        }
        AscendC::CrossCoreSetFlag<2, PIPE_FIX>(SCORES_READY);
        if (step.Last()) {
            cube_.FreeTile(tile_);
            cube_.FreeTile(other_);
        }
    }

    template <bool KEYS_STAY>
    __aicore__ inline void Products(const Steps &step, uint64_t video, uint64_t text)
    {
        const AscendC::GlobalTensor<T> p = weights_[BlockAt(*t_, step.Slot(), 0)];
        const AscendC::GlobalTensor<T> ds = weights_[BlockAt(*t_, step.Slot(), 1)];
        const AscendC::GlobalTensor<float> one = products_[ProductAt(*t_, step.UnitSlot(), 0)];
        const AscendC::GlobalTensor<float> two = products_[ProductAt(*t_, step.UnitSlot(), 1)];
        AscendC::CrossCoreWaitFlag(WEIGHTS_READY);
        if constexpr (!KEYS_STAY) {
            cube_.template AddProducts<false>(step, ds, k_[video], textK_[text], one);
        } else if (t_->deterministic != 0) {
            cube_.template AddProducts<false>(step, p, dOut_[video], dTextOut_[text], one);
            cube_.template AddProducts<false>(step, ds, q_[video], textQ_[text], two);
        } else {
            cube_.template AddProducts<false>(step, p, dOut_[video], dTextOut_[text], one);
            cube_.template AddProducts<true>(step, ds, q_[video], textQ_[text], two);
            cube_.AddTurned(step, k_[video], textK_[text], sums_[keys_.Statistics(step.Now()) * t_->headDim]);
        }
        if (step.Last()) {
            AscendC::CrossCoreSetFlag<2, PIPE_FIX>(PRODUCTS_READY);
        }
    }

    const SkiparseAttentionTiling *t_;
    Units queries_, keys_;
    Cube<T, LOAD> cube_;
    AscendC::LocalTensor<T> tile_, other_;
    AscendC::GlobalTensor<T> q_, k_, v_, dOut_, textQ_, textK_, textV_, dTextOut_, weights_;
    AscendC::GlobalTensor<float> scores_, products_, sums_;
};

template <typename T, uint32_t LOAD>
__aicore__ inline void RunGrad(const GradArguments &arguments, const SkiparseAttentionTiling &tiling)
{
    AscendC::TPipe pipe;
    if ASCEND_IS_AIC {
        GradProducts<T, LOAD> side;
        side.Init(arguments, tiling, &pipe);
        side.Process();
    }
    if ASCEND_IS_AIV {
        GradVectors<T> side;
        side.Init(arguments, tiling, &pipe);
        side.Process();
    }
}

}  // namespace mindsora

// Tiling key: LOAD (attention_cube.h) for half, plus 3 for bfloat16.
extern "C" __global__ __aicore__ void skiparse_attention_grad(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR out,
                                                              GM_ADDR dOut, GM_ADDR lse, GM_ADDR text, GM_ADDR lengths,
                                                              GM_ADDR dQ, GM_ADDR dK, GM_ADDR dV, GM_ADDR dText,
                                                              GM_ADDR workspace, GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
    REGISTER_TILING_DEFAULT(SkiparseAttentionTiling);
    GET_TILING_DATA_WITH_STRUCT(SkiparseAttentionTiling, data, tiling);
    const mindsora::GradArguments arguments = {
        q, k, v, out, dOut, lse, text, lengths, dQ, dK, dV, dText, AscendC::GetUserWorkspace(workspace)};
    if (TILING_KEY_IS(0)) {
        mindsora::RunGrad<half, 0>(arguments, data);
    } else if (TILING_KEY_IS(1)) {
        mindsora::RunGrad<half, 1>(arguments, data);
    } else if (TILING_KEY_IS(2)) {
        mindsora::RunGrad<half, 2>(arguments, data);
    } else if (TILING_KEY_IS(3)) {
        mindsora::RunGrad<bfloat16_t, 0>(arguments, data);
    } else if (TILING_KEY_IS(4)) {
        mindsora::RunGrad<bfloat16_t, 1>(arguments, data);
    } else if (TILING_KEY_IS(5)) {
        mindsora::RunGrad<bfloat16_t, 2>(arguments, data);
    }
}
