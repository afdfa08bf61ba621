// The machine behind the host twin: cores, pipes, memories, flags, and who may touch what when.
//
// Kernel code runs one core at a time, instructions in program order. What the device would run concurrently is
// tracked with vector clocks: every pipe of every core is an agent, an instruction knows only what its pipe was made
// to wait for (flags, barriers, queues, cross-core flags, SyncAll), and two accesses to the same bytes, one of them a
// write, must be ordered by that knowledge. So a missing wait is found however the race would have turned out.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

namespace twin {

enum Pipe : uint8_t { S, V, MTE1, MTE2, MTE3, M, FIX, PIPES };
constexpr const char *PIPE_NAME[PIPES] = {"S", "V", "MTE1", "MTE2", "MTE3", "M", "FIX"};
enum class Kind : uint8_t { CUBE, VECTOR };
enum class Access : uint8_t { READ, WRITE, ATOMIC, COPY_RAW };  // COPY_RAW: a read that may carry unwritten bytes along
enum Space : uint8_t { UB, L1, L0A, L0B, L0C, SPACES };

// What a core of Atlas A2 / A3 has (bytes), and the rules for addresses in it.
constexpr size_t CAPACITY[SPACES] = {192 * 1024 - 256, 512 * 1024 - 256, 64 * 1024, 64 * 1024, 128 * 1024};
constexpr size_t ALIGNMENT[SPACES] = {32, 32, 512, 512, 64};
constexpr const char *SPACE_NAME[SPACES] = {"UB", "L1", "L0A", "L0B", "L0C"};
constexpr int EVENT_IDS = 8, TPIPE_EVENTS = 3, CROSS_FLAGS = 11, CROSS_DEPTH = 15;  // ids of SetFlag; of CrossCoreSetFlag; raised ahead

// Ends the process with status 3 after one line on standard error: where, which instruction, what is wrong.
[[noreturn]] void Fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

using Clock = std::vector<uint32_t>;  // per agent: how many of its instructions are known to be complete

constexpr uint16_t NOBODY = 0xffff, HOST = 0xfffe;

struct Cell {  // one granule of memory: who wrote it last, who read it since
  uint32_t written = 0, read[2] = {0, 0};
  uint16_t writer = NOBODY, reader[2] = {NOBODY, NOBODY};
  bool atomic = false;
};

struct Memory {
  std::string name;
  std::vector<uint8_t> bytes;
  std::vector<Cell> cells;
  size_t granule = 32;
  bool writable = true;

  Memory() = default;
  Memory(std::string name, size_t size, size_t granule);
};

// A buffer of a queue: FREE -> ALLOCATED -> QUEUED -> DEQUEUED -> FREE.
struct Buffer {
  enum State { FREE, ALLOCATED, QUEUED, DEQUEUED };
  uint32_t begin = 0, end = 0;
  State state = FREE;
  int ready = -1, free = -1;  // event ids in flight
};

enum Event : uint8_t;  // pairs of pipes, numbered from * PIPES + to
constexpr Event Pair(Pipe from, Pipe to) { return Event(from * PIPES + to); }

struct Queue {
  std::string name;
  Space space;
  Pipe from, to;
  int depth;
  std::vector<Buffer> buffers;
  std::deque<int> queued;
  size_t most = 0;  // buffers in the queue at once
  int next = 0;

  int Alloc();
  void EnQue(uint32_t begin);
  int DeQue();
  void Free(uint32_t begin);
  int At(uint32_t begin, const char *call);
};

struct Flag {
  bool raised = false;
  Clock clock;
};

struct Core {
  Kind kind;
  int block, sub, index;
  Clock clock[PIPES];      // what each pipe knows
  uint32_t done[PIPES];    // own instructions of a pipe that later ones of the same pipe may rely on
  uint32_t scalar[PIPES];  // version of the scalar unit's knowledge that the pipe has taken over
  uint32_t version = 1;
  Memory local[SPACES];
  uint32_t used[SPACES] = {};
  Flag flags[PIPES * PIPES][EVENT_IDS];
  std::deque<Clock> cross[CROSS_FLAGS][2];  // raised for this core: by the cube, or by vector core 0 and 1
  std::vector<std::unique_ptr<Queue>> queues;
  bool finished = false, synchronised = false;
  bool atomicAdd = false;
  std::string waits;

  uint16_t Agent(Pipe p) const { return uint16_t(index * PIPES + p); }
  std::string Name() const;
};

struct Unit {  // what a pipe was given. steps: 64 floats (V), cycles from L1 to L0 (MTE1), 16 x 16 x 16 products (M)
  uint64_t instructions = 0, barriers = 0, flags = 0, bytes = 0, steps = 0;
};

struct Counters {  // summed over cores; of local memory in use the most of any core
  uint64_t macs = 0, shared = 0, used[SPACES] = {};  // shared: additions to what another core has added to
  Unit units[2][PIPES];                              // of cube and vector cores
};

extern Core *now;  // the core whose code is running
extern Counters counters;

struct Instruction {  // in scope while an instruction is issued
  Instruction(Pipe pipe, const char *name);
  ~Instruction();
};

void Moved(uint64_t bytes);  // by the instruction in scope
void Worked(uint64_t steps);
void Touch(Memory &memory, size_t offset, size_t bytes, Access access);
void Align(Space space, size_t offset);
void SetFlag(Pipe from, Pipe to, int id);
void WaitFlag(Pipe from, Pipe to, int id);
int TakeEvent(Pipe from, Pipe to);  // the lowest id that is not raised, of those that a kernel may have
void Barrier(Pipe pipe);
void BarrierAll();
void CrossSet(int mode, Pipe pipe, int id);
void CrossWait(int id);
void SyncAll();
uint32_t Reserve(Space space, uint32_t bytes, const char *what);
void Unwritten(Space space, uint32_t begin, uint32_t end);  // contents given up: must be written before it is read

// Global memory: named buffers; a pointer belongs to exactly one.
uint8_t *GlobalBuffer(const std::string &name, const void *data, size_t bytes, bool writable);  // data null: poisoned
Memory &GlobalAt(const void *address, size_t *offset);
void CheckWritten(const std::string &name);

// c[m, n] (+)= a[m, k] b[k, n] on fractals of 16 x 16: a in Zz, b in Zn, c in Nz order.
void MultiplyFractals(float *c, const uint16_t *a, const uint16_t *b, int m, int n, int k, bool first, bool brain);

struct Launch {
  int blocks = 1;
  bool mixed = false;      // one cube core and two vector cores a block, instead of one vector core
  bool backwards = false;  // schedule the cores in the opposite order
  uint64_t tilingKey = 0;
};
extern Launch launch;
void Run(const Launch &what, void (*kernel)());

}  // namespace twin
