#include "pavise/base/json.h"

#include <algorithm>
#include <cmath>

#include "pavise/base/internal/strict_json_builder.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

namespace pavise {
absl::StatusOr<Json> ParseJson(ByteSpan text, std::string_view item, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return Refuse(Reason::kLimitExceeded, item,
                  StrCat("JSON of ", HumanBytes(text.size()), ", the limit is ",
                         HumanBytes(limits.max_bytes)));
  }
  // The library skips a byte order mark and takes a NUL for the end of the text.
  if (text.size() >= 3 && text[0] == 0xef && text[1] == 0xbb && text[2] == 0xbf) {
    return Refuse(Reason::kMalformed, item, "starts with a byte order mark");
  }
  if (std::find(text.begin(), text.end(), uint8_t{0}) != text.end()) {
    return Refuse(Reason::kMalformed, item, "holds a NUL byte");
  }
  internal::StrictJsonBuilder builder(item, limits);
  const bool parsed = Json::sax_parse(text.begin(), text.end(), &builder,
                                      Json::input_format_t::json, /*strict=*/true);
  if (absl::Status error = builder.TakeError(); !error.ok()) return error;
  if (!parsed) return Refuse(Reason::kMalformed, item, "not JSON");
  return builder.TakeValue();
}

absl::StatusOr<JsonObject> JsonObject::From(const Json& value, std::string_view path) {
  if (!value.is_object()) return Refuse(Reason::kMalformed, path, "not a JSON object");
  return JsonObject(&value, path);
}

std::string JsonObject::PathOf(std::string_view key) const { return StrCat(path_, ".", key); }

const Json* JsonObject::Find(std::string_view key) const {
  const auto it = value_->find(std::string(key));
  return it == value_->end() ? nullptr : &*it;
}

bool JsonObject::Has(std::string_view key) const { return Find(key) != nullptr; }

absl::StatusOr<const Json*> JsonObject::Get(std::string_view key) const {
  const Json* member = Find(key);
  if (member == nullptr) return Refuse(Reason::kMalformed, PathOf(key), "is missing");
  return member;
}

absl::StatusOr<JsonObject> JsonObject::GetObject(std::string_view key) const {
  PAVISE_ASSIGN_OR_RETURN(const Json* member, Get(key));
  return From(*member, PathOf(key));
}

absl::StatusOr<const Json*> JsonObject::GetArray(std::string_view key) const {
  PAVISE_ASSIGN_OR_RETURN(const Json* member, Get(key));
  if (!member->is_array()) return Refuse(Reason::kMalformed, PathOf(key), "not a JSON array");
  return member;
}

absl::StatusOr<std::string> JsonObject::GetString(std::string_view key) const {
  PAVISE_ASSIGN_OR_RETURN(const Json* member, Get(key));
  if (!member->is_string()) return Refuse(Reason::kMalformed, PathOf(key), "not a string");
  return member->get<std::string>();
}

absl::StatusOr<bool> JsonObject::GetBool(std::string_view key) const {
  PAVISE_ASSIGN_OR_RETURN(const Json* member, Get(key));
  if (!member->is_boolean()) return Refuse(Reason::kMalformed, PathOf(key), "not true or false");
  return member->get<bool>();
}

absl::StatusOr<uint64_t> JsonObject::GetUint(std::string_view key, bool accept_float) const {
  PAVISE_ASSIGN_OR_RETURN(const Json* member, Get(key));
  if (member->is_number_unsigned()) return member->get<uint64_t>();
  if (accept_float && member->is_number_float()) {
    const double value = member->get<double>();
    constexpr double kLargestExact = 9007199254740992.0;  // 2^53
    if (value >= 0 && value <= kLargestExact && value == std::floor(value)) {
      return static_cast<uint64_t>(value);
    }
  }
  return Refuse(Reason::kMalformed, PathOf(key), "not a non-negative integer");
}

absl::Status JsonObject::RequireOnly(std::initializer_list<std::string_view> known) const {
  for (const auto& member : value_->items()) {
    if (std::find(known.begin(), known.end(), member.key()) == known.end()) {
      return Refuse(Reason::kMalformed,
                    PathOf(Printable(std::string_view(member.key()).substr(0, 200))),
                    "unknown member");
    }
  }
  return absl::OkStatus();
}

std::string DumpJson(const OrderedJson& value, int indent) {
  return value.dump(indent, ' ', false, OrderedJson::error_handler_t::replace);
}

}  // namespace pavise
