#include "pavise/hash/tag_chain.h"

#include <utility>

#include "pavise/base/status.h"

namespace pavise::hash {
namespace {

constexpr size_t kSecretBytes = 32;

}  // namespace

absl::StatusOr<std::unique_ptr<TagChain>> TagChain::Create(uint64_t size_bytes,
                                                           RandomSource& random) {
  Bytes bytes(kSecretBytes);
  const absl::Status filled = random.Fill(bytes);
  SecretBytes secret(std::move(bytes));
  PAVISE_RETURN_IF_ERROR(filled);
  return std::unique_ptr<TagChain>(new TagChain(size_bytes, std::move(secret)));
}

TagChain::TagChain(uint64_t size_bytes, SecretBytes secret)
    : size_bytes_(size_bytes), secret_(std::move(secret)), condemned_(TagRangeCount(size_bytes)) {}

TagKey TagChain::KeyOf(uint64_t pass) const {
  return TagKey::Derive(secret_.Reveal().first<kSecretBytes>(), pass, size_bytes_);
}

TagKey TagChain::IssueKey() { return KeyOf(keys_issued_++); }

TagKey TagChain::CommittedKey() const { return KeyOf(committed_pass_); }

absl::Status TagChain::Commit(std::vector<RangeTag> tags) {
  if (tags.size() != ranges()) return UsageError("tag chain: not one tag a range");
  if (keys_issued_ == 0 || (has_tags_ && committed_pass_ == keys_issued_ - 1)) {
    return UsageError("tag chain: tags without a key of their own");
  }
  tags_ = std::move(tags);
  committed_pass_ = keys_issued_ - 1;
  has_tags_ = true;
  return absl::OkStatus();
}

bool TagChain::Matches(uint64_t range, const RangeTag& tag) const {
  if (range >= tags_.size() || condemned_[range]) return false;
  return ConstantTimeEquals(tags_[range], tag);
}

void TagChain::Condemn(uint64_t range) {
  if (range < condemned_.size()) condemned_[range] = true;
}

}  // namespace pavise::hash
