#include "machine.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace twin {

Core *now = nullptr;
Counters counters;
Launch launch;

namespace {

constexpr size_t STACK = 256 * 1024;

std::vector<std::unique_ptr<Core>> cores;
const char *instruction = nullptr;
Pipe pipe_now = S;
uint32_t epoch = 0;

struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
};
std::vector<Fiber> fibers;
ucontext_t scheduler;
void (*entry)();

void Yield() {
  Core *self = now;
  swapcontext(&fibers[self->index].context, &scheduler);
  now = self;
}

void Body() {
  entry();
  now->finished = true;
  swapcontext(&fibers[now->index].context, &scheduler);
}

std::string AgentName(uint16_t agent) {
  if (agent == HOST) return "the host";
  const Core &core = *cores[agent / PIPES];
  return "PIPE_" + std::string(PIPE_NAME[agent % PIPES]) + (&core == now ? "" : " of " + core.Name());
}

void Join(Core &core, Pipe pipe, const Clock &other) {
  Clock &clock = core.clock[pipe];
  const uint16_t self = core.Agent(pipe);
  const uint32_t own = clock[self];
  for (size_t i = 0; i < clock.size(); ++i) clock[i] = std::max(clock[i], other[i]);
  core.done[pipe] = std::max(core.done[pipe], other[self]);  // learnt from others that own instructions have ended
  clock[self] = own;
  if (pipe == S) ++core.version;
}

bool Ordered(uint16_t agent, uint32_t when) {
  if (agent == HOST) return true;
  if (agent == now->Agent(pipe_now)) return pipe_now == S || when == epoch || when <= now->done[pipe_now];
  return now->clock[pipe_now][agent] >= when;
}

[[noreturn]] void Race(const Memory &memory, size_t offset, uint16_t agent, const char *did, const char *does) {
  Fail("PIPE_%s %s byte %zu of %s, which %s %s: no flag, barrier or queue orders the two", PIPE_NAME[pipe_now], does,
       offset, memory.name.c_str(), AgentName(agent).c_str(), did);
}

}  // namespace

void Fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fprintf(stderr, "twin: %s%s%s: ", now ? now->Name().c_str() : "host", instruction ? ", " : "",
               instruction ? instruction : "");
  std::vfprintf(stderr, format, arguments);
  std::fprintf(stderr, "\n");
  va_end(arguments);
  std::fflush(stderr);
  std::_Exit(3);
}

std::string Core::Name() const {
  const std::string where = "block " + std::to_string(block);
  return where + (kind == Kind::CUBE ? " AIC" : " AIV" + std::to_string(sub));
}

Instruction::Instruction(Pipe pipe, const char *name) {
  if (instruction) Fail("%s is issued inside it", name);
  instruction = name;
  const bool cube = now->kind == Kind::CUBE;
  if ((cube && pipe == V) || (!cube && (pipe == MTE1 || pipe == M || pipe == FIX)))
    Fail("a %s core has no PIPE_%s", cube ? "cube" : "vector", PIPE_NAME[pipe]);
  if (pipe != S && now->scalar[pipe] != now->version) {  // the scalar unit issues instructions: they know what it has
    Clock known = now->clock[S];                         // waited for, but not what it has itself written
    known[now->Agent(S)] = 0;
    Join(*now, pipe, known);
    now->scalar[pipe] = now->version;
  }
  pipe_now = pipe;
  Unit &unit = counters.units[cube ? 0 : 1][pipe];
  const std::string what = name;
  ++(what == "PipeBarrier" ? unit.barriers : what.find("Flag") != std::string::npos ? unit.flags : unit.instructions);
  epoch = ++now->clock[pipe][now->Agent(pipe)];
}

Instruction::~Instruction() { instruction = nullptr; }

void Moved(uint64_t bytes) { counters.units[now->kind == Kind::CUBE ? 0 : 1][pipe_now].bytes += bytes; }
void Worked(uint64_t steps) { counters.units[now->kind == Kind::CUBE ? 0 : 1][pipe_now].steps += steps; }

