// SPDX-License-Identifier: Apache-2.0
//
// bido_ext._C: what this installation was built with, and the planner. Kernels are not here: they live in
// the two libraries bido_cpu and bido_cuda, which PyTorch loads through its stable ABI.
#include <pybind11/pybind11.h>

#include "../common/planner.h"

namespace {

pybind11::dict build_info() {
  pybind11::dict info;
  info["version"] = BIDO_VERSION;
  info["compiler"] = BIDO_CXX_COMPILER;
  info["torch_at_build"] = BIDO_TORCH_VERSION;
  info["oldest_torch"] = "2.10";
  info["cuda_compiler"] = BIDO_CUDA_COMPILER;
  info["cuda_architectures"] = BIDO_CUDA_ARCHITECTURES;
  return info;
}

pybind11::dict plan_pair(int64_t n, int64_t dx, int64_t dy, int64_t element, int64_t budget) {
  const bido::PairPlan plan = bido::plan_pair(n, dx, dy, element, budget);
  pybind11::dict result;
  result["regime"] = plan.regime;
  result["tile"] = plan.tile;
  result["bytes"] = plan.bytes;
  result["dense_bytes"] = plan.dense_bytes;
  result["smallest_bytes"] = plan.smallest_bytes;
  return result;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
  m.doc() = "Facts about the build of bido_ext, and its planner.";
  m.def("build_info", &build_info,
        "Compiler, PyTorch headers and CUDA architectures this installation was built with.");
  m.def("plan_pair", &plan_pair, py::arg("n"), py::arg("dx"), py::arg("dy"), py::arg("element"),
        py::arg("budget"), "Regime, tile and bytes of one HSIC or CKA pair; dy = 0 stands for labels.");
}
