#include "ada_norm_modulate_plan.h"
#include "context.h"

namespace {

// The residual is asked for by giving `branch`, the norm by giving `shift`; what is not there is a tensor of one axis,
// and then so is the output.
constexpr size_t BRANCH = 1, SHIFT = 3;

ge::graphStatus Tile(gert::TilingContext *context)
{
    AdaNormModulateTiling tiling;
    const mindsora::Plan plan = mindsora::PlanAdaNormModulate(
        mindsora::Dim(context, 0, 0), mindsora::Dim(context, 0, 1), mindsora::Dim(context, 0, 2),
        mindsora::Present(context, BRANCH), mindsora::Present(context, SHIFT), mindsora::IsBrain(context),
        mindsora::PartOf(context), tiling);
    return mindsora::Finish(context, "AdaNormModulate", plan, tiling);
}

ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    for (const size_t output : {0, 1}) {
        if (context->GetInputShape(output == 0 ? BRANCH : SHIFT)->GetDimNum() > 1) {
            *context->GetOutputShape(output) = *context->GetInputShape(0);
        } else {
            mindsora::SetShape(context->GetOutputShape(output), {1});
        }
    }
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext *context)
{
    context->SetOutputDataType(0, context->GetInputDataType(0));
    return context->SetOutputDataType(1, context->GetInputDataType(0));
}

}  // namespace

namespace ops {

class AdaNormModulate : public OpDef {
public:
    explicit AdaNormModulate(const char *name) : OpDef(name)
    {
        const std::vector<ge::DataType> halves = {ge::DT_FLOAT16, ge::DT_BF16}, floats = {ge::DT_FLOAT, ge::DT_FLOAT};
        for (const char *tensor : {"x", "branch"}) {
            mindsora::DeclareInput(*this, tensor, halves);
        }
        for (const char *row : {"gate", "shift", "scale", "weight", "bias", "eps"}) {
            mindsora::DeclareInput(*this, row, floats);
        }
        mindsora::DeclareOutput(*this, "h", halves);
        mindsora::DeclareOutput(*this, "y", halves);
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(AdaNormModulate);

}  // namespace ops
