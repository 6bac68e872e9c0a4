#include "pavise/hash/tag.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/hash/cpu/range_tagger.h"

#include "absl/strings/str_cat.h"

namespace pavise::hash {
namespace {

constexpr std::string_view kRowsContext = "Pavise 2026 tag rows v1";
constexpr std::string_view kKeyContext = "Pavise 2026 tag key v1";

SecretBytes Derived(std::string_view context, ByteSpan key_material, size_t size_bytes) {
  Blake3Hasher hasher = Blake3Hasher::DeriveKey(context);
  hasher.Update(key_material);
  Bytes out(size_bytes);
  hasher.FinishExtended(out);
  return SecretBytes(std::move(out));
}

}  // namespace

TagKey::TagKey(SecretBytes rows, SecretBytes blake3_key, uint64_t total_size_bytes)
    : rows_(std::move(rows)),
      blake3_key_(std::move(blake3_key)),
      total_size_bytes_(total_size_bytes) {}

TagKey TagKey::Derive(std::span<const uint8_t, 32> secret, uint64_t pass_number,
                      uint64_t total_size_bytes) {
  Bytes material;
  material.reserve(secret.size() + 2 * sizeof(uint64_t));  // one buffer, which is wiped
  material.assign(secret.begin(), secret.end());
  AppendLittleEndian64(pass_number, material);
  AppendLittleEndian64(total_size_bytes, material);
  const SecretBytes key_material(std::move(material));
  return TagKey(Derived(kRowsContext, key_material.Reveal(), kTagRows * kTagBlockBytes),
                Derived(kKeyContext, key_material.Reveal(), 32), total_size_bytes);
}

std::span<const int8_t> TagKey::rows() const {
  const ByteSpan bytes = rows_.Reveal();
  return {reinterpret_cast<const int8_t*>(bytes.data()), bytes.size()};
}

std::span<const uint8_t, 32> TagKey::blake3_key() const { return blake3_key_.Reveal().first<32>(); }

uint64_t TagRangeCount(uint64_t total_size_bytes) {
  return total_size_bytes / kTagRangeBytes + (total_size_bytes % kTagRangeBytes != 0 ? 1 : 0);
}

absl::StatusOr<uint64_t> TagRangesCovered(uint64_t total_size_bytes, uint64_t size_bytes,
                                          uint64_t first_range) {
  const uint64_t count = TagRangeCount(total_size_bytes);
  if (first_range > count || (first_range == count && size_bytes > 0)) {
    return UsageError(absl::StrCat("tag: range ", first_range, " of an object that has ", count));
  }
  if (size_bytes == 0) return 0;
  const uint64_t left = total_size_bytes - first_range * kTagRangeBytes;
  if (size_bytes > left || (size_bytes < left && size_bytes % kTagRangeBytes != 0)) {
    return UsageError(absl::StrCat("tag: ", size_bytes, " bytes from range ", first_range,
                                   " on are no whole ranges of an object of ", total_size_bytes,
                                   " bytes"));
  }
  return TagRangeCount(size_bytes);
}

absl::StatusOr<uint64_t> CheckTagCall(std::span<const TagKey* const> keys, uint64_t size_bytes,
                                      uint64_t first_range, size_t out_count) {
  if (keys.empty() || keys.size() > kMaxTagKeys) {
    return UsageError(
        absl::StrCat("tag: ", keys.size(), " keys in one call, not 1 to ", kMaxTagKeys));
  }
  for (const TagKey* key : keys) {
    if (key == nullptr) return UsageError("tag: a key is missing");
    // A key that was moved from has no rows left.
    if (key->rows().size() != kTagRows * kTagBlockBytes) return UsageError("tag: a key is empty");
    if (key->total_size_bytes() != keys[0]->total_size_bytes()) {
      return UsageError("tag: the keys are those of objects of different lengths");
    }
  }
  PAVISE_ASSIGN_OR_RETURN(const uint64_t ranges,
                          TagRangesCovered(keys[0]->total_size_bytes(), size_bytes, first_range));
  if (out_count % keys.size() != 0 || out_count / keys.size() != ranges) {
    return UsageError(absl::StrCat("tag: room for ", out_count, " tags of ", ranges,
                                   " ranges under ", keys.size(), " keys"));
  }
  return ranges;
}

absl::StatusOr<std::vector<RangeTag>> TagRanges(const TagKey& key, ByteSpan bytes,
                                                uint64_t first_range) {
  PAVISE_ASSIGN_OR_RETURN(const uint64_t ranges,
                          TagRangesCovered(key.total_size_bytes(), bytes.size(), first_range));
  try {
    std::vector<RangeTag> tags(static_cast<size_t>(ranges));
    const TagKey* const keys[] = {&key};
    const internal::RangeTagger tagger(keys);
    for (size_t i = 0; i < tags.size(); ++i) {
      const size_t begin = i * kTagRangeBytes;
      const ByteSpan range = bytes.subspan(begin, std::min(kTagRangeBytes, bytes.size() - begin));
      tags[i] = tagger.Tag(range, first_range + i)[0];
    }
    return tags;
  } catch (const std::exception& error) {
    return MachineFailure("cpu", error.what());
  }
}

}  // namespace pavise::hash
