# SPDX-License-Identifier: Apache-2.0
#
# Which CUDA architectures bido_cuda is compiled for, before the language is enabled: CMake's own checks come
# too late to leave one out, and end in messages that name neither the variable nor the cure.
# Run by itself (cmake -D... -P) by tests/test_build.py.

cmake_minimum_required(VERSION 3.22)
set(BIDO_DEFAULT_CUDA_ARCHS 80 90a 100)

# `result`: the list for CMAKE_CUDA_ARCHITECTURES; empty where nvcc is too old and nobody asked for CUDA.
# `asked`: BIDO_CUDA_ARCHS, empty for what this nvcc knows of the default.
function(bido_cuda_architectures result nvcc asked)
  set(${result} "" PARENT_SCOPE)
  execute_process(COMMAND "${nvcc}" --version OUTPUT_VARIABLE version ERROR_QUIET)
  if(version MATCHES "release ([0-9]+)\\.([0-9]+)")
    set(version "${CMAKE_MATCH_1}.${CMAKE_MATCH_2}")
  else()
    set(version "of an unknown version")
  endif()
  if(NOT version VERSION_GREATER_EQUAL 12.0)
    set(why "nvcc ${version} (${nvcc}) cannot compile bido_cuda, which needs C++20, so nvcc 12.0 or newer")
    if(asked)
      message(FATAL_ERROR "BIDO_CUDA_ARCHS=\"${asked}\": ${why}. Update CUDA, or unset BIDO_CUDA_ARCHS "
                          "to build without bido_cuda.")
    endif()
    message(STATUS "${why}: bido_cuda is not built")
    return()
  endif()

  if("${asked}" STREQUAL "native")
    if(CMAKE_VERSION VERSION_LESS 3.24)
      message(FATAL_ERROR "BIDO_CUDA_ARCHS=\"native\" needs CMake 3.24 or newer, this is ${CMAKE_VERSION}: "
                          "name the architecture (such as \"90a\"), or update CMake (pip install cmake).")
    endif()
    set(${result} native PARENT_SCOPE)
    return()
  endif()

  execute_process(COMMAND "${nvcc}" --list-gpu-arch OUTPUT_VARIABLE listed ERROR_QUIET)
  string(REGEX MATCHALL "compute_[0-9]+" known "${listed}")
  list(TRANSFORM known REPLACE "compute_" "")
  list(REMOVE_DUPLICATES known)
  set(chosen "")
  if(asked)
    foreach(architecture IN LISTS asked)
      if(NOT architecture MATCHES "^([0-9]+)[af]?$")
        message(FATAL_ERROR "BIDO_CUDA_ARCHS=\"${asked}\": \"${architecture}\" is no architecture. Allowed "
                            "are \"native\", or numbers such as \"80;90a;100\", separated by semicolons.")
      endif()
      if(NOT CMAKE_MATCH_1 IN_LIST known)
        message(FATAL_ERROR "BIDO_CUDA_ARCHS=\"${asked}\": nvcc ${version} does not know ${architecture}, "
                            "only ${known}.")
      endif()
      list(APPEND chosen ${architecture})
    endforeach()
    list(REMOVE_DUPLICATES chosen)
    if("90" IN_LIST chosen AND "90a" IN_LIST chosen)
      # Code of both fits a Hopper GPU, and it is not documented which the driver takes. The host would launch
      # the kernels of sm_90a, which in code for sm_90 are empty.
      message(FATAL_ERROR "BIDO_CUDA_ARCHS=\"${asked}\" names both 90 and 90a: keep 90a, which serves the "
                          "same GPUs with their own matrix instructions.")
    endif()
  else()
    foreach(architecture IN LISTS BIDO_DEFAULT_CUDA_ARCHS)
      string(REGEX MATCH "^[0-9]+" number ${architecture})
      if(number IN_LIST known)
        list(APPEND chosen ${architecture})
      else()
        message(STATUS "nvcc ${version} does not know architecture ${architecture}: left out of bido_cuda")
      endif()
    endforeach()
    if(NOT chosen)
      message(STATUS "nvcc ${version} knows none of ${BIDO_DEFAULT_CUDA_ARCHS}: bido_cuda is not built")
      return()
    endif()
  endif()

  # GPUs newer than all of them run the PTX of the newest that has no letter: PTX of 90a and the like is for
  # that architecture (or family) alone.
  set(newest "")
  foreach(architecture IN LISTS chosen)
    if(architecture MATCHES "^[0-9]+$" AND (newest STREQUAL "" OR architecture GREATER newest))
      set(newest ${architecture})
    endif()
  endforeach()
  set(architectures "")
  foreach(architecture IN LISTS chosen)
    if(architecture STREQUAL newest)
      list(APPEND architectures ${architecture})
    else()
      list(APPEND architectures ${architecture}-real)
    endif()
  endforeach()
  if(newest STREQUAL "")
    message(STATUS "bido_cuda gets no PTX: it runs on the GPUs of ${chosen} alone")
  endif()
  set(${result} ${architectures} PARENT_SCOPE)
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  bido_cuda_architectures(chosen "${NVCC}" "${BIDO_CUDA_ARCHS}")
  message(STATUS "architectures: [${chosen}]")
endif()