void Touch(Memory &memory, size_t offset, size_t bytes, Access access) {
  if (bytes == 0) return;
  if (offset + bytes > memory.bytes.size())
    Fail("bytes %zu to %zu are outside %s (%zu bytes)", offset, offset + bytes, memory.name.c_str(),
         memory.bytes.size());
  const uint16_t self = now->Agent(pipe_now);
  const bool reads = access == Access::READ || access == Access::COPY_RAW;
  if (!reads && !memory.writable) Fail("writes into the input %s", memory.name.c_str());
  for (size_t g = offset / memory.granule; g <= (offset + bytes - 1) / memory.granule; ++g) {
    Cell &cell = memory.cells[g];
    const size_t at = g * memory.granule;
    if (access == Access::ATOMIC && cell.atomic && cell.writer != self) ++counters.shared;
    if (cell.writer != NOBODY && !(access == Access::ATOMIC && cell.atomic) && !Ordered(cell.writer, cell.written))
      Race(memory, at, cell.writer, "writes", reads ? "reads" : "writes");
    if (reads) {
      if (cell.writer == NOBODY && access == Access::READ)
        Fail("reads byte %zu of %s, which nothing has written", at, memory.name.c_str());
      int slot = cell.reader[0] == self || cell.reader[0] == NOBODY ? 0 : 1;
      if (slot == 1 && cell.reader[1] != self && cell.reader[1] != NOBODY && Ordered(cell.reader[0], cell.read[0]))
        slot = 0;
      cell.reader[slot] = self;
      cell.read[slot] = epoch;
    } else {
      for (int i = 0; i < 2; ++i)
        if (cell.reader[i] != NOBODY && !Ordered(cell.reader[i], cell.read[i]))
          Race(memory, at, cell.reader[i], "reads", "overwrites");
      cell = Cell();
      cell.writer = self;
      cell.written = epoch;
      cell.atomic = access == Access::ATOMIC;
    }
  }
}

void Align(Space space, size_t offset) {
  if (offset % ALIGNMENT[space])
    Fail("byte %zu of %s is not aligned to %zu", offset, SPACE_NAME[space], ALIGNMENT[space]);
}

void SetFlag(Pipe from, Pipe to, int id) {
  if (id < 0 || id >= EVENT_IDS)
    Fail("SetFlag<%s_%s>(%d): ids are 0 to %d", PIPE_NAME[from], PIPE_NAME[to], id, EVENT_IDS - 1);
  Instruction set(from, "SetFlag");
  Flag &flag = now->flags[Pair(from, to)][id];
  if (flag.raised) Fail("%s_%s(%d) is raised again before it was waited for", PIPE_NAME[from], PIPE_NAME[to], id);
  flag.raised = true;
  flag.clock = now->clock[from];
}

void WaitFlag(Pipe from, Pipe to, int id) {
  if (id < 0 || id >= EVENT_IDS)
    Fail("WaitFlag<%s_%s>(%d): ids are 0 to %d", PIPE_NAME[from], PIPE_NAME[to], id, EVENT_IDS - 1);
  Instruction wait(to, "WaitFlag");
  Flag &flag = now->flags[Pair(from, to)][id];
  if (!flag.raised) Fail("%s_%s(%d) is waited for and never raised", PIPE_NAME[from], PIPE_NAME[to], id);
  flag.raised = false;
  Join(*now, to, flag.clock);
}

// A TPipe takes M_MTE1 0 to 2 on a cube core for itself. FetchEventID answers with a free id and does not take it: where
// all are in flight, the library's own wait between V and MTE2 finds none.
int TakeEvent(Pipe from, Pipe to) {
  const int first = from == M && to == MTE1 ? TPIPE_EVENTS : 0, spare = from == V && to == MTE2 ? 1 : 0;
  for (int id = first; id < EVENT_IDS - spare; ++id)
    if (!now->flags[Pair(from, to)][id].raised) return id;
  Fail("more than %d events %s_%s in flight: %d of %d are the library's", EVENT_IDS - first - spare, PIPE_NAME[from],
       PIPE_NAME[to], first + spare, EVENT_IDS);
}

void Barrier(Pipe pipe) {
  Instruction barrier(pipe, "PipeBarrier");
  now->done[pipe] = epoch;
}

void BarrierAll() {
  Clock all = now->clock[S];
  for (int p = 0; p < PIPES; ++p)
    for (size_t i = 0; i < all.size(); ++i) all[i] = std::max(all[i], now->clock[p][i]);
  for (int p = 0; p < PIPES; ++p) Join(*now, Pipe(p), all);
}

void CrossSet(int mode, Pipe pipe, int id) {
  Instruction set(pipe, "CrossCoreSetFlag");
  if (mode != 2) Fail("mode %d: the twin models mode 2, one cube core with its two vector cores", mode);
  if (pipe == S) Fail("PIPE_S and PIPE_ALL cannot raise a cross-core flag");
  if (id < 0 || id >= CROSS_FLAGS) Fail("flag %d: ids are 0 to %d", id, CROSS_FLAGS - 1);
  if (!launch.mixed) Fail("a kernel without cube cores has nobody to raise flag %d for", id);
  for (auto &core : cores) {
    if (core->block != now->block || core->kind == now->kind) continue;
    auto &raised = core->cross[id][now->kind == Kind::CUBE ? 0 : now->sub];
    raised.push_back(now->clock[pipe]);
    if (raised.size() > CROSS_DEPTH)
      Fail("flag %d is raised %zu times ahead of %s; the counter holds %d", id, raised.size(), core->Name().c_str(),
           CROSS_DEPTH);
  }
}

