#include "pavise/vault/sealed_asset.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <string>

#include "pavise/base/progress.h"
#include "pavise/base/random.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/vault/seal.h"
#include "pavise/vault/segment_cipher.h"

namespace pavise::vault {
namespace {

using crypto::KeyType;
using crypto::PrivateKey;
using crypto::testing::ReadText;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Bytes that repeat every 251, so that swapped pieces show.
std::string Content(size_t size_bytes, uint8_t first = 0) {
  std::string content(size_bytes, '\0');
  for (size_t i = 0; i < size_bytes; ++i) content[i] = static_cast<char>((i + first) % 251);
  return content;
}

class SealedAssetTest : public ::testing::Test {
 protected:
  using Files = std::map<std::string, std::string>;

  // Options that seal these files, written below "in".
  SealOptions OptionsFor(const Files& files, const std::string& folder = "in") {
    SealOptions options;
    for (const auto& [path, content] : files) {
      const std::string full = directory_.Write(folder + "/" + path, content);
      const FileIdentity identity = IdentityOf(OpenRegularFile(full).value(), full).value();
      options.files.push_back({.path = path, .identity = identity});
    }
    options.open = [this, folder](const std::string& path) {
      return OpenRegularFile(directory_ / (folder + "/" + path));
    };
    options.recipients = {key_.public_key()};
    options.threads = 2;
    return options;
  }
  SealReport SealFiles(const Files& files, const std::string& name = "a.sealed") {
    auto report = Seal(OptionsFor(files), directory_ / name);
    EXPECT_TRUE(report.ok()) << report.status();
    return *std::move(report);
  }
  absl::StatusOr<UnlockedAsset> Unlock(const std::string& name = "a.sealed") {
    PAVISE_ASSIGN_OR_RETURN(const SealedAsset asset, SealedAsset::Open(directory_ / name));
    PAVISE_ASSIGN_OR_RETURN(const SecretBytes key, asset.ContentKey(key_));
    return asset.Unlock(key);
  }
  // All of it, to "out"; refused or the files.
  absl::Status Unseal(const std::string& name = "a.sealed") {
    std::filesystem::remove_all(directory_ / "out");
    PAVISE_ASSIGN_OR_RETURN(const UnlockedAsset asset, Unlock(name));
    return asset.Unseal({.directory = directory_ / "out", .threads = 2});
  }
  void ExpectOut(const Files& files) {
    Files found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory_ / "out")) {
      if (!entry.is_regular_file()) continue;
      found[std::filesystem::relative(entry.path(), directory_ / "out")] =
          ReadText(entry.path().string());
    }
    EXPECT_EQ(found, files);
  }
  // Neither the directory nor what it was prepared in.
  void ExpectNothingOut() {
    for (const auto& entry : std::filesystem::directory_iterator(directory_.path())) {
      EXPECT_THAT(entry.path().filename().string(), Not(StartsWith("out")));
    }
  }
  std::string Sealed(const std::string& name = "a.sealed") { return ReadText(directory_ / name); }
  static size_t SegmentsAt(const std::string& sealed) {
    const Prefix prefix = ParsePrefix(AsBytes(sealed).first(kPrefixBytes), "x").value();
    return kPrefixBytes + prefix.header_bytes + prefix.recipients_bytes;
  }

  const pavise::testing::TemporaryDirectory directory_;
  const PrivateKey key_ = PrivateKey::Generate(KeyType::kEcP256).value();
};

TEST_F(SealedAssetTest, WhatIsSealedIsUnsealedAtEveryEdge) {
  int executed = 0;
  for (const size_t size_bytes :
       {size_t{0}, size_t{1}, kSegmentBytes - 50, kSegmentBytes - 1, kSegmentBytes,
        kSegmentBytes + 1, 2 * kSegmentBytes, 3 * kSegmentBytes + 17}) {
    const Files files = {{"a", "small"}, {"b/c/d", Content(size_bytes)}, {"b/e", ""}, {"z", "end"}};
    const SealReport report = SealFiles(files);
    EXPECT_EQ(Sealed().size(), report.sealed_bytes);
    ASSERT_TRUE(Unseal().ok()) << Unseal();
    ExpectOut(files);
    // The content key itself opens it too.
    const SealedAsset asset = SealedAsset::Open(directory_ / "a.sealed").value();
    EXPECT_EQ(asset.asset_id(), report.asset_id);
    EXPECT_TRUE(asset.Unlock(report.content_key).ok());
    ++executed;
  }
  EXPECT_EQ(executed, 8);
}

