// Tensors, queues and buffers, and everything that orders pipes and cores.
#pragma once

#include <memory>
#include <string>
#include <type_traits>

#include "half.h"
#include "machine.h"

#define __gm__

enum pipe_t { PIPE_S, PIPE_V, PIPE_MTE1, PIPE_MTE2, PIPE_MTE3, PIPE_M, PIPE_FIX, PIPE_ALL };

namespace twin {
constexpr Pipe PIPE_OF[] = {S, V, MTE1, MTE2, MTE3, M, FIX};

// An integer of an instruction's fixed-width field: a value that does not fit is an error, not a wrap-around.
template <typename T>
struct Field {
  T value = 0;
  Field() = default;
  template <typename U, typename = std::enable_if_t<std::is_arithmetic_v<U>>>
  Field(U wide) : value(static_cast<T>(wide)) {
    if (static_cast<int64_t>(wide) != static_cast<int64_t>(value))
      Fail("%lld does not fit a field of %zu bits", static_cast<long long>(wide), 8 * sizeof(T));
  }
  operator T() const { return value; }
};
}  // namespace twin

namespace AscendC {

enum class TPosition { GM, VECIN, VECOUT, VECCALC, A1, B1, A2, B2, CO1 };

enum class HardEvent : int {
  MTE2_V = twin::Pair(twin::MTE2, twin::V),
  V_MTE2 = twin::Pair(twin::V, twin::MTE2),
  V_MTE3 = twin::Pair(twin::V, twin::MTE3),
  MTE3_V = twin::Pair(twin::MTE3, twin::V),
  MTE2_MTE3 = twin::Pair(twin::MTE2, twin::MTE3),
  MTE3_MTE2 = twin::Pair(twin::MTE3, twin::MTE2),
  MTE2_MTE1 = twin::Pair(twin::MTE2, twin::MTE1),
  MTE1_MTE2 = twin::Pair(twin::MTE1, twin::MTE2),
  MTE1_M = twin::Pair(twin::MTE1, twin::M),
  M_MTE1 = twin::Pair(twin::M, twin::MTE1),
  M_FIX = twin::Pair(twin::M, twin::FIX),
  FIX_M = twin::Pair(twin::FIX, twin::M),
  S_V = twin::Pair(twin::S, twin::V),
  V_S = twin::Pair(twin::V, twin::S),
};

namespace host {

constexpr twin::Space SpaceOf(TPosition position) {
  switch (position) {
    case TPosition::A1:
    case TPosition::B1:
      return twin::L1;
    case TPosition::A2:
      return twin::L0A;
    case TPosition::B2:
      return twin::L0B;
    case TPosition::CO1:
      return twin::L0C;
    default:
      return twin::UB;
  }
}

constexpr twin::Pipe Filler(TPosition source, TPosition position) {
  switch (position) {
    case TPosition::VECOUT:
      return source == TPosition::VECIN ? twin::MTE2 : twin::V;
    case TPosition::A2:
    case TPosition::B2:
      return twin::MTE1;
    case TPosition::CO1:
      return twin::M;
    default:
      return twin::MTE2;
  }
}

constexpr twin::Pipe Drainer(TPosition position) {
  switch (position) {
    case TPosition::VECIN:
      return twin::V;
    case TPosition::VECOUT:
      return twin::MTE3;
    case TPosition::A1:
    case TPosition::B1:
      return twin::MTE1;
    case TPosition::A2:
    case TPosition::B2:
      return twin::M;
    default:
      return twin::FIX;
  }
}

}  // namespace host

template <typename T>
class LocalTensor {
 public:
  using PrimType = T;
  twin::Space space = twin::UB;
  uint32_t begin = 0, end = 0;  // bytes within the memory

