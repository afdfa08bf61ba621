#include "context.h"
#include "qk_norm_rope_plan.h"

namespace {

// Inputs x, text, weight, bias, cos, sin, skip (n, 1 + group), of which only the shape is looked at, settings (5), which
// only the kernel reads. Without `text` there is none, without `weight` nothing is scaled, without `cos` rotated.
constexpr size_t TEXT = 1, WEIGHT = 2, COS = 4, SKIP = 6;

ge::graphStatus Tile(gert::TilingContext *context)
{
    mindsora::QkNormRopeShape shape;
    shape.batch = mindsora::Dim(context, 0, 0);
    shape.tokens = mindsora::Dim(context, 0, 1);
    shape.heads = mindsora::Dim(context, 0, 2);
    shape.headDim = mindsora::Dim(context, 0, 3);
    shape.textLen = mindsora::Present(context, TEXT) ? mindsora::Dim(context, TEXT, 1) : 0;
    shape.n = mindsora::Dim(context, SKIP, 0);
    shape.group = mindsora::Dim(context, SKIP, 1) == 2;
    shape.learnt = mindsora::Present(context, WEIGHT);
    shape.rope = mindsora::Present(context, COS);
    shape.brain = mindsora::IsBrain(context);
    QkNormRopeTiling tiling;
    const mindsora::Plan plan = mindsora::PlanQkNormRope(shape, mindsora::PartOf(context), tiling);
    return mindsora::Finish(context, "QkNormRope", plan, tiling);
}

ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    const gert::Shape *x = context->GetInputShape(0), *text = context->GetInputShape(TEXT);
    const int64_t n = context->GetInputShape(SKIP)->GetDim(0), words = text->GetDimNum() > 1 ? text->GetDim(1) : 0;
    const int64_t rows = static_cast<int64_t>(mindsora::RowsOf(x->GetDim(1), n)) + words;
    mindsora::SetShape(context->GetOutputShape(0), {x->GetDim(0), n, rows, x->GetDim(2), x->GetDim(3)});
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext *context)
{
    return context->SetOutputDataType(0, context->GetInputDataType(0));
}

}  // namespace

namespace ops {

class QkNormRope : public OpDef {
public:
    explicit QkNormRope(const char *name) : OpDef(name)
    {
        const std::vector<ge::DataType> halves = {ge::DT_FLOAT16, ge::DT_BF16}, floats = {ge::DT_FLOAT, ge::DT_FLOAT};
        for (const char *tensor : {"x", "text"}) {
            mindsora::DeclareInput(*this, tensor, halves);
        }
        for (const char *table : {"weight", "bias", "cos", "sin"}) {
            mindsora::DeclareInput(*this, table, floats);
        }
        mindsora::DeclareInput(*this, "skip", {ge::DT_INT8, ge::DT_INT8});
        mindsora::DeclareInput(*this, "settings", {ge::DT_INT32, ge::DT_INT32});
        mindsora::DeclareOutput(*this, "y", halves);
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(QkNormRope);

}  // namespace ops