// The file's end falls on every place around a segment's.
TEST_F(SealedAssetTest, ThePayloadMayEndWithItsSegment) {
  const uint64_t index_bytes = 8 + 16 + 11 + 1;
  for (const uint64_t payload_bytes : {kSegmentBytes - 1, kSegmentBytes, kSegmentBytes + 1}) {
    const Files files = {{"a", Content(payload_bytes - index_bytes)}};
    EXPECT_EQ(SealFiles(files).payload_bytes, payload_bytes);
    ASSERT_TRUE(Unseal().ok());
    ExpectOut(files);
  }
}

TEST_F(SealedAssetTest, RangesAreReadAlone) {
  const std::string content = Content(3 * kSegmentBytes);
  SealFiles({{"a", "first"}, {"b", content}});
  const UnlockedAsset asset = Unlock().value();
  int executed = 0;
  for (const uint64_t offset : {uint64_t{0}, uint64_t{7}, kSegmentBytes - 60, kSegmentBytes,
                                2 * kSegmentBytes + 1, 3 * kSegmentBytes}) {
    for (const uint64_t size_bytes : {uint64_t{0}, uint64_t{1}, uint64_t{100}, kSegmentBytes}) {
      Bytes out(std::min(size_bytes, 3 * kSegmentBytes - offset));
      ASSERT_TRUE(asset.ReadRange("b", offset, out).ok());
      EXPECT_EQ(AsText(out), std::string_view(content).substr(offset, out.size()));
      ++executed;
    }
  }
  EXPECT_EQ(executed, 24);
  Bytes out(2, 0xee);
  EXPECT_EQ(ReasonOf(asset.ReadRange("c", 0, out)), Reason::kFileMissing);
  EXPECT_EQ(ReasonOf(asset.ReadRange("b", 3 * kSegmentBytes - 1, out)), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(asset.ReadRange("b", ~uint64_t{0}, out)), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(asset.ReadRange("a", 4, out)), Reason::kLimitExceeded);
  EXPECT_EQ(out, Bytes(2));

  // A change elsewhere is not in the way of a range; in it, it is.
  std::string sealed = Sealed();
  sealed[SegmentsAt(sealed) + 2 * (kSegmentBytes + kTagBytes) + 5] ^= 1;
  directory_.Write("a.sealed", sealed);
  const UnlockedAsset changed = Unlock().value();
  Bytes piece(1000, 0xee);
  EXPECT_TRUE(changed.ReadRange("b", 0, piece).ok());
  const absl::Status status = changed.ReadRange("b", 2 * kSegmentBytes, piece);
  EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch);
  EXPECT_THAT(RefusalsOf(status).at(0).item, HasSubstr("segment 2"));
  EXPECT_EQ(piece, Bytes(1000));
}

TEST_F(SealedAssetTest, EveryFlippedByteIsRefused) {
  SealFiles({{"a", "some content"}, {"b/c", "more"}});
  const std::string sealed = Sealed();
  size_t refused = 0;
  for (size_t i = 0; i < sealed.size(); ++i) {
    std::string other = sealed;
    other[i] ^= 1;
    directory_.Write("a.sealed", other);
    const absl::Status status = Unseal();
    EXPECT_TRUE(ReasonOf(status).has_value()) << i << status;
    refused += ReasonOf(status).has_value() ? 1 : 0;
  }
  EXPECT_EQ(refused, sealed.size());
  ExpectNothingOut();
}

TEST_F(SealedAssetTest, EveryShorterFileIsRefused) {
  SealFiles({{"a", "some content"}});
  const std::string sealed = Sealed();
  for (size_t size_bytes = 0; size_bytes < sealed.size(); ++size_bytes) {
    directory_.Write("a.sealed", sealed.substr(0, size_bytes));
    const absl::Status status = SealedAsset::Open(directory_ / "a.sealed").status();
    EXPECT_TRUE(ReasonOf(status).has_value()) << size_bytes << status;
  }
  directory_.Write("a.sealed", sealed + "x");
  EXPECT_EQ(ReasonOf(Unseal()), Reason::kContentMismatch);
  directory_.Write("a.sealed", sealed);
  EXPECT_TRUE(Unseal().ok());
}