  LocalTensor operator[](uint32_t offset) const {
    LocalTensor part = *this;
    part.begin += offset * sizeof(T);
    if (part.begin > end) twin::Fail("element %u is outside a tensor of %u", offset, GetSize());
    return part;
  }
  uint32_t GetSize() const { return (end - begin) / sizeof(T); }
  template <typename U>
  LocalTensor<U> ReinterpretCast() const {
    LocalTensor<U> other;
    other.space = space;
    other.begin = begin;
    other.end = end;
    return other;
  }
  T GetValue(uint32_t i) const {
    twin::Instruction get(twin::S, "GetValue");
    return *Use(i, 1, twin::Access::READ);
  }
  void SetValue(uint32_t i, T value) const {
    twin::Instruction set(twin::S, "SetValue");
    *Use(i, 1, twin::Access::WRITE) = value;
  }
  // The address of `count` elements from `first`, after the checks of an access.
  T *Use(uint32_t first, uint32_t count, twin::Access access) const {
    const uint64_t at = begin + uint64_t(first) * sizeof(T), bytes = uint64_t(count) * sizeof(T);
    if (at + bytes > end)
      twin::Fail("elements %u to %u are outside a tensor of %u in %s", first, first + count, GetSize(),
                 twin::SPACE_NAME[space]);
    twin::Memory &memory = twin::now->local[space];
    twin::Touch(memory, at, bytes, access);
    return reinterpret_cast<T *>(memory.bytes.data() + at);
  }
  void Aligned() const { twin::Align(space, begin); }
};

template <typename T>
class GlobalTensor {
 public:
  using PrimType = T;

  void SetGlobalBuffer(T *address, uint64_t size) {
    base_ = address;
    size_ = int64_t(size);
  }
  GlobalTensor operator[](uint64_t offset) const {
    GlobalTensor part = *this;
    part.base_ += offset;
    part.size_ -= int64_t(offset);
    return part;
  }
  T GetValue(uint64_t i) const {
    twin::Instruction get(twin::S, "GetValue");
    return *Use(i, 1, twin::Access::READ);
  }
  T *Use(uint64_t first, uint64_t count, twin::Access access) const {
    if (int64_t(first + count) > size_)
      twin::Fail("elements %llu to %llu are outside a global tensor of %lld", (unsigned long long)first,
                 (unsigned long long)(first + count), (long long)size_);
    size_t offset;
    twin::Memory &memory = twin::GlobalAt(base_ + first, &offset);
    twin::Touch(memory, offset, count * sizeof(T), access);
    return base_ + first;
  }

 private:
  T *base_ = nullptr;
  int64_t size_ = 0;
};

template <TPosition SOURCE, TPosition POSITION, int32_t DEPTH>
class TQueBind {
 public:
  template <typename T>
  LocalTensor<T> AllocTensor() {
    return Tensor<T>(State().Alloc());
  }
  template <typename T>
  void EnQue(const LocalTensor<T> &tensor) {
    State().EnQue(tensor.begin);
  }
  template <typename T>
  LocalTensor<T> DeQue() {
    return Tensor<T>(State().DeQue());
  }
  template <typename T>
  void FreeTensor(LocalTensor<T> &tensor) {
    State().Free(tensor.begin);
  }

 private:
  friend class TPipe;
  twin::Queue &State() {
    if (!state_) twin::Fail("a queue is used before InitBuffer");
    return *state_;
  }
  template <typename T>
  LocalTensor<T> Tensor(int i) {
    LocalTensor<T> tensor;
    tensor.space = state_->space;
    tensor.begin = state_->buffers[i].begin;
    tensor.end = state_->buffers[i].end;
    return tensor;
  }
  twin::Queue *state_ = nullptr;  // the core owns it: it outlives the kernel's objects
};

template <TPosition POSITION, int32_t DEPTH>
class TQue : public TQueBind<TPosition::GM, POSITION, DEPTH> {};

template <TPosition POSITION = TPosition::VECCALC>
class TBuf {
 public:
  template <typename T>
  LocalTensor<T> Get() {
    if (tensor_.end == 0) twin::Fail("a TBuf is used before InitBuffer");
    return tensor_.template ReinterpretCast<T>();
  }

