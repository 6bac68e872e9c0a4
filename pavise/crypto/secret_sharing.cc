#include "pavise/crypto/secret_sharing.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "pavise/base/byte_reader.h"
#include "pavise/base/bytes.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"

namespace pavise::crypto {
namespace {

constexpr std::string_view kPrefix = "pavise-share-1:";
constexpr size_t kBlindBytes = 32;
constexpr size_t kMaxShareBytes =
    2 + 255 * sizeof(Digest32) + 1 + kMaxSharedSecretBytes + kBlindBytes;

// The product in GF(2)[x] / (x^8 + x^4 + x^3 + x + 1), without tables and branches.
uint8_t Multiply(uint8_t a, uint8_t b) {
  unsigned product = 0;
  unsigned shifted = a;
  for (int bit = 0; bit < 8; ++bit) {
    product ^= shifted & (0u - (b >> bit & 1u));
    shifted = (shifted << 1) ^ (0x11bu & (0u - (shifted >> 7)));
  }
  return static_cast<uint8_t>(product);
}

// a^254: the inverse of all but 0.
uint8_t Invert(uint8_t a) {
  uint8_t result = 1;
  for (int i = 0; i < 254; ++i) result = Multiply(result, a);
  return result;
}

// Secret buffers that are wiped wherever a function returns.
struct WipedBytes {
  explicit WipedBytes(size_t size_bytes) : bytes(size_bytes) {}
  ~WipedBytes() { WipeMemory(bytes); }
  WipedBytes(const WipedBytes&) = delete;
  WipedBytes& operator=(const WipedBytes&) = delete;
  Bytes bytes;
};

absl::StatusOr<Digest32> DigestOfShare(uint8_t index, ByteSpan value) {
  WipedBytes text(1 + value.size());
  text.bytes[0] = index;
  std::ranges::copy(value, text.bytes.begin() + 1);
  return Sha256(text.bytes);
}

struct ParsedShare {
  uint8_t threshold = 0, count = 0, index = 0;
  std::string set_id;
  SecretBytes value;
};

absl::StatusOr<ParsedShare> Parse(const SecretBytes& share, std::string_view item) {
  std::string_view text = share.RevealText();
  while (text.ends_with('\n')) text.remove_suffix(1);
  if (!text.starts_with(kPrefix) || text.size() > kPrefix.size() + (4 * kMaxShareBytes + 2) / 3) {
    return Refuse(Reason::kMalformed, item, "not a share of a secret",
                  StrCat("give the line that begins with \"", kPrefix, "\""));
  }
  PAVISE_ASSIGN_OR_RETURN(Bytes decoded, FromBase64Url(text.substr(kPrefix.size()), item));
  const SecretBytes bytes(std::move(decoded));
  ByteReader reader(bytes.Reveal(), item);
  ParsedShare parsed;
  PAVISE_ASSIGN_OR_RETURN(parsed.threshold, reader.Uint8("threshold"));
  PAVISE_ASSIGN_OR_RETURN(parsed.count, reader.Uint8("count"));
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan digests,
                          reader.Take(parsed.count * sizeof(Digest32), "digests"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 set_id, Sha256(bytes.Reveal().first(2 + digests.size())));
  PAVISE_ASSIGN_OR_RETURN(parsed.index, reader.Uint8("index"));
  if (parsed.threshold == 0 || parsed.threshold > parsed.count || parsed.index == 0 ||
      parsed.index > parsed.count || reader.left() <= kBlindBytes ||
      reader.left() > kBlindBytes + kMaxSharedSecretBytes) {
    return Refuse(Reason::kMalformed, item, "no share has such numbers");
  }
  PAVISE_ASSIGN_OR_RETURN(const ByteSpan value, reader.Take(reader.left(), "value"));
  PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, DigestOfShare(parsed.index, value));
  if (!std::ranges::equal(
          digest, digests.subspan((parsed.index - 1) * sizeof(Digest32), sizeof(Digest32)))) {
    return Refuse(Reason::kContentMismatch, item, "the share is damaged",
                  "take another copy of this share, or another share");
  }
  parsed.set_id = ToHex(set_id);
  parsed.value = SecretBytes(value);
  return parsed;
}

}  // namespace