// A header is changed along with the length of what follows it.
TEST_F(SealedAssetTest, SegmentsCannotBeDroppedAddedOrMoved) {
  SealFiles({{"a", Content(3 * kSegmentBytes - 36)}});
  const std::string sealed = Sealed();
  const size_t at = SegmentsAt(sealed);
  const size_t step = kSegmentBytes + kTagBytes;
  ASSERT_EQ(sealed.size(), at + 3 * step);
  const auto segment = [&](size_t i) { return sealed.substr(at + i * step, step); };
  const std::string head = sealed.substr(0, at);
  for (const auto& [name, body] :
       {std::pair("swapped", segment(1) + segment(0) + segment(2)),
        std::pair("last two swapped", segment(0) + segment(2) + segment(1)),
        std::pair("repeated", segment(0) + segment(1) + segment(1)),
        std::pair("first again", segment(0) + segment(0) + segment(2))}) {
    directory_.Write("a.sealed", head + body);
    EXPECT_EQ(ReasonOf(Unseal()), Reason::kContentMismatch) << name;
    ExpectNothingOut();
  }
  for (const auto& [name, body] : {std::pair("dropped", segment(0) + segment(1)),
                                   std::pair("added", sealed.substr(at) + segment(2))}) {
    directory_.Write("a.sealed", head + body);
    EXPECT_EQ(ReasonOf(Unseal()), Reason::kContentMismatch) << name;
  }
}

TEST_F(SealedAssetTest, TwoAssetsDoNotMix) {
  const Files files = {{"a", Content(2 * kSegmentBytes)}};
  SealFiles(files, "a.sealed");
  SealFiles(files, "b.sealed");
  const std::string first = Sealed("a.sealed"), second = Sealed("b.sealed");
  ASSERT_EQ(first.size(), second.size());
  const size_t at = SegmentsAt(first);
  ASSERT_EQ(at, SegmentsAt(second));
  // A segment of the other, at its own place.
  std::string mixed = first;
  mixed.replace(at + kSegmentBytes + kTagBytes, kSegmentBytes + kTagBytes, second,
                at + kSegmentBytes + kTagBytes, kSegmentBytes + kTagBytes);
  directory_.Write("a.sealed", mixed);
  EXPECT_EQ(ReasonOf(Unseal()), Reason::kContentMismatch);
  // All segments of the other; all but the header of the other.
  directory_.Write("a.sealed", first.substr(0, at) + second.substr(at));
  EXPECT_EQ(ReasonOf(Unseal()), Reason::kContentMismatch);
  const Prefix prefix = ParsePrefix(AsBytes(first).first(kPrefixBytes), "x").value();
  const size_t header_end = kPrefixBytes + prefix.header_bytes;
  directory_.Write("a.sealed", second.substr(0, header_end) + first.substr(header_end));
  EXPECT_EQ(ReasonOf(Unseal()), Reason::kBindingMismatch);  // the recipients' binding
}

// Even who has the content key cannot relabel an asset: the header is in every segment.
TEST_F(SealedAssetTest, AnotherHeaderIsAnotherAsset) {
  SealOptions options = OptionsFor({{"a", "content"}});
  options.name = "model 1";
  const SealReport report = Seal(options, directory_ / "a.sealed").value();
  const SealedAsset asset = SealedAsset::Open(directory_ / "a.sealed").value();
  EXPECT_EQ(asset.header().name, "model 1");
  std::string sealed = Sealed();
  sealed.replace(sealed.find("model 1"), 7, "model 2");
  directory_.Write("a.sealed", sealed);
  const SealedAsset relabelled = SealedAsset::Open(directory_ / "a.sealed").value();
  EXPECT_NE(relabelled.asset_id(), asset.asset_id());
  EXPECT_EQ(ReasonOf(relabelled.ContentKey(key_).status()), Reason::kBindingMismatch);
  EXPECT_EQ(ReasonOf(relabelled.Unlock(report.content_key).status()), Reason::kContentMismatch);
}

