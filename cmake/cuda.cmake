# The CUDA backend is built where an nvcc is found: CUDACXX, CUDA_HOME, CUDA_PATH, the PATH, /usr/local/cuda. FILIGREE_CUDA=OFF in
# the environment leaves it out; ON makes its absence an error. FILIGREE_CUDA_ARCHITECTURES, there too, names others than the default.
# The addon links the runtime statically and opens cuBLASLt when a model is loaded: it loads and works without GPU or driver.
set(FILIGREE_CUDA_FOUND OFF)
if(NOT "$ENV{FILIGREE_CUDA}" STREQUAL "OFF")
  get_filename_component(cudacxx_folder "$ENV{CUDACXX}" DIRECTORY)
  find_program(FILIGREE_NVCC nvcc
    HINTS "${cudacxx_folder}" "$ENV{CUDA_HOME}/bin" "$ENV{CUDA_PATH}/bin" PATHS /usr/local/cuda/bin)
  if(FILIGREE_NVCC)
    get_filename_component(FILIGREE_NVCC_REAL ${FILIGREE_NVCC} REALPATH)
    get_filename_component(FILIGREE_CUDA_ROOT ${FILIGREE_NVCC_REAL} DIRECTORY)
    get_filename_component(FILIGREE_CUDA_ROOT ${FILIGREE_CUDA_ROOT} DIRECTORY)
    find_library(FILIGREE_CUDART cudart_static
      PATHS ${FILIGREE_CUDA_ROOT}/lib64 ${FILIGREE_CUDA_ROOT}/lib ${FILIGREE_CUDA_ROOT}/targets/x86_64-linux/lib NO_DEFAULT_PATH)
    find_path(FILIGREE_CUDA_INCLUDE cuda_runtime_api.h
      PATHS ${FILIGREE_CUDA_ROOT}/include ${FILIGREE_CUDA_ROOT}/targets/x86_64-linux/include NO_DEFAULT_PATH)
  endif()
  if(FILIGREE_NVCC AND FILIGREE_CUDART AND FILIGREE_CUDA_INCLUDE)
    set(FILIGREE_CUDA_ARCHITECTURES "80-real;90a-real;100-real")
    if(NOT "$ENV{FILIGREE_CUDA_ARCHITECTURES}" STREQUAL "")
      set(FILIGREE_CUDA_ARCHITECTURES "$ENV{FILIGREE_CUDA_ARCHITECTURES}")
    endif()
    set(CMAKE_CUDA_COMPILER ${FILIGREE_NVCC_REAL})
    set(CMAKE_CUDA_ARCHITECTURES ${FILIGREE_CUDA_ARCHITECTURES})
    # nvcc from PyPI's wheels does not know its own library folder.
    get_filename_component(cudart_folder ${FILIGREE_CUDART} DIRECTORY)
    set(CMAKE_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} -L${cudart_folder}")
    enable_language(CUDA)
    set(CMAKE_CUDA_STANDARD 17)
    set(CMAKE_CUDA_STANDARD_REQUIRED ON)
    set(FILIGREE_CUDA_FOUND ON)
    message(STATUS "CUDA backend: ${FILIGREE_NVCC_REAL}, ${FILIGREE_CUDA_ARCHITECTURES}")
  elseif("$ENV{FILIGREE_CUDA}" STREQUAL "ON")
    message(FATAL_ERROR "FILIGREE_CUDA=ON, but nvcc with cudart_static and cuda_runtime_api.h was not found")
  endif()
endif()
