#pragma once

#include <napi.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// JS values to plain ones, checked: nothing from JS is trusted, every failure is a TypeError or RangeError that names the field.

namespace filigree::js {

// A field of an object, with its path for messages ("config.numHeads").
class Field {
 public:
  Field(Napi::Value value, std::string path) : value_(value), path_(std::move(path)) {}

  bool absent() const { return value_.IsUndefined() || value_.IsNull(); }
  const std::string& path() const { return path_; }
  Napi::Value value() const { return value_; }

  Field operator[](const char* name) const;  // of an object
  std::vector<Field> items() const;          // of an array
  std::vector<std::string> keys() const;     // of an object

  bool boolean() const;
  bool boolean_or(bool fallback) const { return absent() ? fallback : boolean(); }
  double number() const;  // finite
  double number_or(double fallback) const { return absent() ? fallback : number(); }
  // A whole number in [low, high], high <= 2^53.
  int64_t integer(int64_t low, int64_t high) const;
  int64_t integer_or(int64_t fallback, int64_t low, int64_t high) const {
    return absent() ? fallback : integer(low, high);
  }
  uint64_t bigint() const;  // a BigInt, its low 64 bits
  std::string string() const;
  std::string string_or(std::string fallback) const { return absent() ? fallback : string(); }
  std::vector<double> numbers_or_empty() const;
  std::vector<int32_t> ids(int64_t limit) const;  // array of whole numbers in [0, limit)
  std::span<const int32_t> int32_array() const;   // Int32Array; valid while the JS caller holds it

  [[noreturn]] void fail(std::string_view expected) const;

 private:
  Napi::Value value_;
  std::string path_;
};

Napi::Int32Array to_int32(Napi::Env env, std::span<const int32_t> values);
Napi::Float32Array to_float32(Napi::Env env, std::span<const float> values);

// An Error of ours as a JS Error with `code`.
Napi::Error to_js_error(Napi::Env env, std::exception_ptr failure);

}  // namespace filigree::js