// GCM alone lets somebody make a ciphertext that two keys open to two contents (Dodis et al.,
// CRYPTO 2018); here a second key fails at the commitment, before anything is decrypted.
TEST_F(SealedAssetTest, OneKeyOpensIt) {
  const SealReport report = SealFiles({{"a", "content"}});
  const SealedAsset asset = SealedAsset::Open(directory_ / "a.sealed").value();
  for (size_t bit = 0; bit < 8 * kContentKeyBytes; ++bit) {
    Bytes other(report.content_key.Reveal().begin(), report.content_key.Reveal().end());
    other[bit / 8] ^= static_cast<uint8_t>(1 << bit % 8);
    const absl::Status status = asset.Unlock(SecretBytes(std::move(other))).status();
    EXPECT_EQ(ReasonOf(status), Reason::kContentMismatch);
    EXPECT_THAT(status.message(), HasSubstr("not the asset's content key"));
  }
  EXPECT_EQ(ReasonOf(asset.Unlock(SecretBytes(Bytes(16))).status()), Reason::kContentMismatch);
  EXPECT_EQ(ReasonOf(asset.ContentKey(PrivateKey::Generate(KeyType::kEcP256).value()).status()),
            Reason::kKeyMismatch);
  // A recipient who was sent a key that is not the asset's: an honest header, another key in its
  // JWE.
  EXPECT_NE(ToHex(*KeyCommitment(report.content_key, asset.header().salt)),
            ToHex(*KeyCommitment(SecretBytes(Bytes(32)), asset.header().salt)));
}

TEST_F(SealedAssetTest, RecipientsChangeAndTheAssetStays) {
  const Files files = {{"a", Content(kSegmentBytes)}};
  const SealReport report = SealFiles(files);
  const PrivateKey other = PrivateKey::Generate(KeyType::kEcP384).value();
  EXPECT_EQ(ReasonOf(ReplaceRecipients(directory_ / "a.sealed", SecretBytes(Bytes(32)),
                                       {other.public_key()}, directory_ / "a.sealed")),
            Reason::kContentMismatch);
  ASSERT_TRUE(ReplaceRecipients(directory_ / "a.sealed", report.content_key, {other.public_key()},
                                directory_ / "a.sealed")
                  .ok());
  const SealedAsset asset = SealedAsset::Open(directory_ / "a.sealed").value();
  EXPECT_EQ(asset.asset_id(), report.asset_id);
  EXPECT_EQ(ReasonOf(asset.ContentKey(key_).status()), Reason::kKeyMismatch);
  EXPECT_TRUE(asset.Unlock(*asset.ContentKey(other))->Unseal({directory_ / "out"}).ok());
  ExpectOut(files);
  // A wrapped key of another asset is none of this one.
  SealFiles(files, "b.sealed");
  const SealedAsset second = SealedAsset::Open(directory_ / "b.sealed").value();
  const std::string text = FormatRecipients(second.recipients());
  std::string sealed = Sealed();
  const Prefix prefix = ParsePrefix(AsBytes(sealed).first(kPrefixBytes), "x").value();
  const std::string header = sealed.substr(kPrefixBytes, prefix.header_bytes);
  const Bytes new_prefix = FormatPrefix({.header_bytes = prefix.header_bytes,
                                         .recipients_bytes = static_cast<uint32_t>(text.size())});
  directory_.Write("a.sealed", std::string(AsText(new_prefix)) + header + text +
                                   sealed.substr(SegmentsAt(sealed)));
  EXPECT_EQ(ReasonOf(SealedAsset::Open(directory_ / "a.sealed")->ContentKey(key_).status()),
            Reason::kBindingMismatch);
  EXPECT_EQ(ReasonOf(ReplaceRecipients(directory_ / "b.sealed", *second.ContentKey(key_),
                                       {other.public_key(), other.public_key()},
                                       directory_ / "c.sealed")),
            Reason::kMalformed);
}

TEST_F(SealedAssetTest, NamesAndSizesDoNotShow) {
  SealOptions options = OptionsFor({{"secret_name", Content(5000)}});
  options.name = "label";
  options.hide = true;
  const SealReport report = Seal(options, directory_ / "a.sealed").value();
  EXPECT_EQ(report.payload_bytes, PaddedSize(report.payload_bytes));
  EXPECT_THAT(Sealed(), Not(HasSubstr("secret_name")));
  EXPECT_THAT(Sealed(), Not(HasSubstr("label")));
  ASSERT_TRUE(Unseal().ok()) << Unseal();
  ExpectOut({{"secret_name", Content(5000)}});
  // A size nearby looks the same.
  SealOptions nearby = OptionsFor({{"another", Content(5010)}}, "in2");
  nearby.hide = true;
  EXPECT_EQ(Seal(nearby, directory_ / "b.sealed")->payload_bytes, report.payload_bytes);
}

