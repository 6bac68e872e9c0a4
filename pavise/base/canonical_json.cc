#include "pavise/base/canonical_json.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"

#include "absl/strings/str_format.h"

namespace pavise {
namespace {

constexpr int kMaxDepth = 64;
constexpr int64_t kMaxExact = (int64_t{1} << 53) - 1;

// Orders UTF-8 as UTF-16 orders it: by bytes, but for characters above U+FFFF, whose surrogates
// (d800 to dfff) come before U+E000 to U+FFFF. Those begin with ee or ef in UTF-8, the former with
// f0 to f4.
bool PrecedesInUtf16(std::string_view a, std::string_view b) {
  const auto [i, j] = std::mismatch(a.begin(), a.end(), b.begin(), b.end());
  if (i == a.end() || j == b.end()) return i == a.end() && j != b.end();
  const auto rank = [](char c) {
    const auto byte = static_cast<uint8_t>(c);
    return byte == 0xee || byte == 0xef ? byte + 0x10 : byte;
  };
  return rank(*i) < rank(*j);
}

class Writer {
 public:
  explicit Writer(std::string_view item) : item_(item) {}

  absl::Status Write(const Json& value, int depth) {
    if (depth > kMaxDepth) {
      return Refuse(Reason::kLimitExceeded, item_, StrCat("JSON nested deeper than ", kMaxDepth));
    }
    switch (value.type()) {
      case Json::value_t::null:
        out_ += "null";
        return absl::OkStatus();
      case Json::value_t::boolean:
        out_ += value.get<bool>() ? "true" : "false";
        return absl::OkStatus();
      case Json::value_t::number_integer:
      case Json::value_t::number_unsigned:
        return WriteNumber(value);
      case Json::value_t::string:
        return WriteString(value.get_ref<const std::string&>());
      case Json::value_t::array:
        return WriteArray(value, depth);
      case Json::value_t::object:
        return WriteObject(value, depth);
      default:
        return Refuse(Reason::kUnsupported, item_, "a number that is no integer");
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  absl::Status WriteNumber(const Json& value) {
    const bool fits = value.is_number_unsigned()
                          ? value.get<uint64_t>() <= static_cast<uint64_t>(kMaxExact)
                          : value.get<int64_t>() >= -kMaxExact && value.get<int64_t>() <= kMaxExact;
    if (!fits) {
      return Refuse(Reason::kUnsupported, item_,
                    StrCat("the integer ", value.dump(), " is not exact"));
    }
    StrAppend(&out_, value.get<int64_t>());
    return absl::OkStatus();
  }

  absl::Status WriteString(const std::string& text) {
    if (!IsUtf8(text)) return Refuse(Reason::kMalformed, item_, "a string that is not UTF-8");
    out_ += '"';
    for (const char c : text) {
      constexpr std::string_view kShort = "\b\t\n\f\r\"\\";
      constexpr std::string_view kLetters = "btnfr\"\\";
      if (const size_t at = kShort.find(c); at != kShort.npos) {
        out_ += '\\';
        out_ += kLetters[at];
      } else if (static_cast<uint8_t>(c) < 0x20) {
        absl::StrAppendFormat(&out_, "\\u%04x", static_cast<unsigned>(c));
      } else {
        out_ += c;
      }
    }
    out_ += '"';
    return absl::OkStatus();
  }

  absl::Status WriteArray(const Json& value, int depth) {
    out_ += '[';
    bool first = true;
    for (const Json& element : value) {
      if (!std::exchange(first, false)) out_ += ',';
      PAVISE_RETURN_IF_ERROR(Write(element, depth + 1));
    }
    out_ += ']';
    return absl::OkStatus();
  }

  absl::Status WriteObject(const Json& value, int depth) {
    std::vector<std::pair<std::string_view, const Json*>> members;
    for (const auto& member : value.items()) members.emplace_back(member.key(), &member.value());
    std::sort(members.begin(), members.end(),
              [](const auto& a, const auto& b) { return PrecedesInUtf16(a.first, b.first); });
    out_ += '{';
    bool first = true;
    for (const auto& [name, member] : members) {
      if (!std::exchange(first, false)) out_ += ',';
      PAVISE_RETURN_IF_ERROR(WriteString(std::string(name)));
      out_ += ':';
      PAVISE_RETURN_IF_ERROR(Write(*member, depth + 1));
    }
    out_ += '}';
    return absl::OkStatus();
  }

  std::string item_;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> CanonicalJson(const Json& value, std::string_view item) {
  Writer writer(item);
  PAVISE_RETURN_IF_ERROR(writer.Write(value, 0));
  return writer.Take();
}

}  // namespace pavise
