#include "context.h"
#include "skiparse_attention_plan.h"

namespace {

// Inputs q, k, v, out, d_out (B, N, H, D), lse (B, H, n, R + L), text (n + 4, B, L, H, D), lengths (1 + group,
// 1 + deterministic, B), whose first B numbers count. Without text `text` is a tensor of one axis.
constexpr size_t LSE = 5, TEXT = 6, LENGTHS = 7;

ge::graphStatus Tile(gert::TilingContext *context)
{
    mindsora::AttentionShape shape;
    shape.batch = mindsora::Dim(context, 0, 0);
    shape.tokens = mindsora::Dim(context, 0, 1);
    shape.heads = mindsora::Dim(context, 0, 2);
    shape.headDim = mindsora::Dim(context, 0, 3);
    shape.textLen = mindsora::Present(context, TEXT) ? mindsora::Dim(context, TEXT, 2) : 0;
    shape.n = mindsora::Dim(context, LSE, 2);
    shape.group = mindsora::Dim(context, LENGTHS, 0) == 2;
    shape.deterministic = mindsora::Dim(context, LENGTHS, 1) == 2;
    shape.brain = mindsora::IsBrain(context);
    SkiparseAttentionTiling tiling;
    const mindsora::Plan plan =
        mindsora::PlanAttention(shape, mindsora::BLOCKS, mindsora::PartOf(context), true, tiling);
    return mindsora::Finish(context, "SkiparseAttentionGrad", plan, tiling);
}

// Outputs: the gradients of q, k, v, and of the text's (3, B, L, H, D), one element without text.
ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    for (size_t i = 0; i < 3; ++i) {
        *context->GetOutputShape(i) = *context->GetInputShape(i);
    }
    const gert::Shape *text = context->GetInputShape(TEXT);
    if (text->GetDimNum() > 1) {
        mindsora::SetShape(context->GetOutputShape(3),
                           {3, text->GetDim(1), text->GetDim(2), text->GetDim(3), text->GetDim(4)});
    } else {
        mindsora::SetShape(context->GetOutputShape(3), {1});
    }
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext *context)
{
    for (size_t i = 0; i < 4; ++i) {
        context->SetOutputDataType(i, context->GetInputDataType(0));
    }
    return ge::GRAPH_SUCCESS;
}

}  // namespace

namespace ops {

class SkiparseAttentionGrad : public OpDef {
public:
    explicit SkiparseAttentionGrad(const char *name) : OpDef(name)
    {
        const std::vector<ge::DataType> halves = {ge::DT_FLOAT16, ge::DT_BF16};
        for (const char *tensor : {"q", "k", "v", "out", "d_out"}) {
            mindsora::DeclareInput(*this, tensor, halves);
        }
        mindsora::DeclareInput(*this, "lse", {ge::DT_FLOAT, ge::DT_FLOAT});
        mindsora::DeclareInput(*this, "text", halves);
        mindsora::DeclareInput(*this, "lengths", {ge::DT_INT32, ge::DT_INT32});
        for (const char *tensor : {"d_q", "d_k", "d_v", "d_text"}) {
            mindsora::DeclareOutput(*this, tensor, halves);
        }
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(SkiparseAttentionGrad);

}  // namespace ops