TEST_F(SealedAssetTest, TheSignatureTravelsWithItsModel) {
  SealOptions options = OptionsFor({{"a", "content"}});
  options.signature = Bytes(3 * kSegmentBytes, 7);
  EXPECT_EQ(ExitCodeOf(Seal(options, directory_ / "a.sealed").status()), 2);
  options.statement_sha256.emplace().fill(9);
  ASSERT_TRUE(Seal(options, directory_ / "a.sealed").ok());
  const UnlockedAsset asset = Unlock().value();
  EXPECT_EQ(asset.ReadSignature().value(), options.signature);
  EXPECT_EQ(SealedAsset::Open(directory_ / "a.sealed")->header().statement_sha256,
            options.statement_sha256);
  ASSERT_TRUE(asset.Unseal({directory_ / "out", directory_ / "out.sig"}).ok());
  EXPECT_EQ(ReadText(directory_ / "out.sig"), AsText(options.signature));
  ExpectOut({{"a", "content"}});
}

TEST_F(SealedAssetTest, FilesAreTheOwnersAndStayExecutable) {
  SealOptions options = OptionsFor({{"data", "x"}, {"run", "#!/bin/sh\n"}});
  options.files[1].is_executable = true;
  ASSERT_TRUE(Seal(options, directory_ / "a.sealed").ok());
  ASSERT_TRUE(Unseal().ok());
  struct stat status;
  for (const auto& [name, mode] :
       {std::pair("out", 0700u), std::pair("out/data", 0600u), std::pair("out/run", 0700u)}) {
    ASSERT_EQ(stat((directory_ / name).c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777u, mode) << name;
  }
  // What is there already is not touched.
  const absl::Status again = Unlock()->Unseal({directory_ / "out"});
  EXPECT_EQ(ExitCodeOf(again), 2) << again;
  ExpectOut({{"data", "x"}, {"run", "#!/bin/sh\n"}});
}

TEST_F(SealedAssetTest, FilesThatChangeAreNotSealed) {
  SealOptions options = OptionsFor({{"a", "content"}, {"b", "other"}});
  directory_.Write("in/b", "changed since");
  const absl::Status status = Seal(options, directory_ / "a.sealed").status();
  EXPECT_EQ(ReasonOf(status), Reason::kFileUnstable) << status;
  EXPECT_EQ(RefusalsOf(status).at(0).item, "b");
  EXPECT_FALSE(std::filesystem::exists(directory_ / "a.sealed"));
  SealOptions twice = OptionsFor({{"a", "content"}});
  twice.files.push_back(twice.files[0]);
  EXPECT_EQ(ReasonOf(Seal(twice, directory_ / "a.sealed").status()), Reason::kMalformed);
  SealOptions unsafe = OptionsFor({{"a", "content"}});
  unsafe.files[0].path = "../a";
  EXPECT_EQ(ReasonOf(Seal(unsafe, directory_ / "a.sealed").status()), Reason::kPathUnsafe);
  SealOptions none = OptionsFor({});
  EXPECT_EQ(ExitCodeOf(Seal(none, directory_ / "a.sealed").status()), 2);
  SealOptions unfit = OptionsFor({{"a", "content"}});
  unfit.recipients = {PrivateKey::Generate(KeyType::kEd25519)->public_key()};
  EXPECT_EQ(ReasonOf(Seal(unfit, directory_ / "a.sealed").status()), Reason::kKeyUnsupported);
  EXPECT_FALSE(std::filesystem::exists(directory_ / "a.sealed"));
}

// Files that begin and end anywhere in segments and pages.
TEST_F(SealedAssetTest, FilesOfEverySizeAroundPagesAndSegments) {
  Files files;
  for (const size_t size_bytes :
       {size_t{0}, size_t{1}, size_t{4095}, size_t{4096}, size_t{4097}, size_t{kSegmentBytes - 1},
        size_t{kSegmentBytes}, size_t{kSegmentBytes + 1}, size_t{3 * kSegmentBytes + 4097}}) {
    files["sub/" + std::to_string(size_bytes)] =
        Content(size_bytes, static_cast<uint8_t>(size_bytes));
  }
  SealFiles(files);
  ASSERT_TRUE(Unseal().ok());
  ExpectOut(files);
}

// More than are flushed one by one.
TEST_F(SealedAssetTest, VeryManyFiles) {
  Files files;
  for (int i = 0; i < 300; ++i) files[std::to_string(i % 7) + "/" + std::to_string(i)] = Content(i);
  SealFiles(files);
  ASSERT_TRUE(Unseal().ok());
  ExpectOut(files);
}

// Ends the process in the midst of the segments, as other threads go on with theirs.
class Killer final : public Progress {
 public:
  explicit Killer(int signal_number) : signal_number_(signal_number) {}
  void Start(std::string_view, uint64_t) override {}
  void Advance(uint64_t) override {
    if (++segments_ == 3) raise(signal_number_);
  }
  void Finish() override { _exit(98); }

 private:
  const int signal_number_;
  std::atomic<int> segments_{0};
};

// Nothing decrypted stays behind: a signal's handler removes it, and after a SIGKILL, which has
// none, the next unsealing to that name.
TEST_F(SealedAssetTest, AnUnsealingThatIsKilledLeavesNothingForLong) {
  const Files files = {{"a/b/c", Content(4 * kSegmentBytes)}, {"d", Content(3 * kSegmentBytes)}};
  SealFiles(files);
  const UnlockedAsset asset = Unlock().value();
  const auto unfinished = [&] {
    return std::ranges::count_if(
        std::filesystem::directory_iterator(directory_.path()), [](const auto& entry) {
          return entry.path().string().find(".unfinished-") != std::string::npos;
        });
  };
  for (const int signal_number : {SIGINT, SIGTERM, SIGKILL}) {
    SCOPED_TRACE(signal_number);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      RemoveUnfinishedFilesOnSignals();
      Killer killer(signal_number);
      asset.Unseal({.directory = directory_ / "out", .threads = 2, .progress = &killer})
          .IgnoreError();
      _exit(99);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == signal_number) << status;
    EXPECT_FALSE(std::filesystem::exists(directory_ / "out"));
    EXPECT_EQ(unfinished(), signal_number == SIGKILL ? 1 : 0);
  }
  ASSERT_TRUE(Unseal().ok());
  EXPECT_EQ(unfinished(), 0);
  ExpectOut(files);
}

