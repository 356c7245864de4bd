// SPDX-License-Identifier: Apache-2.0
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#ifndef __x86_64__
#error "the emulator switches stacks of x86-64"
#endif

// Saves the callee-saved registers and the stack pointer, and goes on where `to` was saved.
extern "C" void bido_switch_stack(void** from, void* to);
asm(R"(
.text
.globl bido_switch_stack
.type bido_switch_stack,@function
bido_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size bido_switch_stack,.-bido_switch_stack
)");

namespace emulator {
namespace {

// No power of two, or the tops of all stacks would share a few lines of the cache.
constexpr size_t kStack = 256 * 1024 + 17 * 64;

struct Warp {
  int lanes = 0, arrived = 0;
  uint64_t generation = 0;
  alignas(64) char slots[2][kLanes * kExchangeStride];
};

struct Fiber {
  Place place;
  void* stack_pointer = nullptr;
  bool done = false;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::unique_ptr<char[]> stacks;
  size_t stack_count = 0;
  void* scheduler = nullptr;
  Fiber* running = nullptr;
  const std::function<void()>* kernel = nullptr;
  int alive = 0, arrived = 0;
  uint64_t generation = 0, progress = 0;
  std::string failure;
  std::vector<char> shared;
  char* shared_start = nullptr;
  int shared_size = 0;
  int64_t launches = 0;
};
Machine machine;

void yield() { bido_switch_stack(&machine.running->stack_pointer, machine.scheduler); }

[[noreturn]] void stop() {  // the block is given up; the scheduler throws
  for (;;) yield();
}

void fiber_main() {
  try {
    (*machine.kernel)();
  } catch (const std::exception& error) {
    machine.failure = error.what();
    stop();
  }
  machine.running->done = true;
  ++machine.progress;
  --machine.alive;
  if (machine.arrived > 0) machine.failure = "a thread left while others wait at a barrier";
  for (;;) yield();
}

void prepare(Fiber& fiber, char* stack) {
  auto top = reinterpret_cast<uintptr_t>(stack + kStack) & ~uintptr_t{15};
  auto** slots = reinterpret_cast<void**>(top) - 2;
  slots[0] = reinterpret_cast<void*>(&fiber_main);
  slots[1] = nullptr;  // where fiber_main would return to; also aligns the stack as a call does
  fiber.stack_pointer = slots - 6;
  std::memset(fiber.stack_pointer, 0, 6 * sizeof(void*));
  fiber.done = false;
}

std::string order_mode() {
  const char* mode = std::getenv("BIDO_EMULATOR_ORDER");
  return mode ? mode : "forward";
}

// The static shared memory of all kernels: the zero-initialised thread-local variables of this library.
struct StaticShared {
  char* begin = nullptr;
  size_t size = 0;
};
thread_local char in_this_library;

StaticShared static_shared() {
  in_this_library = 1;  // the first use makes the section of this thread
  StaticShared found;
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* result) {
        auto* const start = static_cast<char*>(info->dlpi_tls_data);
        for (int k = 0; start && k < info->dlpi_phnum; ++k) {
          const auto& header = info->dlpi_phdr[k];
          if (header.p_type != PT_TLS || &in_this_library < start ||
              &in_this_library >= start + header.p_memsz)
            continue;
          *static_cast<StaticShared*>(result) = {start + header.p_filesz, header.p_memsz - header.p_filesz};
        }
        return 0;
      },
      &found);
  if (!found.begin) throw std::runtime_error("CUDA emulator: static shared memory is not where it should be");
  return found;
}

constexpr char kNan = static_cast<char>(0xFF);

