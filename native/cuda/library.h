#pragma once

#include <dlfcn.h>

#include <initializer_list>
#include <type_traits>

namespace filigree::cuda {

// A library that is opened at run time, by the first of its names that is found, and stays open.
class RuntimeLibrary {
 public:
  RuntimeLibrary(std::initializer_list<const char*> names) {
    for (const char* name : names)
      if ((handle_ = dlopen(name, RTLD_NOW | RTLD_LOCAL))) break;
  }

  bool opened() const { return handle_ != nullptr; }
  bool complete() const { return complete_; }  // every function asked for so far was there

  template <class Function>
  void find(Function& function, const char* name) {
    void* const symbol = dlsym(handle_, name);
    complete_ = complete_ && symbol != nullptr;
    function = reinterpret_cast<Function>(symbol);
  }

 private:
  void* handle_ = nullptr;
  bool complete_ = true;
};

}  // namespace filigree::cuda
