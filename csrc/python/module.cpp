// SPDX-License-Identifier: Apache-2.0
//
// bido_ext._C: what this installation was built with, and the planner. Kernels are not here: they live in
// the two libraries bido_cpu and bido_cuda, which PyTorch loads through its stable ABI.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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

pybind11::dict as_dict(const bido::GroupPlan& plan) {
  pybind11::dict result;
  result["regime"] = plan.regime;
  result["tile"] = plan.tile;
  result["kept"] = plan.kept;
  result["bytes"] = plan.bytes;
  result["dense_bytes"] = plan.dense_bytes;
  result["smallest_bytes"] = plan.smallest_bytes;
  return result;
}

pybind11::dict plan_group(int64_t n, const std::vector<int64_t>& dims, int64_t element, int64_t budget) {
  return as_dict(bido::plan_group(n, dims, element, budget));
}

pybind11::dict plan_panels(int64_t n, const std::vector<int64_t>& dims, int64_t element, int64_t budget) {
  return as_dict(bido::plan_panels(n, dims, element, budget));
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  namespace py = pybind11;
  m.doc() = "Facts about the build of bido_ext, and its planner.";
  m.def("build_info", &build_info,
        "Compiler, PyTorch headers and CUDA architectures this installation was built with.");
  m.def("plan_group", &plan_group, py::arg("n"), py::arg("dims"), py::arg("element"), py::arg("budget"),
        "Regime, tile and bytes of hsic or cka of a group of variables; width 0 stands for labels.");
  m.def("plan_panels", &plan_panels, py::arg("n"), py::arg("dims"), py::arg("element"), py::arg("budget"),
        "The same on a GPU, where the tile is a panel of rows.");
  m.def("algebra_bytes", &bido::algebra_bytes, py::arg("n"), py::arg("dims"), py::arg("element"),
        py::arg("algebra"), py::arg("inverses"), py::arg("factors"),
        "Bytes of nhsic (with inverses) or coco of a group.");
}
