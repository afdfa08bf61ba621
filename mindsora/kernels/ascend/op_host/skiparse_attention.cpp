#include "context.h"
#include "skiparse_attention_plan.h"

namespace {

// Inputs q, k, v (B, N, H, D), text_q, text_k, text_v (B, L, H, D), text_lengths (B) and skip (n, 1 + group), of which
// only the shape is looked at. Without text the three are tensors of one axis.
constexpr size_t TEXT = 3, SKIP = 7;

ge::graphStatus Tile(gert::TilingContext *context)
{
    mindsora::AttentionShape shape;
    shape.batch = mindsora::Dim(context, 0, 0);
    shape.tokens = mindsora::Dim(context, 0, 1);
    shape.heads = mindsora::Dim(context, 0, 2);
    shape.headDim = mindsora::Dim(context, 0, 3);
    shape.textLen = mindsora::Present(context, TEXT) ? mindsora::Dim(context, TEXT, 1) : 0;
    shape.n = mindsora::Dim(context, SKIP, 0);
    shape.group = mindsora::Dim(context, SKIP, 1) == 2;
    shape.brain = mindsora::IsBrain(context);
    SkiparseAttentionTiling tiling;
    const mindsora::Plan plan =
        mindsora::PlanAttention(shape, mindsora::BLOCKS, mindsora::PartOf(context), false, tiling);
    return mindsora::Finish(context, "SkiparseAttention", plan, tiling);
}

// Outputs: out, text_out, lse, text_parts (n, B, L, H, D). Without text the text outputs have one element and hold
// nothing.
ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    const gert::Shape *q = context->GetInputShape(0), *text = context->GetInputShape(TEXT);
    const int64_t n = context->GetInputShape(SKIP)->GetDim(0),
                  words = text->GetDimNum() > 1 ? text->GetDim(1) : 0;
    const int64_t rows = static_cast<int64_t>(mindsora::RowsOf(q->GetDim(1), n));
    *context->GetOutputShape(0) = *q;
    *context->GetOutputShape(1) = *text;
    mindsora::SetShape(context->GetOutputShape(2), {q->GetDim(0), q->GetDim(2), n, rows + words});
    if (words > 0) {
        mindsora::SetShape(context->GetOutputShape(3), {n, q->GetDim(0), words, q->GetDim(2), q->GetDim(3)});
    } else {
        mindsora::SetShape(context->GetOutputShape(3), {1});
    }
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext *context)
{
    for (const size_t output : {0, 1, 3}) {
        context->SetOutputDataType(output, context->GetInputDataType(0));
    }
    return context->SetOutputDataType(2, ge::DT_FLOAT);
}

}  // namespace

namespace ops {

class SkiparseAttention : public OpDef {
public:
    explicit SkiparseAttention(const char *name) : OpDef(name)
    {
        const std::vector<ge::DataType> halves = {ge::DT_FLOAT16, ge::DT_BF16};
        for (const char *tensor : {"q", "k", "v", "text_q", "text_k", "text_v"}) {
            mindsora::DeclareInput(*this, tensor, halves);
        }
        mindsora::DeclareInput(*this, "text_lengths", {ge::DT_INT32, ge::DT_INT32});
        mindsora::DeclareInput(*this, "skip", {ge::DT_INT8, ge::DT_INT8});
        mindsora::DeclareOutput(*this, "out", halves);
        mindsora::DeclareOutput(*this, "text_out", halves);
        mindsora::DeclareOutput(*this, "lse", {ge::DT_FLOAT, ge::DT_FLOAT});
        mindsora::DeclareOutput(*this, "text_parts", halves);
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(SkiparseAttention);

}  // namespace ops
