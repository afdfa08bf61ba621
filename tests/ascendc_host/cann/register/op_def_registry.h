// The part of CANN's host API that op_host uses, so that those files compile, register and answer without CANN.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <type_traits>
#include <vector>

namespace ge {
using graphStatus = uint32_t;
constexpr graphStatus GRAPH_SUCCESS = 0, GRAPH_FAILED = 0xffffffff;
enum DataType { DT_FLOAT, DT_FLOAT16, DT_INT8, DT_INT32, DT_BF16 };
enum Format { FORMAT_ND };
inline int GetSizeByDataType(DataType type) {
  return type == DT_INT8 ? 1 : type == DT_FLOAT || type == DT_INT32 ? 4 : 2;
}
}  // namespace ge

namespace gert {

class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) : dims_(dims) {}
  size_t GetDimNum() const { return dims_.size(); }
  int64_t GetDim(size_t axis) const { return dims_.at(axis); }
  void SetDimNum(size_t count) { dims_.resize(count); }
  void AppendDim(int64_t dim) { dims_.push_back(dim); }
  bool operator==(const Shape &other) const { return dims_ == other.dims_; }

 private:
  std::vector<int64_t> dims_;
};

struct StorageShape {
  Shape shape;
  const Shape &GetStorageShape() const { return shape; }
};

struct CompileTimeTensorDesc {
  ge::DataType type;
  ge::DataType GetDataType() const { return type; }
};

struct TilingContext {
  std::vector<StorageShape> inputs;
  CompileTimeTensorDesc desc{ge::DT_FLOAT16};
  std::vector<char> tiling = std::vector<char>(4096);
  uint32_t blocks = 0;
  uint64_t key = 0;
  uint32_t schedule = 0;
  size_t workspace[1] = {};

  void *GetPlatformInfo() { return this; }
  const StorageShape *GetInputShape(size_t i) const { return &inputs.at(i); }
  const CompileTimeTensorDesc *GetInputDesc(size_t) const { return &desc; }
  template <typename T>
  T *GetTilingData() {
    static_assert(std::is_trivial<T>::value, "tiling data is plain data");
    return reinterpret_cast<T *>(tiling.data());
  }
  ge::graphStatus SetBlockDim(uint32_t count) { return blocks = count, ge::GRAPH_SUCCESS; }
  ge::graphStatus SetTilingKey(uint64_t value) { return key = value, ge::GRAPH_SUCCESS; }
  ge::graphStatus SetScheduleMode(uint32_t mode) { return schedule = mode, ge::GRAPH_SUCCESS; }
  size_t *GetWorkspaceSizes(size_t) { return workspace; }
};

struct InferShapeContext {
  std::vector<Shape> inputs, outputs;
  const Shape *GetInputShape(size_t i) const { return &inputs.at(i); }
  Shape *GetOutputShape(size_t i) { return &outputs.at(i); }
};

struct InferDataTypeContext {
  std::vector<ge::DataType> inputs, outputs;
  ge::DataType GetInputDataType(size_t i) const { return inputs.at(i); }
  ge::graphStatus SetOutputDataType(size_t i, ge::DataType type) { return outputs.at(i) = type, ge::GRAPH_SUCCESS; }
};

}  // namespace gert

namespace ops {

enum Option { OPTIONAL, REQUIRED };

struct OpParamDef {
  std::string name;
  size_t variants = 0;
  std::vector<ge::DataType> types;
  bool contiguous = false;
  OpParamDef &ParamType(Option) { return *this; }
  OpParamDef &DataType(std::vector<ge::DataType> list) { return types = list, variants = list.size(), *this; }
  OpParamDef &Format(std::vector<ge::Format>) { return *this; }
  OpParamDef &UnknownShapeFormat(std::vector<ge::Format>) { return *this; }
  OpParamDef &AutoContiguous() { return contiguous = true, *this; }
};

struct OpAICoreDef {
  ge::graphStatus (*tiling)(gert::TilingContext *) = nullptr;
  std::vector<std::string> parts;
  OpAICoreDef &SetTiling(ge::graphStatus (*function)(gert::TilingContext *)) { return tiling = function, *this; }
  OpAICoreDef &AddConfig(const char *part) { return parts.push_back(part), *this; }
};

class OpDef {
 public:
  explicit OpDef(const char *type) : type(type) {}
  OpParamDef &Input(const char *name) { return Add(inputs, name); }
  OpParamDef &Output(const char *name) { return Add(outputs, name); }
  OpDef &SetInferShape(ge::graphStatus (*function)(gert::InferShapeContext *)) { return shape = function, *this; }
  OpDef &SetInferDataType(ge::graphStatus (*function)(gert::InferDataTypeContext *)) { return types = function, *this; }
  OpAICoreDef &AICore() { return core; }

  std::string type;
  std::vector<OpParamDef> inputs, outputs;
  ge::graphStatus (*shape)(gert::InferShapeContext *) = nullptr;
  ge::graphStatus (*types)(gert::InferDataTypeContext *) = nullptr;
  OpAICoreDef core;

 private:
  template <typename Parameter>
  static Parameter &Add(std::vector<Parameter> &all, const char *name) {
    all.emplace_back();
    all.back().name = name;
    return all.back();
  }
};

inline std::map<std::string, OpDef> &Registry() {
  static std::map<std::string, OpDef> all;
  return all;
}

}  // namespace ops

#define OP_ADD(type) static const bool added_##type = ops::Registry().emplace(#type, type(#type)).second