absl::StatusOr<SecretShares> SplitSecret(const SecretBytes& secret, int threshold, int count,
                                         RandomSource& random) {
  if (threshold < 1 || threshold > count || count > 255) {
    return UsageError(StrCat("a secret cannot be shared as ", threshold, " of ", count));
  }
  if (secret.empty() || secret.size_bytes() > kMaxSharedSecretBytes) {
    return UsageError(StrCat("a secret of ", secret.size_bytes(), " bytes cannot be shared"));
  }
  // coefficients[d] holds that of x^d for each byte; of x^0 they are the secret and the blind.
  const size_t size_bytes = secret.size_bytes() + kBlindBytes;
  const auto degrees = static_cast<size_t>(threshold);
  WipedBytes coefficients(degrees * size_bytes);
  PAVISE_RETURN_IF_ERROR(random.Fill(coefficients.bytes));
  std::ranges::copy(secret.Reveal(), coefficients.bytes.begin());

  const auto shares = static_cast<size_t>(count);
  WipedBytes values(shares * size_bytes);
  Bytes head = {static_cast<uint8_t>(threshold), static_cast<uint8_t>(count)};
  const auto value_of = [&](size_t share) {
    return std::span(values.bytes).subspan(share * size_bytes, size_bytes);
  };
  for (size_t share = 0; share < shares; ++share) {
    const auto x = static_cast<uint8_t>(share + 1);
    const std::span<uint8_t> value = value_of(share);
    for (size_t i = 0; i < size_bytes; ++i) {
      uint8_t y = 0;  // Horner's rule
      for (size_t degree = degrees; degree-- > 0;) {
        y = Multiply(y, x) ^ coefficients.bytes[degree * size_bytes + i];
      }
      value[i] = y;
    }
    PAVISE_ASSIGN_OR_RETURN(const Digest32 digest, DigestOfShare(x, value));
    head.insert(head.end(), digest.begin(), digest.end());
  }
  SecretShares result;
  PAVISE_ASSIGN_OR_RETURN(const Digest32 set_id, Sha256(head));
  result.set_id = ToHex(set_id);
  for (size_t share = 0; share < shares; ++share) {
    WipedBytes line(head.size() + 1 + size_bytes);
    auto end = std::ranges::copy(head, line.bytes.begin()).out;
    *end++ = static_cast<uint8_t>(share + 1);
    std::ranges::copy(value_of(share), end);
    std::string encoded = ToBase64Url(line.bytes);
    std::string text = StrCat(kPrefix, encoded);
    result.shares.emplace_back(std::string_view(text));
    WipeMemory(encoded);
    WipeMemory(text);
  }
  return result;
}

absl::StatusOr<ShareDescription> DescribeShare(const SecretBytes& share, std::string_view item) {
  PAVISE_ASSIGN_OR_RETURN(const ParsedShare parsed, Parse(share, item));
  return ShareDescription{.set_id = parsed.set_id,
                          .threshold = parsed.threshold,
                          .count = parsed.count,
                          .index = parsed.index};
}

absl::StatusOr<SecretBytes> CombineShares(std::span<const SecretBytes> shares,
                                          std::string_view set_id) {
  std::vector<ParsedShare> parsed;
  std::vector<Refusal> findings;
  std::string expected(set_id);
  for (size_t i = 0; i < shares.size(); ++i) {
    const std::string item = StrCat("share ", i + 1);
    absl::StatusOr<ParsedShare> share = Parse(shares[i], item);
    if (!share.ok()) {
      const std::vector<Refusal> refusals = RefusalsOf(share.status());
      if (refusals.empty()) return share.status();
      findings.insert(findings.end(), refusals.begin(), refusals.end());
      continue;
    }
    if (expected.empty()) expected = share->set_id;
    if (share->set_id != expected) {
      findings.push_back({Reason::kBindingMismatch, item,
                          StrCat("of another set (", share->set_id, ", not ", expected, ")"),
                          "give shares of one and the same set"});
    } else if (std::ranges::find(parsed, share->index, &ParsedShare::index) != parsed.end()) {
      findings.push_back({Reason::kBindingMismatch, item,
                          StrCat("number ", share->index, " of its set is given twice"),
                          "give different shares"});
    } else {
      parsed.push_back(*std::move(share));
    }
  }
  if (!findings.empty()) return Refuse(std::move(findings));
  if (parsed.empty() || parsed.size() < parsed[0].threshold) {
    return Refuse(Reason::kEvidenceMissing, "shares",
                  parsed.empty() ? std::string("none given")
                                 : StrCat(parsed.size(), " of the ", parsed[0].threshold,
                                          " that the secret takes"),
                  "add shares of other holders");
  }
  parsed.resize(parsed[0].threshold);
  // Lagrange's interpolation at 0.
  const size_t size_bytes = parsed[0].value.size_bytes();
  WipedBytes whole(size_bytes);
  for (const ParsedShare& share : parsed) {
    if (share.value.size_bytes() != size_bytes) {
      return Refuse(Reason::kMalformed, "shares", "of different lengths");
    }
    uint8_t weight = 1;
    for (const ParsedShare& other : parsed) {
      if (other.index == share.index) continue;
      weight = Multiply(weight, Multiply(other.index, Invert(other.index ^ share.index)));
    }
    const ByteSpan value = share.value.Reveal();
    for (size_t i = 0; i < size_bytes; ++i) whole.bytes[i] ^= Multiply(weight, value[i]);
  }
  return SecretBytes(ByteSpan(whole.bytes).first(size_bytes - kBlindBytes));
}

}  // namespace pavise::crypto