void CrossWait(int id) {
  if (id < 0 || id >= CROSS_FLAGS) Fail("CrossCoreWaitFlag(%d): ids are 0 to %d", id, CROSS_FLAGS - 1);
  auto &raised = now->cross[id];
  const bool both = now->kind == Kind::CUBE;
  while (raised[0].empty() || (both && raised[1].empty())) {
    now->waits = "cross-core flag " + std::to_string(id);
    Yield();
  }
  now->waits.clear();
  Instruction wait(S, "CrossCoreWaitFlag");
  for (int i = 0; i <= int(both); ++i) {
    Join(*now, S, raised[i].front());
    raised[i].pop_front();
  }
}

void SyncAll() {
  if (now->kind == Kind::CUBE) Fail("SyncAll() is for vector cores");
  BarrierAll();
  now->synchronised = true;
  for (bool last = false; !last;) {
    last = true;
    for (auto &core : cores)
      if (core->kind == Kind::VECTOR && !core->synchronised) last = false;
    if (last) break;
    now->waits = "SyncAll";
    Yield();
    if (!now->synchronised) {  // the last to arrive has let everybody go
      now->waits.clear();
      return;
    }
  }
  now->waits.clear();
  Clock all = now->clock[S];
  for (auto &core : cores)
    if (core->kind == Kind::VECTOR)
      for (size_t i = 0; i < all.size(); ++i) all[i] = std::max(all[i], core->clock[S][i]);
  for (auto &core : cores)
    if (core->kind == Kind::VECTOR) {
      Join(*core, S, all);
      core->synchronised = false;
    }
}

void Run(const Launch &what, void (*kernel)()) {
  launch = what;
  entry = kernel;
  const int per_block = what.mixed ? 3 : 1;
  const size_t agents = size_t(what.blocks) * per_block * PIPES;
  for (int i = 0; i < what.blocks * per_block; ++i) {
    auto core = std::make_unique<Core>();
    core->kind = what.mixed && i % 3 == 0 ? Kind::CUBE : Kind::VECTOR;
    core->block = i / per_block;
    core->sub = what.mixed ? i % 3 - 1 : 0;
    core->index = i;
    for (int p = 0; p < PIPES; ++p) {
      core->clock[p].assign(agents, 0);
      core->done[p] = core->scalar[p] = 0;
    }
    cores.push_back(std::move(core));
  }
  fibers.resize(cores.size());
  for (size_t i = 0; i < cores.size(); ++i) {
    fibers[i].stack.resize(STACK);
    getcontext(&fibers[i].context);
    fibers[i].context.uc_stack.ss_sp = fibers[i].stack.data();
    fibers[i].context.uc_stack.ss_size = STACK;
    fibers[i].context.uc_link = &scheduler;
    makecontext(&fibers[i].context, Body, 0);
  }
  std::vector<Core *> order;
  for (auto &core : cores) order.push_back(core.get());
  if (what.backwards) std::reverse(order.begin(), order.end());
  auto state = [&] {
    std::vector<uint32_t> all;
    for (Core *core : order) {
      all.push_back(core->version + core->finished);
      for (int p = 0; p < PIPES; ++p) all.back() += core->clock[p][core->Agent(Pipe(p))];
    }
    return all;
  };
  for (;;) {
    const auto before = state();
    bool running = false;
    for (Core *core : order) {
      if (core->finished) continue;
      running = true;
      now = core;
      swapcontext(&scheduler, &fibers[core->index].context);
    }
    now = nullptr;
    if (!running) break;
    if (state() == before) {
      std::string who;
      for (Core *core : order)
        if (!core->finished) who += (who.empty() ? "" : "; ") + core->Name() + " waits for " + core->waits;
      Fail("nobody can go on: %s, which is never raised", who.c_str());
    }
  }
  for (Core *core : order) {
    now = core;
    for (int s = 0; s < SPACES; ++s) counters.used[s] = std::max<uint64_t>(counters.used[s], core->used[s]);
    for (int e = 0; e < PIPES * PIPES; ++e)
      for (int id = 0; id < EVENT_IDS; ++id)
        if (core->flags[e][id].raised)
          Fail("flag %s_%s(%d) is raised and never waited for", PIPE_NAME[e / PIPES], PIPE_NAME[e % PIPES], id);
    for (int id = 0; id < CROSS_FLAGS; ++id)
      for (auto &raised : core->cross[id])
        if (!raised.empty()) Fail("cross-core flag %d is raised %zu times and never waited for", id, raised.size());
  }
  now = nullptr;
}

}  // namespace twin
