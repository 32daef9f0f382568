#pragma once

#include <stdexcept>
#include <string>

namespace filigree {

enum class ErrorCode { invalid_argument, corrupt_data, io, out_of_memory, unsupported, internal };

// Thrown while loading and planning, never from a kernel or a step: a step reports its failures as values.
// The message says what is wrong and what to do about it.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace filigree
