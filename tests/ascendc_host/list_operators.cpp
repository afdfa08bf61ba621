// What each operator's host file declares, on a stand-in for CANN's API (cann/): one line of JSON for each operator.
#include <cstdio>

#include "cann/register/op_def_registry.h"

namespace {

const char *const TYPES[] = {"float", "float16", "int8", "int32", "bfloat16"};

void Print(const char *what, const std::vector<ops::OpParamDef> &parameters) {
  std::printf("\"%s\": [", what);
  for (size_t i = 0; i < parameters.size(); ++i) {
    std::printf("%s[\"%s\", \"", i ? ", " : "", parameters[i].name.c_str());
    for (size_t j = 0; j < parameters[i].types.size(); ++j) {
      std::printf("%s%s", j ? "," : "", TYPES[parameters[i].types[j]]);
    }
    std::printf("\"]");
  }
  std::printf("]");
}

}  // namespace

int main() {
  for (const auto &[name, op] : ops::Registry()) {
    std::printf("{\"name\": \"%s\", ", name.c_str());
    Print("inputs", op.inputs);
    std::printf(", ");
    Print("outputs", op.outputs);
    std::printf("}\n");
  }
}
