// What the programs that run one operator share: arguments `name=value`, tensors as raw files, counters as JSON.
#pragma once

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <vector>

#include "../../mindsora/kernels/ascend/op_host/plan.h"
#include "machine.h"

class Driver {
 public:
  Driver(int count, char **words) {
    for (int i = 1; i < count; ++i) {
      const std::string word = words[i];
      const size_t equals = word.find('=');
      arguments_[word.substr(0, equals)] = word.substr(equals + 1);
    }
  }

  int64_t Number(const std::string &name) const { return std::atoll(At(name).c_str()); }
  int64_t Number(const std::string &name, int64_t otherwise) const { return Has(name) ? Number(name) : otherwise; }
  double Real(const std::string &name) const { return std::atof(At(name).c_str()); }
  bool Has(const std::string &name) const { return arguments_.count(name) != 0; }

  mindsora::Part Part() const {
    mindsora::Part part;
    part.cubes = uint32_t(Number("cores"));
    part.vectors = uint32_t(Has("vectors") ? Number("vectors") : 2 * Number("cores"));
    part.ub = uint64_t(Number("ub", int64_t(part.ub)));
    return part;
  }

  // Tiling data as the kernel finds it in global memory.
  template <typename T>
  uint8_t *Tiling(const T &tiling) {
    return twin::GlobalBuffer("tiling", &tiling, sizeof tiling, false);
  }

  uint8_t *Input(const std::string &name) {
    std::ifstream file(At(name), std::ios::binary);
    const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    return twin::GlobalBuffer(name, bytes.data(), bytes.size(), false);
  }

  uint8_t *Output(const std::string &name, uint64_t bytes, bool whole = true) {
    outputs_.push_back({name, twin::GlobalBuffer(name, nullptr, bytes, true), bytes, whole});
    return outputs_.back().data;
  }

  std::string planned = "{}";  // JSON: bytes of local memory that the tiling function has counted

  uint8_t *Workspace(uint64_t bytes) { return twin::GlobalBuffer("workspace", nullptr, bytes, true); }

  void Run(const mindsora::Plan &plan, bool mixed, void (*kernel)()) {
    twin::Run({int(plan.blocks), mixed, Number("backwards", 0) != 0, plan.key}, kernel);
    for (const Tensor &output : outputs_) {
      if (output.whole) twin::CheckWritten(output.name);
      std::ofstream(At(output.name), std::ios::binary)
          .write(reinterpret_cast<char *>(output.data), std::streamsize(output.bytes));
    }
    const twin::Counters &c = twin::counters;
    std::printf("{\"blocks\": %u, \"key\": %" PRIu64 ", \"workspace\": %" PRIu64 ", \"macs\": %" PRIu64
                ", \"shared\": %" PRIu64 ", \"planned\": %s, \"units\": {",
                plan.blocks, plan.key, plan.workspace, c.macs, c.shared, planned.c_str());
    for (int kind = 0; kind < 2; ++kind)
      for (int pipe = 0; pipe < twin::PIPES; ++pipe) {
        const twin::Unit &u = c.units[kind][pipe];
        std::printf("%s\"%s %s\": {\"instructions\": %" PRIu64 ", \"barriers\": %" PRIu64 ", \"flags\": %" PRIu64
                    ", \"bytes\": %" PRIu64 ", \"steps\": %" PRIu64 "}",
                    kind + pipe ? ", " : "", kind ? "vector" : "cube", twin::PIPE_NAME[pipe], u.instructions,
                    u.barriers, u.flags, u.bytes, u.steps);
      }
    std::printf("}, \"used\": {");
    for (int s = 0; s < twin::SPACES; ++s)
      std::printf("%s\"%s\": %" PRIu64, s ? ", " : "", twin::SPACE_NAME[s], c.used[s]);
    std::printf("}}\n");
  }

  static void Check(const mindsora::Plan &plan) {
    if (plan.error.empty()) return;
    std::fprintf(stderr, "plan: %s\n", plan.error.c_str());
    std::exit(4);
  }

 private:
  struct Tensor {
    std::string name;
    uint8_t *data;
    uint64_t bytes;
    bool whole;
  };

  const std::string &At(const std::string &name) const {
    const auto found = arguments_.find(name);
    if (found == arguments_.end()) {
      std::fprintf(stderr, "driver: no argument %s\n", name.c_str());
      std::exit(5);
    }
    return found->second;
  }

  std::map<std::string, std::string> arguments_;
  std::vector<Tensor> outputs_;
};
