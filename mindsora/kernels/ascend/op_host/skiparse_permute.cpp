#include "context.h"
#include "skiparse_permute_plan.h"

namespace {

// x (B, N, ...) and how (n, 1 + group), or for the way back x (B, n, R, ...) and how (n, 1 + group, N). Only the shape
// of `how` is looked at: the framework's shape inference sees shapes, not attributes.
bool IsInverse(const gert::Shape &how)
{
    return how.GetDimNum() == 3;
}

ge::graphStatus Tile(gert::TilingContext *context)
{
    const gert::Shape &x = context->GetInputShape(0)->GetStorageShape(),
                      &how = context->GetInputShape(1)->GetStorageShape();
    const bool inverse = IsInverse(how);
    uint64_t bytes = ge::GetSizeByDataType(context->GetInputDesc(0)->GetDataType());
    for (size_t axis = inverse ? 3 : 2; axis < x.GetDimNum(); ++axis) {
        bytes *= x.GetDim(axis);
    }
    SkiparsePermuteTiling tiling;
    const mindsora::Plan plan =
        mindsora::PlanSkiparsePermute(x.GetDim(0), inverse ? how.GetDim(2) : x.GetDim(1), bytes, how.GetDim(0),
                                      how.GetDim(1) == 2, inverse, mindsora::PartOf(context), tiling);
    return mindsora::Finish(context, "SkiparsePermute", plan, tiling);
}

ge::graphStatus InferShape(gert::InferShapeContext *context)
{
    const gert::Shape *x = context->GetInputShape(0), *how = context->GetInputShape(1);
    gert::Shape *y = context->GetOutputShape(0);
    const bool inverse = IsInverse(*how);
    if (inverse) {
        mindsora::SetShape(y, {x->GetDim(0), how->GetDim(2)});
    } else {
        const int64_t n = how->GetDim(0);
        mindsora::SetShape(y, {x->GetDim(0), n, static_cast<int64_t>(mindsora::RowsOf(x->GetDim(1), n))});
    }
    for (size_t axis = inverse ? 3 : 2; axis < x->GetDimNum(); ++axis) {
        y->AppendDim(x->GetDim(axis));
    }
    return ge::GRAPH_SUCCESS;
}

ge::graphStatus InferDataType(gert::InferDataTypeContext *context)
{
    return context->SetOutputDataType(0, context->GetInputDataType(0));
}

}  // namespace

namespace ops {

class SkiparsePermute : public OpDef {
public:
    explicit SkiparsePermute(const char *name) : OpDef(name)
    {
        const std::vector<ge::DataType> types = {ge::DT_FLOAT16, ge::DT_BF16, ge::DT_FLOAT, ge::DT_INT32};
        mindsora::DeclareInput(*this, "x", types);
        mindsora::DeclareInput(*this, "how", std::vector<ge::DataType>(types.size(), ge::DT_INT8));
        mindsora::DeclareOutput(*this, "y", types);
        this->SetInferShape(InferShape).SetInferDataType(InferDataType);
        this->AICore().SetTiling(Tile).AddConfig("ascend910b").AddConfig("ascend910_93");
    }
};

OP_ADD(SkiparsePermute);

}  // namespace ops
