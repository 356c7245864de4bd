// SPDX-License-Identifier: Apache-2.0
//
// Tasks of different lengths, each taken by whichever thread is free. The tasks must not care which thread
// runs them, or in what order: then results do not depend on the number of threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "../common/stable.h"

namespace bido {

// Hands out 0, 1, ... count - 1, then -1.
class Tasks {
 public:
  explicit Tasks(int64_t count) : count_(count) {}
  int64_t take() {
    const int64_t task = next_.fetch_add(1, std::memory_order_relaxed);
    return task < count_ ? task : -1;
  }

 private:
  std::atomic<int64_t> next_{0};
  int64_t count_;
};

// Runs worker(tasks) on every thread; it takes tasks until there are none.
template <typename Worker>
void run_tasks(int64_t count, const Worker& worker) {
  Tasks tasks(count);
  const auto threads = static_cast<int64_t>(torch::stable::get_num_threads());
  torch::stable::parallel_for(0, std::min(count, threads), 1, [&](int64_t, int64_t) { worker(tasks); });
}

}  // namespace bido
