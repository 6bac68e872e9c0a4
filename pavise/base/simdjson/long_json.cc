#include "pavise/base/simdjson/long_json.h"

#include <simdjson.h>

#include <algorithm>
#include <optional>
#include <string>

#include "pavise/base/internal/strict_json_builder.h"

namespace pavise {
namespace {

namespace dom = simdjson::dom;

constexpr size_t kMostBytes = size_t{4} << 20;

// False where the builder refuses, and where the value's spelling would matter. `minus_zero`:
// whether "-0" is somewhere in the text; simdjson reads it as 0, which it is not here.
bool Build(dom::element value, bool minus_zero, internal::StrictJsonBuilder& builder) {
  switch (value.type()) {
    case dom::element_type::OBJECT: {
      if (!builder.start_object(0)) return false;
      for (const dom::key_value_pair member : dom::object(value.get_object().value_unsafe())) {
        std::string key(member.key);
        if (!builder.key(key) || !Build(member.value, minus_zero, builder)) return false;
      }
      return builder.end_object();
    }
    case dom::element_type::ARRAY: {
      if (!builder.start_array(0)) return false;
      for (const dom::element element : dom::array(value.get_array().value_unsafe())) {
        if (!Build(element, minus_zero, builder)) return false;
      }
      return builder.end_array();
    }
    case dom::element_type::INT64: {
      const int64_t number = value.get_int64().value_unsafe();
      if (number == 0 && minus_zero) return false;
      return number < 0 ? builder.number_integer(number)
                        : builder.number_unsigned(static_cast<uint64_t>(number));
    }
    case dom::element_type::UINT64:
      return builder.number_unsigned(value.get_uint64().value_unsafe());
    case dom::element_type::DOUBLE:
      return builder.number_float(value.get_double().value_unsafe(), "");
    case dom::element_type::STRING: {
      std::string text(value.get_string().value_unsafe());
      return builder.string(text);
    }
    case dom::element_type::BOOL:
      return builder.boolean(value.get_bool().value_unsafe());
    case dom::element_type::NULL_VALUE:
      return builder.null();
  }
  return false;
}

// nullopt: ParseJson decides.
std::optional<Json> ReadBySimdjson(std::string_view text, std::string_view item,
                                   const JsonLimits& limits) {
  if (!text.starts_with('{') || text.size() > std::min<uint64_t>(limits.max_bytes, kMostBytes) ||
      text.find('\\') != text.npos) {
    return std::nullopt;
  }
  dom::parser parser;
  dom::element root;
  if (parser.allocate(text.size(), limits.max_depth) != simdjson::SUCCESS ||
      parser.parse(text.data(), text.size()).get(root) != simdjson::SUCCESS) {
    return std::nullopt;
  }
  internal::StrictJsonBuilder builder(item, limits);
  if (!Build(root, text.find("-0") != text.npos, builder)) return std::nullopt;
  return builder.TakeValue();
}

}  // namespace

absl::StatusOr<Json> ParseLongJson(ByteSpan text, std::string_view item, const JsonLimits& limits) {
  if (std::optional<Json> value = ReadBySimdjson(AsText(text), item, limits)) {
    return *std::move(value);
  }
  return ParseJson(text, item, limits);
}

}  // namespace pavise