int number(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

void run_block(dim3 block_index, dim3 grid, dim3 block, int shared_bytes) {
  const int threads = static_cast<int>(block.x * block.y * block.z);
  Machine& m = machine;
  if (m.stack_count < static_cast<size_t>(threads)) {
    m.stacks.reset(new char[kStack * threads]);
    m.stack_count = threads;
  }
  m.fibers.assign(threads, {});
  m.warps.assign((threads + kLanes - 1) / kLanes, {});
  m.alive = threads;
  m.arrived = 0;
  m.shared.assign(static_cast<size_t>(shared_bytes) + 2048, kNan);
  m.shared_start =
      reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(m.shared.data()) + 1023) & ~uintptr_t{1023});
  m.shared_size = shared_bytes;
  std::vector<int> order(threads);
  for (int t = 0; t < threads; ++t) {
    order[t] = t;
    m.fibers[t].place = {dim3(t), block_index, grid};
    ++m.warps[t / kLanes].lanes;
    prepare(m.fibers[t], m.stacks.get() + kStack * t);
  }
  const std::string mode = order_mode();
  std::mt19937 generator(block_index.x + 7);
  if (mode == "reverse") std::reverse(order.begin(), order.end());
  while (m.alive > 0) {
    const uint64_t before = m.progress;
    if (mode == "shuffle") std::shuffle(order.begin(), order.end(), generator);
    for (int t : order) {
      if (m.fibers[t].done) continue;
      m.running = &m.fibers[t];
      bido_switch_stack(&m.scheduler, m.running->stack_pointer);
      if (!m.failure.empty()) break;
    }
    if (m.failure.empty() && m.progress == before && m.alive > 0)
      m.failure = "deadlock: threads wait at different barriers";
    if (!m.failure.empty()) {
      const std::string failure = m.failure;
      m.failure.clear();
      throw std::runtime_error("CUDA emulator: " + failure);
    }
  }
}

}  // namespace

const Place& place() { return machine.running->place; }

void run_grid(dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& kernel) {
  ++machine.launches;
  constexpr unsigned kMostBlocks = 0x7FFFFFFF, kMostOfOthers = 65535;
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > kMostBlocks || grid.y > kMostOfOthers ||
      grid.z > kMostOfOthers)
    throw std::runtime_error("CUDA emulator: a grid that no device takes");
  const StaticShared fixed = static_shared();
  const int64_t limit = (major_capability() == 9 ? 227 : 99) * 1024;
  const auto check = [&](int64_t bytes) {
    if (bytes > limit) throw std::runtime_error("CUDA emulator: more shared memory than a block may have");
  };
  check(shared_bytes);
  bool first = true;
  machine.kernel = &kernel;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        std::fill_n(fixed.begin, fixed.size, kNan);
        run_block(dim3(x, y, z), grid, block, shared_bytes);
        // Nobody tells how much a kernel has; what its first block has written is nearly all of it.
        if (first) check(shared_bytes + fixed.size - std::count(fixed.begin, fixed.begin + fixed.size, kNan));
        first = false;
      }
}

void block_barrier() {
  Machine& m = machine;
  const uint64_t mine = m.generation;
  ++m.progress;
  if (++m.arrived == static_cast<int>(m.fibers.size())) {
    m.arrived = 0;
    ++m.generation;
    return;
  }
  if (m.alive < static_cast<int>(m.fibers.size())) {
    m.failure = "a barrier that some threads have left before";
    stop();
  }
  while (m.generation == mine) yield();
}

const char* warp_exchange(const void* mine, size_t bytes) {
  Machine& m = machine;
  const int thread = static_cast<int>(m.running->place.thread.x), lane = thread % kLanes;
  Warp& warp = m.warps[thread / kLanes];
  const uint64_t generation = warp.generation;
  char* const slots = warp.slots[generation % 2];
  std::memcpy(slots + lane * kExchangeStride, mine, bytes);
  ++m.progress;
  if (++warp.arrived == warp.lanes) {
    warp.arrived = 0;
    ++warp.generation;
  } else {
    while (warp.generation == generation) yield();
  }
  return slots;
}

void check_alignment(const void* address, size_t size) {
  if (reinterpret_cast<uintptr_t>(address) % size == 0) return;
  machine.failure =
      "a vector of " + std::to_string(size) + " bytes is read from an address between its multiples";
  stop();
}

char* dynamic_shared_memory() { return machine.shared_start; }
int shared_bytes() { return machine.shared_size; }
int64_t launches() { return machine.launches; }
int major_capability() { return number("BIDO_EMULATOR_CAPABILITY", 8); }
int multiprocessors() { return number("BIDO_EMULATOR_MULTIPROCESSORS", 132); }
bool lazy_wgmma() {
  const char* mode = std::getenv("BIDO_EMULATOR_WGMMA");
  return mode && std::string(mode) == "lazy";
}

}  // namespace emulator