// The same key, salt and content give the same bytes whoever implements the format: the derivations
// and nonces written out once more.
TEST_F(SealedAssetTest, SegmentsAreThoseOfTheFormat) {
  const SecretBytes content_key{Bytes(32, 1)};
  std::array<uint8_t, 32> salt;
  salt.fill(2);
  Digest32 asset_id;
  asset_id.fill(3);
  SegmentCipher cipher = SegmentCipher::Create(content_key, salt, asset_id).value();
  Bytes segment(5 + kTagBytes);
  std::ranges::copy(AsBytes("hello"), segment.begin());
  const std::span<uint8_t> bytes = std::span(segment).first(5);
  ASSERT_TRUE(cipher.Seal(0x0102, true, bytes, segment).ok());  // in place
  EXPECT_EQ(ToHex(segment), "a63536d6cefe3695bbff00054b5932e69426d5e93e");
  EXPECT_EQ(ToHex(*KeyCommitment(content_key, salt)),
            "5162c250ff49eeb34ecbda4948596ea8c8423727f8ef03d5970a87b9b0ee96b9");
  for (const auto& [number, is_last] : {std::pair(0x0102, false), std::pair(0x0103, true)}) {
    Bytes plain(5, 7);
    EXPECT_EQ(ReasonOf(cipher.Open(static_cast<uint64_t>(number), is_last, segment, plain, "x")),
              Reason::kContentMismatch);
    EXPECT_EQ(plain, Bytes(5));
  }
  EXPECT_EQ(ExitCodeOf(cipher.Open(0x0102, true, segment, bytes.first(4), "x")), 2);
  ASSERT_TRUE(cipher.Open(0x0102, true, segment, bytes, "x").ok());
  EXPECT_EQ(AsText(bytes), "hello");
}

}  // namespace
}  // namespace pavise::vault
