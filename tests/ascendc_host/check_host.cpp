// The operators' host files on a stand-in for CANN's API (cann/): one line of JSON for each operator.
#include <algorithm>
#include <cstdio>

#include "../../mindsora/kernels/ascend/op_host/plan.h"
#include "../../mindsora/kernels/ascend/op_kernel/skiparse_attention_tiling.h"
#include "cann/register/op_def_registry.h"

namespace {

using Example = std::vector<gert::Shape>;  // of the inputs

const gert::Shape VIDEO = {2, 70, 3, 64}, TEXT = {2, 5, 3, 64}, ROW = {2, 1, 192}, NONE = {1}, SKIP = {4, 2},
                  LENGTHS = {2};

const std::map<std::string, std::vector<Example>> EXAMPLES = {
    {"SkiparsePermute", {{{2, 70, 3, 64}, SKIP}, {{2, 4, 20, 3, 64}, {4, 2, 70}}}},
    {"AdaNormModulate",
     {{{2, 70, 192}, {2, 70, 192}, ROW, ROW, ROW, {192}, {192}, {1}},
      {{2, 70, 192}, NONE, NONE, ROW, ROW, {192}, {192}, {1}}}},
    {"QkNormRope",
     {{VIDEO, TEXT, {2, 64}, {2, 64}, {70, 64}, {70, 64}, SKIP, {5}},
      {VIDEO, NONE, NONE, NONE, NONE, NONE, SKIP, {5}}}},
    {"SkiparseAttention",
     {{VIDEO, VIDEO, VIDEO, TEXT, TEXT, TEXT, LENGTHS, SKIP}, {VIDEO, VIDEO, VIDEO, NONE, NONE, NONE, NONE, SKIP}}},
    {"SkiparseAttentionGrad",
     {{VIDEO, VIDEO, VIDEO, VIDEO, VIDEO, {2, 3, 4, 25}, {8, 2, 5, 3, 64}, {2, 2, 2}},
      {VIDEO, VIDEO, VIDEO, VIDEO, VIDEO, {2, 3, 4, 20}, NONE, {1, 1, 2}}}},
};

void Print(const gert::Shape &shape) {
  std::printf("[");
  for (size_t i = 0; i < shape.GetDimNum(); ++i) std::printf(i ? ", %lld" : "%lld", (long long)shape.GetDim(i));
  std::printf("]");
}

}  // namespace

int main() {
  for (auto &[name, op] : ops::Registry()) {
    for (const Example &example : EXAMPLES.at(name)) {
      gert::TilingContext tiling;
      gert::InferShapeContext shapes;
      gert::InferDataTypeContext types;
      for (const gert::Shape &shape : example) tiling.inputs.push_back({shape});
      shapes.inputs = example;
      shapes.outputs.resize(op.outputs.size());
      types.inputs.assign(example.size(), ge::DT_BF16);
      types.outputs.assign(op.outputs.size(), ge::DT_INT8);
      tiling.desc.type = ge::DT_BF16;
      const bool good = op.core.tiling(&tiling) == 0 && op.shape(&shapes) == 0 && op.types(&types) == 0;
      const bool contiguous = std::all_of(op.inputs.begin(), op.inputs.end(), [](auto &i) { return i.contiguous; });
      std::printf(
          "{\"name\": \"%s\", \"good\": %s, \"inputs\": %zu, \"given\": %zu, \"contiguous\": %d, \"parts\": %zu, \"key\": "
          "%llu, \"schedule\": %u, \"blocks\": %u, \"workspace\": %zu, \"outputs\": [",
          name.c_str(), good ? "true" : "false", op.inputs.size(), example.size(), int(contiguous),
          op.core.parts.size(), (unsigned long long)tiling.key, tiling.schedule, tiling.blocks, tiling.workspace[0]);
      for (size_t i = 0; i < shapes.outputs.size(); ++i) {
        if (i) std::printf(", ");
        Print(shapes.outputs[i]);
      }
      std::printf("], \"types\": [");
      for (size_t i = 0; i < types.outputs.size(); ++i) std::printf(i ? ", %d" : "%d", types.outputs[i]);
      std::printf("]}\n");
    }
  }
}