 private:
  friend class TPipe;
  LocalTensor<uint8_t> tensor_;
};

class TPipe {
 public:
  template <TPosition SOURCE, TPosition POSITION, int32_t DEPTH>
  void InitBuffer(TQueBind<SOURCE, POSITION, DEPTH> &queue, uint8_t count, uint32_t bytes) {
    if (queue.state_) twin::Fail("InitBuffer twice on one queue");
    queue.state_ = new twin::Queue{
        "", host::SpaceOf(POSITION), host::Filler(SOURCE, POSITION), host::Drainer(POSITION), DEPTH, {}, {}};
    twin::Queue &state = *queue.state_;
    bytes = (bytes + 31) / 32 * 32;
    state.name = twin::SPACE_NAME[state.space] + std::string("#") + std::to_string(twin::now->queues.size());
    for (int i = 0; i < count; ++i) {
      const uint32_t begin = twin::Reserve(state.space, bytes, "InitBuffer");
      state.buffers.push_back({begin, begin + bytes});
    }
    twin::now->queues.emplace_back(&state);
  }
  template <TPosition POSITION>
  void InitBuffer(TBuf<POSITION> &buffer, uint32_t bytes) {
    bytes = (bytes + 31) / 32 * 32;
    buffer.tensor_.space = host::SpaceOf(POSITION);
    buffer.tensor_.begin = twin::Reserve(buffer.tensor_.space, bytes, "InitBuffer");
    buffer.tensor_.end = buffer.tensor_.begin + bytes;
  }
  int8_t FetchEventID(HardEvent event) {
    return int8_t(twin::TakeEvent(twin::Pipe(int(event) / twin::PIPES), twin::Pipe(int(event) % twin::PIPES)));
  }
  ~TPipe() {
    for (auto &queue : twin::now->queues) {
      if (queue->depth > 1 && int(queue->most) < queue->depth)
        twin::Fail("queue %s has depth %d and never holds more than %zu", queue->name.c_str(), queue->depth,
                   queue->most);
      for (twin::Buffer &buffer : queue->buffers) {
        if (buffer.state != twin::Buffer::FREE) twin::Fail("a buffer of queue %s is never freed", queue->name.c_str());
        if (buffer.free >= 0) twin::WaitFlag(queue->to, queue->from, buffer.free);
        buffer.free = -1;
      }
    }
  }
};

template <HardEvent EVENT>
void SetFlag(int32_t id) {
  twin::SetFlag(twin::Pipe(int(EVENT) / twin::PIPES), twin::Pipe(int(EVENT) % twin::PIPES), id);
}

template <HardEvent EVENT>
void WaitFlag(int32_t id) {
  twin::WaitFlag(twin::Pipe(int(EVENT) / twin::PIPES), twin::Pipe(int(EVENT) % twin::PIPES), id);
}

template <pipe_t PIPE>
void PipeBarrier() {
  if constexpr (PIPE == PIPE_ALL)
    twin::BarrierAll();
  else
    twin::Barrier(twin::PIPE_OF[PIPE]);
}

template <uint8_t MODE, pipe_t PIPE>
void CrossCoreSetFlag(uint16_t id) {
  static_assert(PIPE != PIPE_ALL && PIPE != PIPE_S, "PIPE_S and PIPE_ALL cannot raise a cross-core flag");
  twin::CrossSet(MODE, twin::PIPE_OF[PIPE], id);
}

inline void CrossCoreWaitFlag(uint16_t id) { twin::CrossWait(id); }
inline void SyncAll() { twin::SyncAll(); }

inline int64_t GetBlockIdx() {
  const bool vector = twin::launch.mixed && twin::now->kind == twin::Kind::VECTOR;
  return vector ? twin::now->block * 2 + twin::now->sub : twin::now->block;
}
inline int64_t GetBlockNum() { return twin::launch.blocks; }
inline int64_t GetSubBlockIdx() { return twin::now->sub; }
inline uint8_t *GetUserWorkspace(uint8_t *workspace) { return workspace; }

template <typename T>
void SetAtomicAdd() {
  static_assert(std::is_same_v<T, float>, "the kernels add float");
  twin::now->atomicAdd = true;
}
inline void SetAtomicNone() { twin::now->atomicAdd = false; }

}  // namespace AscendC
