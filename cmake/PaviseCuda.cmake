# Finds CUDA's compiler, where it is wanted. Sets PAVISE_HAS_CUDA; with it, CUDA is an enabled language
# and PAVISE_CUDA_FLAGS are what kernels are compiled with. CUDA's runtime is linked statically and
# finds the driver when it is first used, so that one binary runs with and without one.
set(PAVISE_CUDA AUTO CACHE STRING "CUDA devices: AUTO (where nvcc is found), ON or OFF")
set_property(CACHE PAVISE_CUDA PROPERTY STRINGS AUTO ON OFF)
# Machine code for Turing (75), Ampere and Ada (80), Hopper (90), Blackwell (100 data centre, 120
# others), and PTX, which drivers compile for whatever comes later: 35 CPU seconds. Code for 80 runs
# on 86 and 89 as it is, and the kernels use nothing that 90a has and 90 lacks.
set(PAVISE_CUDA_ARCHITECTURES 75 80 90 100 120 CACHE STRING "Compute capabilities to build for")

set(PAVISE_HAS_CUDA OFF)
if(NOT PAVISE_CUDA STREQUAL "OFF")
  find_program(PAVISE_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATH_SUFFIXES bin
    PATHS /usr/local/cuda/bin /opt/cuda/bin)
  if(PAVISE_NVCC)
    # The flags below name the architectures: CMake 3.25 does not know all of them.
    set(CMAKE_CUDA_ARCHITECTURES OFF)
    if(NOT CMAKE_CUDA_COMPILER)
      set(CMAKE_CUDA_COMPILER ${PAVISE_NVCC})
    endif()
    include(CheckLanguage)
    check_language(CUDA)
  endif()
  if(PAVISE_NVCC AND CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
  endif()
  # 12.8 is the first that knows C++20 and Blackwell (Debian 12 packages 11.8).
  if(CMAKE_CUDA_COMPILER_LOADED AND NOT CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.8)
    find_package(CUDAToolkit REQUIRED)
    set(PAVISE_HAS_CUDA ON)
    # What CMake 3.25 does not know of nvcc 13; else it refuses C++20.
    foreach(kind STANDARD EXTENSION)
      if(NOT CMAKE_CUDA20_${kind}_COMPILE_OPTION)
        set(CMAKE_CUDA20_${kind}_COMPILE_OPTION -std=c++20)
      endif()
    endforeach()
    set(PAVISE_CUDA_FLAGS)
    foreach(architecture ${PAVISE_CUDA_ARCHITECTURES})
      list(APPEND PAVISE_CUDA_FLAGS
        "SHELL:-gencode arch=compute_${architecture},code=sm_${architecture}")
    endforeach()
    list(APPEND PAVISE_CUDA_FLAGS "SHELL:-gencode arch=compute_90,code=compute_90")
  elseif(PAVISE_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PAVISE_CUDA=ON, but no working nvcc of CUDA 12.8 or later was found (looked in PATH, CUDA_HOME, "
      "/usr/local/cuda and /opt/cuda)")
  else()
    message(STATUS "No nvcc of CUDA 12.8 or later: cuda:N devices will be refused")
  endif()
endif()
