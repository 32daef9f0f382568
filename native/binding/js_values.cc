#include "binding/js_values.h"

#include <cmath>
#include <cstring>

#include "base/status.h"

namespace filigree::js {

void Field::fail(std::string_view expected) const {
  throw Napi::TypeError::New(value_.Env(), path_ + " must be " + std::string(expected));
}

Field Field::operator[](const char* name) const {
  if (!value_.IsObject()) fail("an object");
  return {value_.As<Napi::Object>().Get(name), path_ + "." + name};
}

std::vector<Field> Field::items() const {
  if (!value_.IsArray()) fail("an array");
  const auto array = value_.As<Napi::Array>();
  std::vector<Field> out;
  out.reserve(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i)
    out.emplace_back(array.Get(i), path_ + "[" + std::to_string(i) + "]");
  return out;
}

std::vector<std::string> Field::keys() const {
  if (!value_.IsObject()) fail("an object");
  const Napi::Array names = value_.As<Napi::Object>().GetPropertyNames();
  std::vector<std::string> out;
  for (uint32_t i = 0; i < names.Length(); ++i) out.push_back(names.Get(i).ToString().Utf8Value());
  return out;
}

bool Field::boolean() const {
  if (!value_.IsBoolean()) fail("a boolean");
  return value_.As<Napi::Boolean>().Value();
}

double Field::number() const {
  if (!value_.IsNumber()) fail("a number");
  const double number = value_.As<Napi::Number>().DoubleValue();
  if (!std::isfinite(number)) fail("a finite number");
  return number;
}

int64_t Field::integer(int64_t low, int64_t high) const {
  const double number = this->number();
  if (number != std::floor(number) || number < static_cast<double>(low) ||
      number > static_cast<double>(high)) {
    throw Napi::RangeError::New(value_.Env(), path_ + " must be a whole number from " + std::to_string(low) +
                                                  " to " + std::to_string(high) + ", not " +
                                                  value_.ToString().Utf8Value());
  }
  return static_cast<int64_t>(number);
}

uint64_t Field::bigint() const {
  if (!value_.IsBigInt()) fail("a BigInt");
  bool lossless = false;
  return value_.As<Napi::BigInt>().Uint64Value(&lossless);
}

std::string Field::string() const {
  if (!value_.IsString()) fail("a string");
  return value_.As<Napi::String>().Utf8Value();
}

std::vector<double> Field::numbers_or_empty() const {
  std::vector<double> out;
  if (absent()) return out;
  for (const Field& item : items()) out.push_back(item.number());
  return out;
}

std::vector<int32_t> Field::ids(int64_t limit) const {
  std::vector<int32_t> out;
  for (const Field& item : items()) out.push_back(static_cast<int32_t>(item.integer(0, limit - 1)));
  return out;
}

std::span<const int32_t> Field::int32_array() const {
  if (!value_.IsTypedArray() || value_.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    fail("an Int32Array");
  const auto array = value_.As<Napi::Int32Array>();
  return {array.Data(), array.ElementLength()};
}

Napi::Int32Array to_int32(Napi::Env env, std::span<const int32_t> values) {
  auto out = Napi::Int32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size_bytes());
  return out;
}

Napi::Float32Array to_float32(Napi::Env env, std::span<const float> values) {
  auto out = Napi::Float32Array::New(env, values.size());
  if (!values.empty()) std::memcpy(out.Data(), values.data(), values.size_bytes());
  return out;
}

Napi::Error to_js_error(Napi::Env env, std::exception_ptr failure) {
  static constexpr const char* kCodes[] = {"invalid_argument", "corrupt_data", "io",
                                           "out_of_memory",    "unsupported",  "internal"};
  const char* code = "internal";
  std::string message = "unknown native failure";
  try {
    std::rethrow_exception(failure);
  } catch (const Error& error) {
    code = kCodes[static_cast<int>(error.code())];
    message = error.what();
  } catch (const std::bad_alloc&) {
    code = "out_of_memory";
    message = "not enough memory";
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
  }
  Napi::Error error = Napi::Error::New(env, message);
  error.Set("code", Napi::String::New(env, code));
  return error;
}

}  // namespace filigree::js
