// SPDX-License-Identifier: Apache-2.0
//
// bido_ext._C: what this installation was built with. Kernels are not here: they live in the two
// libraries bido_cpu and bido_cuda, which PyTorch loads through its stable ABI.
#include <pybind11/pybind11.h>

PYBIND11_MODULE(_C, m) {
  m.doc() = "Facts about the build of bido_ext.";
  m.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = BIDO_VERSION;
        info["compiler"] = BIDO_CXX_COMPILER;
        info["torch_at_build"] = BIDO_TORCH_VERSION;
        info["oldest_torch"] = "2.10";
        info["cuda_compiler"] = BIDO_CUDA_COMPILER;
        info["cuda_architectures"] = BIDO_CUDA_ARCHITECTURES;
        return info;
      },
      "Compiler, PyTorch headers and CUDA architectures this installation was built with.");
}
