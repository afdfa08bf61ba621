// Memories and queues of the machine, and the cube's product.
#include <algorithm>
#include <cstring>
#include <map>

#include "half.h"
#include "machine.h"

namespace twin {

namespace {
std::map<uintptr_t, std::unique_ptr<Memory>> global;  // by start address
}

Memory::Memory(std::string name, size_t size, size_t granule)
    : name(std::move(name)), bytes(size), cells((size + granule - 1) / granule), granule(granule) {
  for (size_t i = 0; i + 1 < size; i += 2) {  // NaN as float, half and bfloat16
    bytes[i] = 0xc7;
    bytes[i + 1] = 0x7f;
  }
}

uint32_t Reserve(Space space, uint32_t bytes, const char *what) {
  const bool cube = space != UB;
  if (cube != (now->kind == Kind::CUBE)) Fail("%s: this core has no %s", what, SPACE_NAME[space]);
  const uint32_t begin = now->used[space];
  bytes = (bytes + 31) / 32 * 32;
  if (begin + bytes > CAPACITY[space])
    Fail("%s: %u bytes more than the %u in use do not fit the %zu of %s", what, bytes, begin, CAPACITY[space],
         SPACE_NAME[space]);
  now->used[space] = begin + bytes;
  if (now->local[space].bytes.empty()) {
    now->local[space] = Memory(SPACE_NAME[space], CAPACITY[space], 32);
  }
  return begin;
}

void Unwritten(Space space, uint32_t begin, uint32_t end) {
  auto &cells = now->local[space].cells;
  // A fresh writer must still respect old accesses, so those stay; only "nothing was written" is restored.
  for (uint32_t g = begin / 32; g < end / 32; ++g) {
    Cell &cell = cells[g];
    if (cell.writer == NOBODY) continue;
    const int slot = cell.reader[0] == NOBODY ? 0 : 1;
    if (cell.reader[slot] == NOBODY) {
      cell.reader[slot] = cell.writer;
      cell.read[slot] = cell.written;
    }
    cell.writer = NOBODY;
  }
}

int Queue::At(uint32_t begin, const char *call) {
  for (size_t i = 0; i < buffers.size(); ++i)
    if (buffers[i].begin == begin) return int(i);
  Fail("%s: the tensor does not come from queue %s", call, name.c_str());
}

int Queue::Alloc() {
  for (size_t tried = 0; tried < buffers.size(); ++tried) {
    const int i = next;
    next = int((next + 1) % buffers.size());
    Buffer &buffer = buffers[i];
    if (buffer.state != Buffer::FREE) continue;
    if (buffer.free >= 0) WaitFlag(to, from, buffer.free);
    buffer.free = -1;
    buffer.state = Buffer::ALLOCATED;
    Unwritten(space, buffer.begin, buffer.end);
    return i;
  }
  Fail("AllocTensor: all %zu buffers of queue %s are in use", buffers.size(), name.c_str());
}

void Queue::EnQue(uint32_t begin) {
  const int i = At(begin, "EnQue");
  if (buffers[i].state != Buffer::ALLOCATED) Fail("EnQue on %s of a buffer that was not allocated", name.c_str());
  if (int(queued.size()) >= depth) Fail("EnQue on %s: depth %d is full", name.c_str(), depth);
  buffers[i].ready = TakeEvent(from, to);
  SetFlag(from, to, buffers[i].ready);
  buffers[i].state = Buffer::QUEUED;
  queued.push_back(i);
  most = std::max(most, queued.size());
}

int Queue::DeQue() {
  if (queued.empty()) Fail("DeQue on %s, which is empty", name.c_str());
  const int i = queued.front();
  queued.pop_front();
  WaitFlag(from, to, buffers[i].ready);
  buffers[i].ready = -1;
  buffers[i].state = Buffer::DEQUEUED;
  return i;
}

void Queue::Free(uint32_t begin) {
  const int i = At(begin, "FreeTensor");
  Buffer &buffer = buffers[i];
  if (buffer.state != Buffer::DEQUEUED && buffer.state != Buffer::ALLOCATED)
    Fail("FreeTensor on %s of a buffer that is %s", name.c_str(), buffer.state == Buffer::FREE ? "free" : "queued");
  buffer.free = TakeEvent(to, from);
  SetFlag(to, from, buffer.free);
  buffer.state = Buffer::FREE;
}

uint8_t *GlobalBuffer(const std::string &name, const void *data, size_t bytes, bool writable) {
  auto memory = std::make_unique<Memory>(name, bytes, 4);
  if (data) {
    std::memcpy(memory->bytes.data(), data, bytes);
    for (Cell &cell : memory->cells) cell.writer = HOST;
  }
  memory->writable = writable;
  uint8_t *base = memory->bytes.data();
  global[reinterpret_cast<uintptr_t>(base)] = std::move(memory);
  return base;
}

Memory &GlobalAt(const void *address, size_t *offset) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(address);
  auto next = global.upper_bound(at);
  if (next == global.begin()) Fail("an address outside every buffer of global memory");
  Memory &memory = *std::prev(next)->second;
  *offset = at - std::prev(next)->first;
  if (*offset > memory.bytes.size())
    Fail("an address %zu bytes behind %s", *offset - memory.bytes.size(), memory.name.c_str());
  return memory;
}

void CheckWritten(const std::string &name) {
  for (auto &[base, memory] : global) {
    if (memory->name != name) continue;
    for (size_t i = 0; i < memory->cells.size(); ++i)
      if (memory->cells[i].writer == NOBODY)
        Fail("output %s: byte %zu was never written", name.c_str(), i * memory->granule);
  }
}

void MultiplyFractals(float *c, const uint16_t *a, const uint16_t *b, int m, int n, int k, bool first, bool brain) {
  const int mf = (m + 15) / 16, nf = (n + 15) / 16, kf = (k + 15) / 16;
  auto widen = [&](uint16_t bits) { return brain ? BrainToFloat(bits) : HalfToFloat(bits); };
  std::vector<float> left(size_t(m) * k), right(size_t(k) * n), row(n);
  for (int i = 0; i < m; ++i)
    for (int l = 0; l < k; ++l) left[size_t(i) * k + l] = widen(a[(i / 16 * kf + l / 16) * 256 + i % 16 * 16 + l % 16]);
  for (int l = 0; l < k; ++l)
    for (int j = 0; j < n; ++j)
      right[size_t(l) * n + j] = widen(b[(l / 16 * nf + j / 16) * 256 + j % 16 * 16 + l % 16]);
  for (int i = 0; i < m; ++i) {
    auto at = [&](int j) -> float & { return c[(j / 16 * mf + i / 16) * 256 + i % 16 * 16 + j % 16]; };
    for (int j = 0; j < n; ++j) row[j] = first ? 0 : at(j);
    for (int l = 0; l < k; ++l) {
      const float x = left[size_t(i) * k + l];
      const float *y = right.data() + size_t(l) * n;
      for (int j = 0; j < n; ++j) row[j] += x * y[j];
    }
    for (int j = 0; j < n; ++j) at(j) = row[j];
  }
  counters.macs += uint64_t(m) * n * k;
}

}  // namespace twin
