// Between CANN's contexts and our plain tiling functions: all that an operator's own file does not have to say.
#ifndef MINDSORA_CONTEXT_H
#define MINDSORA_CONTEXT_H

#include <cstdio>
#include <initializer_list>
#include <vector>

#include "plan.h"
#include "register/op_def_registry.h"
#include "tiling/platform/platform_ascendc.h"

namespace mindsora {

inline Part PartOf(gert::TilingContext *context)
{
    const platform_ascendc::PlatformAscendC platform(context->GetPlatformInfo());
    Part part;
    part.cubes = platform.GetCoreNumAic();
    part.vectors = platform.GetCoreNumAiv();
    return part;
}

inline uint64_t Dim(gert::TilingContext *context, size_t input, size_t axis)
{
    return context->GetInputShape(input)->GetStorageShape().GetDim(axis);
}

// What is absent is a tensor of one axis: operators take a fixed number of inputs.
inline bool Present(gert::TilingContext *context, size_t input)
{
    return context->GetInputShape(input)->GetStorageShape().GetDimNum() > 1;
}

inline bool IsBrain(gert::TilingContext *context)
{
    return context->GetInputDesc(0)->GetDataType() == ge::DT_BF16;
}

template <typename Tiling>
ge::graphStatus Finish(gert::TilingContext *context, const char *name, const Plan &plan, const Tiling &tiling)
{
    if (!plan.error.empty()) {
        std::fprintf(stderr, "%s: %s\n", name, plan.error.c_str());
        return ge::GRAPH_FAILED;
    }
    *context->GetTilingData<Tiling>() = tiling;
    context->SetBlockDim(plan.blocks);
    context->SetTilingKey(plan.key);
    if (plan.together) {
        context->SetScheduleMode(1);
    }
    const platform_ascendc::PlatformAscendC platform(context->GetPlatformInfo());
    context->GetWorkspaceSizes(1)[0] = plan.workspace + platform.GetLibApiWorkSpaceSize();
    return ge::GRAPH_SUCCESS;
}

inline void SetShape(gert::Shape *shape, std::initializer_list<int64_t> dims)
{
    shape->SetDimNum(0);
    for (const int64_t dim : dims) {
        shape->AppendDim(dim);
    }
}

// An output that exists in `types`, one column per variant of the operator. An operator has at most 12 inputs and
// outputs, all tensors: MindSpore's eager path takes no more and nothing else. It orders input0 to input9 as strings, so
// there are at most ten inputs.
inline ops::OpParamDef &Declare(ops::OpParamDef &parameter, const std::vector<ge::DataType> &types)
{
    const std::vector<ge::Format> formats(types.size(), ge::FORMAT_ND);
    return parameter.ParamType(ops::REQUIRED).DataType(types).Format(formats).UnknownShapeFormat(formats);
}

inline void DeclareOutput(ops::OpDef &op, const char *name, const std::vector<ge::DataType> &types)
{
    Declare(op.Output(name), types);
}

// The kernels read inputs as contiguous: a view is copied before.
inline void DeclareInput(ops::OpDef &op, const char *name, const std::vector<ge::DataType> &types)
{
    Declare(op.Input(name), types).AutoContiguous();
}

}  // namespace mindsora

#endif
