#include "attention_context.h"

namespace {

ge::graphStatus Tile(gert::TilingContext *context)
{
    SkiparseAttentionTiling tiling;
    const mindsora::Plan plan = mindsora::PlanAttention(mindsora::AttentionShapeOf(context), mindsora::FORWARD_BLOCKS,
                                                        mindsora::PartOf(context), false, tiling);
    return mindsora::Finish(context, "SkiparseAttention", plan, tiling);
}

// Outputs: out, text_out, lse, text_parts. Without text the text outputs have one element and hold nothing.
ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    const gert::Shape *q = context->GetInputShape(0), *text = context->GetInputShape(mindsora::TEXT);
    const int64_t n = context->GetInputShape(mindsora::SKIP)->GetDim(0),
                  words = text->GetDimNum() > 1 ? text->GetDim(1) : 0;
    const int64_t rows = static_cast<int64_t>(mindsora::RowsOf(q->GetDim(1), n));
    *context->GetOutputShape(0) = *q;
    *context->GetOutputShape(1) = *text;
    mindsora::SetShape(context->GetOutputShape(2), {q->GetDim(0), q->GetDim(2), n, rows + words});
    if (words > 0) {
        mindsora::SetShape(context->GetOutputShape(3), {q->GetDim(0), n, words, q->GetDim(2), q->GetDim(3)});
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
        mindsora::DeclareAttentionInputs(*this);
        mindsora::Declare(this->Output("out"), halves);
        mindsora::Declare(this->Output("text_out"), halves);
        mindsora::Declare(this->Output("lse"), {ge::DT_FLOAT, ge::DT_FLOAT});
        mindsora::Declare(this->Output("text_parts"), halves);
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(SkiparseAttention);

}  // namespace ops
