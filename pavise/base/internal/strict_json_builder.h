#ifndef PAVISE_BASE_INTERNAL_STRICT_JSON_BUILDER_H_
#define PAVISE_BASE_INTERNAL_STRICT_JSON_BUILDER_H_

#include <cmath>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise::internal {

// Builds the value tree from a parser's events, so that depth, count and duplicate keys are
// checked before anything is stored. Returning false stops the parser; `error_` says why.
class StrictJsonBuilder final : public nlohmann::json_sax<Json> {
 public:
  StrictJsonBuilder(std::string_view item, const JsonLimits& limits)
      : item_(item), limits_(limits) {}

  bool null() override { return Add(nullptr) != nullptr; }
  bool boolean(bool value) override { return Add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return Add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return Add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t& text) override {
    if (!std::isfinite(value)) return Fail(Reason::kMalformed, "number out of range: " + text);
    return Add(value) != nullptr;
  }
  bool string(string_t& value) override { return Add(std::move(value)) != nullptr; }
  bool binary(binary_t&) override { return Fail(Reason::kMalformed, "binary value"); }
  bool start_object(std::size_t) override { return Push(Json::object()); }
  bool start_array(std::size_t) override { return Push(Json::array()); }
  bool end_object() override { return Pop(); }
  bool end_array() override { return Pop(); }
  bool key(string_t& name) override {
    if (stack_.back()->contains(name)) {
      return Fail(Reason::kMalformed,
                  StrCat("duplicate key \"", std::string_view(name).substr(0, 200), "\""));
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::json::exception&) override {
    return Fail(Reason::kMalformed, StrCat("not JSON at byte ", position));
  }

  absl::Status TakeError() { return std::move(error_); }
  Json TakeValue() { return std::move(root_); }

 private:
  bool Fail(Reason reason, const std::string& detail) {
    if (error_.ok()) error_ = Refuse(reason, item_, detail);
    return false;
  }

  template <typename Value>
  Json* Add(Value&& value) {
    if (++count_ > limits_.max_values) {
      Fail(Reason::kLimitExceeded, StrCat("more than ", limits_.max_values, " JSON values"));
      return nullptr;
    }
    if (stack_.empty()) {
      root_ = std::forward<Value>(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::forward<Value>(value));
      return &parent.back();
    }
    Json& member = parent[key_];
    member = std::forward<Value>(value);
    return &member;
  }

  bool Push(Json&& container) {
    if (stack_.size() >= limits_.max_depth) {
      return Fail(Reason::kLimitExceeded, StrCat("JSON nested deeper than ", limits_.max_depth));
    }
    // A pointer into an array stays valid: only the innermost container grows.
    Json* added = Add(std::move(container));
    if (added == nullptr) return false;
    stack_.push_back(added);
    return true;
  }

  bool Pop() {
    stack_.pop_back();
    return true;
  }

  std::string item_;
  const JsonLimits& limits_;
  Json root_;
  std::vector<Json*> stack_;
  std::string key_;
  uint64_t count_ = 0;
  absl::Status error_;
};

}  // namespace pavise::internal

#endif  // PAVISE_BASE_INTERNAL_STRICT_JSON_BUILDER_H_
