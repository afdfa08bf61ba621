// What the host files of SkiparseAttention and SkiparseAttentionGrad share.
#ifndef MINDSORA_ATTENTION_CONTEXT_H
#define MINDSORA_ATTENTION_CONTEXT_H

#include "context.h"
#include "skiparse_attention_plan.h"

namespace mindsora {

// Both operators begin with the inputs q, k, v (B, N, H, D), text_q, text_k, text_v (B, L, H, D), text_lengths (B) and
// skip (n, 1 + group), of which only the shape is looked at. Without text the three are tensors of one axis.
constexpr size_t TEXT = 3, SKIP = 7;

inline AttentionShape AttentionShapeOf(gert::TilingContext *context)
{
    AttentionShape shape;
    shape.batch = Dim(context, 0, 0);
    shape.tokens = Dim(context, 0, 1);
    shape.heads = Dim(context, 0, 2);
    shape.headDim = Dim(context, 0, 3);
    shape.textLen = Present(context, TEXT) ? Dim(context, TEXT, 1) : 0;
    shape.n = Dim(context, SKIP, 0);
    shape.group = Dim(context, SKIP, 1) == 2;
    shape.brain = IsBrain(context);
    return shape;
}

inline void DeclareAttentionInputs(ops::OpDef &op)
{
    const std::vector<ge::DataType> halves = {ge::DT_FLOAT16, ge::DT_BF16};
    for (const char *tensor : {"q", "k", "v", "text_q", "text_k", "text_v"}) {
        Declare(op.Input(tensor), halves);
    }
    Declare(op.Input("text_lengths"), {ge::DT_INT32, ge::DT_INT32});
    Declare(op.Input("skip"), {ge::DT_INT8, ge::DT_INT8});
}

}  // namespace mindsora

#endif
