// SPDX-License-Identifier: Apache-2.0
//
// Tasks of different lengths, shared among the threads. A thread takes its own tasks, every T-th, and then
// what the others have not begun: what a task writes stays with one thread, and in the caches of its core,
// from call to call. The tasks must not care which thread runs them, or in what order: then results do not
// depend on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

#include "../common/stable.h"

namespace bido {

class TaskQueues {
 public:
  TaskQueues(int64_t count, int64_t threads) : count_(count), taken_(threads) {}
  int64_t threads() const { return static_cast<int64_t>(taken_.size()); }
  // The next of the tasks w, w + T, ... or -1.
  int64_t take(int64_t w) {
    const int64_t task = w + taken_[w].value.fetch_add(1, std::memory_order_relaxed) * threads();
    return task < count_ ? task : -1;
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> value{0};
  };
  int64_t count_;
  std::vector<Counter> taken_;
};

// The tasks as one thread sees them.
class Tasks {
 public:
  Tasks(TaskQueues& queues, int64_t own) : queues_(queues), own_(own) {}
  // A task nobody has taken, -1 if there is none.
  int64_t take() {
    for (; from_ < queues_.threads(); ++from_) {
      const int64_t task = queues_.take((own_ + from_) % queues_.threads());
      if (task >= 0) return task;
    }
    return -1;
  }

 private:
  TaskQueues& queues_;
  int64_t own_, from_ = 0;
};

// Runs worker(tasks) on every thread; it takes tasks until there are none.
template <typename Worker>
void run_tasks(int64_t count, const Worker& worker) {
  TaskQueues queues(count, std::min(count, static_cast<int64_t>(torch::stable::get_num_threads())));
  torch::stable::parallel_for(0, queues.threads(), 1, [&](int64_t first, int64_t last) {
    for (int64_t w = first; w < last; ++w) {
      Tasks tasks(queues, w);
      worker(tasks);
    }
  });
}

}  // namespace bido
