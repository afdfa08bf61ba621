#include "attention_context.h"

namespace {

ge::graphStatus Tile(gert::TilingContext *context)
{
    mindsora::AttentionShape shape = mindsora::AttentionShapeOf(context);
    shape.deterministic = *context->GetAttrs()->GetBool(0);
    SkiparseAttentionTiling tiling;
    const mindsora::Plan plan =
        mindsora::PlanAttention(shape, mindsora::GRAD_BLOCKS, mindsora::PartOf(context), true, tiling);
    return mindsora::Finish(context, "SkiparseAttentionGrad", plan, tiling);
}

// Outputs: the gradients of the first six inputs.
ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    for (size_t i = 0; i < 6; ++i) {
        *context->GetOutputShape(i) = *context->GetInputShape(i);
    }
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext *context)
{
    for (size_t i = 0; i < 6; ++i) {
        context->SetOutputDataType(i, context->GetInputDataType(i));
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
        mindsora::DeclareAttentionInputs(*this);
        mindsora::Declare(this->Input("out"), halves);
        mindsora::Declare(this->Input("text_parts"), halves);
        mindsora::Declare(this->Input("lse"), {ge::DT_FLOAT, ge::DT_FLOAT});
        mindsora::Declare(this->Input("d_out"), halves);
        mindsora::Declare(this->Input("d_text_out"), halves);
        for (const char *tensor : {"d_q", "d_k", "d_v", "d_text_q", "d_text_k", "d_text_v"}) {
            mindsora::Declare(this->Output(tensor), halves);
        }
        this->Attr("deterministic").Bool(false);
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(SkiparseAttentionGrad);

}  // namespace ops
