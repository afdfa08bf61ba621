// The operators' host files on a stand-in for CANN's API (cann/): one line of JSON for each operator.
#include <cstdio>

#include "../../mindsora/kernels/ascend/op_host/plan.h"
#include "../../mindsora/kernels/ascend/op_kernel/skiparse_attention_tiling.h"
#include "cann/register/op_def_registry.h"

namespace {

struct Example {
  std::vector<gert::Shape> inputs;
  std::vector<int64_t> ints;
  std::vector<float> floats;
};

const gert::Shape VIDEO = {2, 70, 3, 64}, TEXT = {2, 5, 3, 64}, ROW = {2, 1, 192}, NONE = {1}, SKIP = {4, 2},
                  LENGTHS = {2};

const std::map<std::string, std::vector<Example>> EXAMPLES = {
    {"SkiparsePermute", {{{{2, 70, 3, 64}, SKIP}, {}, {}}, {{{2, 4, 20, 3, 64}, {4, 2, 70}}, {}, {}}}},
    {"AdaNormModulate",
     {{{{2, 70, 192}, {2, 70, 192}, ROW, ROW, ROW, {192}, {192}}, {}, {1e-6f}},
      {{{2, 70, 192}, NONE, NONE, ROW, ROW, {192}, {192}}, {}, {1e-6f}}}},
    {"QkNormRope",
     {{{VIDEO, TEXT, {2, 64}, {2, 64}, {70, 64}, {70, 64}, SKIP}, {1, 16, 24, 24, 0}, {0, 0, 0, 0, 1e-6f}},
      {{VIDEO, NONE, NONE, NONE, NONE, NONE, SKIP}, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 1e-6f}}}},
    {"SkiparseAttention",
     {{{VIDEO, VIDEO, VIDEO, TEXT, TEXT, TEXT, LENGTHS, SKIP}, {}, {}},
      {{VIDEO, VIDEO, VIDEO, NONE, NONE, NONE, NONE, SKIP}, {}, {}}}},
    {"SkiparseAttentionGrad",
     {{{VIDEO, VIDEO, VIDEO, TEXT, TEXT, TEXT, LENGTHS, SKIP, VIDEO, {2, 4, 5, 3, 64}, {2, 3, 4, 25}, VIDEO, TEXT},
       {},
       {}}}},
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
      for (const gert::Shape &shape : example.inputs) tiling.inputs.push_back({shape});
      shapes.inputs = example.inputs;
      shapes.outputs.resize(op.outputs.size());
      types.inputs.assign(example.inputs.size(), ge::DT_BF16);
      types.outputs.assign(op.outputs.size(), ge::DT_INT8);
      tiling.desc.type = ge::DT_BF16;
      tiling.attrs.ints = shapes.attrs.ints = example.ints;
      tiling.attrs.floats = shapes.attrs.floats = example.floats;
      const bool good = op.core.tiling(&tiling) == 0 && op.shape(&shapes) == 0 && op.types(&types) == 0;
      std::printf(
          "{\"name\": \"%s\", \"good\": %s, \"inputs\": %zu, \"given\": %zu, \"attrs\": %zu, \"parts\": %zu, \"key\": "
          "%llu, "
          "\"blocks\": %u, \"workspace\": %zu, \"outputs\": [",
          name.c_str(), good ? "true" : "false", op.inputs.size(), example.inputs.size(), op.attrs.size(),
          op.core.parts.size(), (unsigned long long)tiling.key, tiling.blocks, tiling.workspace[0]);
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
