// Verifying and loading by simulated ranks, each with files, options and a device of its own.

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/hash/cpu/cpu_device.h"
#include "pavise/loading/load.h"
#include "pavise/loading/ranked_verification.h"
#include "pavise/loading/testing/thread_ranks.h"
#include "pavise/signing/sign.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::loading {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr uint64_t kMiB = uint64_t{1} << 20;

std::string RandomText(uint64_t size_bytes, uint32_t seed) {
  std::mt19937 generator(seed);
  std::string text(size_bytes, '\0');
  for (char& c : text) c = static_cast<char>(generator());
  return text;
}

// U8 tensors of these lengths, one after the other.
std::string Safetensors(const std::vector<std::pair<std::string, uint64_t>>& tensors) {
  std::string header = "{";
  uint64_t offset = 0;
  for (const auto& [name, size_bytes] : tensors) {
    StrAppend(&header, offset > 0 || header.size() > 1 ? "," : "", "\"", name,
              R"(":{"dtype":"U8","shape":[)", size_bytes, R"(],"data_offsets":[)", offset, ",",
              offset + size_bytes, "]}");
    offset += size_bytes;
  }
  header += "}";
  std::string out(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(out.data(), &length, 8);
  return out + header + RandomText(offset, 3);
}

// The CPU with little memory, and a fault on demand.
class SmallDevice final : public hash::Device {
 public:
  explicit SmallDevice(uint64_t memory_bytes, bool fails = false)
      : memory_bytes_(memory_bytes), fails_(fails) {}
  std::string name() const override { return "small:0"; }
  std::string description() const override { return "a small device"; }
  bool supports(hash::Algorithm algorithm) const override { return cpu_->supports(algorithm); }
  absl::StatusOr<std::unique_ptr<hash::Stream>> NewStream() override { return cpu_->NewStream(); }
  absl::StatusOr<std::unique_ptr<hash::Buffer>> Upload(ByteSpan host) override {
    return cpu_->Upload(host);
  }
  uint64_t memory_bytes() const override { return memory_bytes_; }
  hash::MemoryLink memory_link() const override {
    return {hash::MemoryLink::Kind::kEncryptedUnattested, "for the test"};
  }
  absl::StatusOr<std::unique_ptr<hash::Buffer>> Allocate(uint64_t size_bytes) override {
    return cpu_->Allocate(size_bytes);
  }
  absl::StatusOr<std::unique_ptr<hash::Staging>> AllocateStaging(size_t size_bytes) override {
    return cpu_->AllocateStaging(size_bytes);
  }
  absl::Status CopyIn(ByteSpan host, hash::Buffer& buffer, uint64_t offset_bytes,
                      hash::Stream& stream) override {
    return cpu_->CopyIn(host, buffer, offset_bytes, stream);
  }
  absl::Status CopyOut(const hash::Buffer& buffer, hash::Range range, hash::Stream& stream,
                       std::span<uint8_t> host) override {
    return cpu_->CopyOut(buffer, range, stream, host);
  }
  absl::Status Digest(hash::Algorithm algorithm, const hash::Buffer& buffer,
                      std::span<const hash::Range> ranges, hash::Stream& stream,
                      std::span<uint8_t> out) override {
    if (fails_) return MachineFailure(name(), "overheated");
    return cpu_->Digest(algorithm, buffer, ranges, stream, out);
  }
  absl::Status Blake3Subtrees(const hash::Buffer& buffer,
                              std::span<const hash::SubtreeRange> ranges, hash::Stream& stream,
                              std::span<hash::ChainingValue> out) override {
    if (fails_) return MachineFailure(name(), "overheated");
    return cpu_->Blake3Subtrees(buffer, ranges, stream, out);
  }

 private:
  const uint64_t memory_bytes_;
  const bool fails_;
  std::unique_ptr<hash::Device> cpu_ = hash::NewCpuDevice(1);
};

class RankedTest : public ::testing::Test {
 protected:
  // Rank 0's model lies in "0/"; the others' are copies once CopyFor made them.
  void WriteModel(const std::map<std::string, std::string>& files) {
    for (const auto& [name, text] : files) directory_.Write("0/" + name, text);
  }
  void Sign(const signing::SignOptions& base = {}, const std::string& signature = "model.sig") {
    signing::SignOptions options = base;
    options.model_path = directory_ / "0";
    options.signature_path = directory_ / signature;
    options.signer = &key_;
    const auto report = signing::SignModel(options);
    ASSERT_TRUE(report.ok()) << report.status();
  }
  void CopyFor(unsigned rank) {
    std::filesystem::copy(directory_ / "0", directory_ / StrCat(rank),
                          std::filesystem::copy_options::recursive);
  }
  void Flip(const std::string& path, const std::vector<uint64_t>& offsets) {
    std::fstream file(directory_ / path, std::ios::in | std::ios::out | std::ios::binary);
    for (const uint64_t offset : offsets) {
      file.seekg(static_cast<std::streamoff>(offset));
      const char byte = static_cast<char>(file.get() ^ 1);
      file.seekp(static_cast<std::streamoff>(offset));
      file.put(byte);
    }
    ASSERT_TRUE(file.good());
  }
  signing::VerifyOptions Options(unsigned rank = 0) {
    signing::VerifyOptions options;
    const std::string own = directory_ / StrCat(rank);
    options.model_path = std::filesystem::exists(own) ? own : directory_ / "0";
    options.signature_path = directory_ / "model.sig";
    options.pass.threads = 1;
    signing::TrustedSigners signers;
    signers.keys.push_back({key_.public_key()});
    options.policy = signing::TrustPolicy::ForSigners(std::move(signers));
    return options;
  }

  using Change = std::function<void(unsigned rank, signing::VerifyOptions& options)>;
  // The verdict of all, which must be one.
  absl::Status Verify(unsigned size, const Change& change = nullptr,
                      const testing::Forgery& forgery = nullptr) {
    std::vector<absl::Status> verdicts(size);
    uint64_t bytes_read = 0;
    testing::RunRanks(
        size,
        [&](RankGroup& group) {
          RankedRun run(group);
          signing::VerifyOptions options = Options(group.rank());
          if (change) change(group.rank(), options);
          const auto verified = VerifyInRanks(options, run);
          verdicts[group.rank()] = verified.status();
          if (!verified.ok() || group.rank() != 0) return;
          one_copy_ = ReadOneCopy(verified->ranks);
          for (const RankPart& part : verified->ranks) bytes_read += part.bytes_read;
          if (!verified->model->partial) {
            EXPECT_EQ(bytes_read, verified->model->bytes_checked) << "something was read twice";
          }
        },
        forgery);
    for (const absl::Status& verdict : verdicts) EXPECT_EQ(verdict, verdicts[0]);
    return verdicts[0];
  }

  bool one_copy_ = false;  // of the latest accept
  pavise::testing::TemporaryDirectory directory_;
  crypto::PrivateKey key_ = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
};

TEST_F(RankedTest, VerifiesFilesOfEveryLength) {
  std::map<std::string, std::string> files;
  for (const uint64_t size_bytes : {uint64_t{0}, uint64_t{1}, kMiB - 1, kMiB, kMiB + 1,
                                    2 * kMiB - 1, 2 * kMiB, 3 * kMiB + 1025}) {
    files[StrCat("f", size_bytes)] = RandomText(size_bytes, static_cast<uint32_t>(size_bytes));
  }
  WriteModel(files);
  Sign();
  using signing::DigestChoice;
  for (const unsigned size : {1U, 2U, 3U, 7U, 40U}) {
    for (const auto digests : {DigestChoice::kAuto, DigestChoice::kOms, DigestChoice::kAll}) {
      const Change change = [&](unsigned, signing::VerifyOptions& options) {
        options.digests = digests;
      };
      const absl::Status verdict = Verify(size, change);
      EXPECT_TRUE(verdict.ok()) << size << " ranks: " << verdict;
    }
  }
  for (const unsigned size : {2U, 7U}) {
    for (const auto& [name, text] : files) {
      if (text.empty()) continue;
      for (const uint64_t offset : std::set<uint64_t>{0, text.size() / 2, text.size() - 1}) {
        for (const auto digests : {DigestChoice::kAuto, DigestChoice::kOms}) {
          Flip("0/" + name, {offset});
          const absl::Status verdict = Verify(
              size, [&](unsigned, signing::VerifyOptions& options) { options.digests = digests; });
          EXPECT_EQ(ReasonOf(verdict), Reason::kContentMismatch) << name << " at " << offset;
          EXPECT_THAT(verdict.ToString(), AllOf(HasSubstr(name), HasSubstr("read by rank ")));
          Flip("0/" + name, {offset});
        }
      }
    }
  }
}

TEST_F(RankedTest, VerifiesShardsTensorsAndRanges) {
  const std::string weights = Safetensors({{"a", kMiB}, {"b", 3 * kMiB}, {"c", 0}, {"d", 100}});
  WriteModel({{"m.safetensors", weights}});
  Sign();
  const Change parts = [](unsigned, signing::VerifyOptions& options) {
    options.tensors = {"b", "c", "d"};
    options.ranges = {{"m.safetensors", 100, 2 * kMiB}};
  };
  EXPECT_TRUE(Verify(3, parts).ok()) << Verify(3, parts);
  Flip("0/m.safetensors", {weights.size() - 1});
  EXPECT_THAT(Verify(3, parts).ToString(),
              AllOf(HasSubstr("tensor: d"), HasSubstr("read by rank")));
  Flip("0/m.safetensors", {weights.size() - 1});

  signing::SignOptions shards;
  shards.serialization.method = signing::SerializationMethod::kShards;
  shards.serialization.shard_size_bytes = 1'000'000;
  shards.annotate = false;
  Sign(shards);
  EXPECT_TRUE(Verify(3).ok()) << Verify(3);
  Flip("0/m.safetensors", {2 * kMiB});
  EXPECT_EQ(ReasonOf(Verify(3)), Reason::kContentMismatch);
}

// The model of one rank only is another; it reads the second half.
TEST_F(RankedTest, OneRankWithOtherFiles) {
  WriteModel({{"weights", RandomText(8 * kMiB, 1)}, {"config", "{}"}});
  Sign();
  ASSERT_TRUE(Verify(2).ok());
  EXPECT_TRUE(one_copy_);
  CopyFor(1);
  ASSERT_TRUE(Verify(2).ok());
  EXPECT_FALSE(one_copy_) << "the same bytes, in other files";
  std::filesystem::remove(directory_ / "1/config");
  std::filesystem::create_hard_link(directory_ / "0/config", directory_ / "1/config");
  ASSERT_TRUE(Verify(2).ok());
  EXPECT_FALSE(one_copy_) << "one file of two";
  std::filesystem::remove(directory_ / "1/weights");
  std::filesystem::create_hard_link(directory_ / "0/weights", directory_ / "1/weights");
  ASSERT_TRUE(Verify(2).ok());
  EXPECT_TRUE(one_copy_);
  std::filesystem::remove_all(directory_ / "1");
  CopyFor(1);
  Flip("1/weights", {6 * kMiB});
  absl::Status verdict = Verify(2);
  EXPECT_EQ(ReasonOf(verdict), Reason::kContentMismatch);
  EXPECT_THAT(verdict.ToString(),
              AllOf(HasSubstr("MiB 6"), HasSubstr("read by rank 1 on"), Not(HasSubstr("rank 0"))));
  Flip("1/weights", {6 * kMiB});
  // What its neighbour reads is of the neighbour's disk: the verdict is on what was read.
  Flip("1/weights", {kMiB});
  EXPECT_TRUE(Verify(2).ok());
  EXPECT_FALSE(one_copy_) << "and the result has to say so";
  Flip("1/weights", {kMiB});

  directory_.Write("1/more", "x");
  verdict = Verify(2);
  EXPECT_EQ(ReasonOf(verdict), Reason::kFileUnsigned);
  EXPECT_THAT(verdict.ToString(), HasSubstr("rank 1 on"));
  std::filesystem::remove(directory_ / "1/more");
  std::filesystem::remove(directory_ / "1/config");
  verdict = Verify(2);
  EXPECT_EQ(ReasonOf(verdict), Reason::kFileMissing) << verdict;
  EXPECT_THAT(verdict.ToString(), AllOf(HasSubstr("config"), HasSubstr("rank 1 on")));
  std::filesystem::remove_all(directory_ / "1");
  std::filesystem::create_directory(directory_ / "1");
  EXPECT_EQ(ExitCodeOf(Verify(2)), 1);
}

TEST_F(RankedTest, OneRankWithAnotherSignatureOrOtherOptions) {
  WriteModel({{"weights", RandomText(3 * kMiB, 1)}});
  Sign();
  signing::SignOptions other;
  other.model_name = "another";
  Sign(other, "other.sig");
  for (const unsigned different : {0U, 2U}) {
    absl::Status verdict = Verify(3, [&](unsigned rank, signing::VerifyOptions& options) {
      if (rank == different) options.signature_path = directory_ / "other.sig";
      options.ignore_paths = {};
    });
    EXPECT_EQ(ReasonOf(verdict), Reason::kRanksDisagree) << verdict;
    EXPECT_THAT(verdict.ToString(), HasSubstr("the signature of rank"));
    verdict = Verify(3, [&](unsigned rank, signing::VerifyOptions& options) {
      options.ignore_unsigned_files = rank == different;
    });
    EXPECT_EQ(ReasonOf(verdict), Reason::kRanksDisagree) << verdict;
    verdict = Verify(3, [&](unsigned rank, signing::VerifyOptions& options) {
      if (rank == different) options.digests = signing::DigestChoice::kOms;
    });
    EXPECT_EQ(ReasonOf(verdict), Reason::kRanksDisagree) << verdict;
    verdict = Verify(3, [&](unsigned rank, signing::VerifyOptions& options) {
      if (rank != different) return;
      const auto stranger = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
      signing::TrustedSigners signers;
      signers.keys.push_back({stranger.public_key()});
      options.policy = signing::TrustPolicy::ForSigners(std::move(signers));
    });
    EXPECT_EQ(ExitCodeOf(verdict), 1);
    EXPECT_THAT(verdict.ToString(), HasSubstr(StrCat("(rank ", different)));
    verdict = Verify(3, [&](unsigned rank, signing::VerifyOptions& options) {
      if (rank == different) options.signature_path = directory_ / "none.sig";
    });
    EXPECT_EQ(ReasonOf(verdict), Reason::kFileUnreadable) << verdict;
  }
  EXPECT_EQ(
      ReasonOf(Verify(2, [](unsigned, signing::VerifyOptions& options) { options.fips = true; })),
      Reason::kUnsupported);
}

// Each of the policies accepts; they are not the same.
TEST_F(RankedTest, OneRankWithAnotherTrustPolicy) {
  WriteModel({{"weights", RandomText(3 * kMiB, 1)}});
  signing::SignOptions named;
  named.model_name = "acme/llm";
  named.model_version = 5;
  Sign(named);
  const auto stranger = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  using signing::TrustPolicy;
  const std::map<std::string, std::function<void(TrustPolicy&)>> changes = {
      {"expected name", [](TrustPolicy& policy) { policy.expected_model_name = "acme/llm"; }},
      {"minimum version", [](TrustPolicy& policy) { policy.rules[0].minimum_version = 5; }},
      {"revoked key",
       [&](TrustPolicy& policy) {
         policy.revoked_keys.insert(stranger.public_key().Fingerprint());
       }},
      {"revoked certificate",
       [](TrustPolicy& policy) { policy.revoked_certificates.insert(std::string(64, 'a')); }},
      {"expired certificates",
       [](TrustPolicy& policy) { policy.accept_expired_certificates = true; }},
      {"another key",
       [&](TrustPolicy& policy) {
         policy.rules[0].signers.keys.push_back({stranger.public_key()});
       }},
      {"another rule", [](TrustPolicy& policy) { policy.rules.push_back({.model = "x"}); }}};
  for (const auto& [name, change] : changes) {
    SCOPED_TRACE(name);
    for (const unsigned different : {0U, 1U, 2U}) {  // 2: nobody, all are changed alike
      const absl::Status verdict =
          Verify(2, [&, &change = change](unsigned rank, signing::VerifyOptions& options) {
            if (different == 2 || rank == different) change(options.policy);
          });
      if (different == 2) {
        EXPECT_TRUE(verdict.ok()) << verdict;
      } else {
        EXPECT_EQ(ReasonOf(verdict), Reason::kRanksDisagree) << verdict;
        EXPECT_THAT(verdict.ToString(), HasSubstr("the trust policy of rank 1"));
      }
    }
  }
  // Trust files of different names that say the same.
  const absl::Status verdict = Verify(2, [](unsigned rank, signing::VerifyOptions& options) {
    options.policy.trust_file = StrCat("trust", rank, ".yaml");
    options.policy.expected_model_name = "acme/llm";
  });
  EXPECT_TRUE(verdict.ok()) << verdict;
}

TEST_F(RankedTest, ARankThatLiesOrSendsNonsense) {
  WriteModel({{"weights", RandomText(5 * kMiB, 1)}, {"config", "{}"}});
  Sign();
  const std::map<std::string, std::pair<Reason, std::function<void(Bytes&)>>> cases = {
      {"another chaining value",
       {Reason::kContentMismatch, [](Bytes& message) { message.back() ^= 1; }}},
      {"a value too few",
       {Reason::kMalformed,
        [](Bytes& message) {
          // The payload's length, then the payload: of rank 1, three chaining values.
          const size_t values = 3 * 32;
          const size_t status_and_number = 16;
          const size_t payload = values + status_and_number;
          message.resize(message.size() - 32);
          message[message.size() + 32 - payload - 8] = static_cast<uint8_t>(payload - 32);
        }}},
      {"trailing bytes", {Reason::kMalformed, [](Bytes& message) { message.push_back(0); }}}};
  for (const auto& [name, expected] : cases) {
    SCOPED_TRACE(name);
    const absl::Status verdict = Verify(
        2, nullptr, [&, &change = expected.second](unsigned rank, unsigned round, Bytes& message) {
          if (rank == 1 && round == 1) change(message);
        });
    EXPECT_EQ(ReasonOf(verdict), expected.first) << verdict;
  }
}

class RankedLoadTest : public RankedTest {
 protected:
  void SetUp() override {
    tensors_ = {{"a", 700'000}, {"b", 5'000'000}, {"c", 0},         {"d", 100}, {"e", 3'000'001},
                {"f", 200},     {"g", 300},       {"h", 2'500'000}, {"i", 0}};
    text_ = Safetensors(tensors_);
    WriteModel({{"m.safetensors", text_},
                {"n.safetensors", Safetensors({{"x", 50}, {"y", 60}})},
                {"config", "{}"}});
    Sign();
  }

  struct Loads {
    absl::Status verdict;                     // of all
    std::map<std::string, unsigned> tensors;  // how many ranks hold each
    std::vector<uint64_t> device_bytes;
    bool one_copy = false;
  };
  using LoadChange = std::function<void(unsigned rank, LoadOptions& options)>;
  // On devices of so much memory; the bytes of each tensor are held against the file.
  Loads Load(unsigned size, uint64_t memory_bytes = uint64_t{1} << 40,
             std::optional<unsigned> failing = std::nullopt, const LoadChange& change = nullptr) {
    Loads loads;
    std::vector<absl::Status> verdicts(size);
    loads.device_bytes.resize(size);
    std::mutex mutex;
    testing::RunRanks(size, [&](RankGroup& group) {
      RankedRun run(group);
      SmallDevice device(memory_bytes, failing == group.rank());
      LoadOptions options;
      options.verify = Options(group.rank());
      options.pass.readers = 1;
      options.ranks = &run;
      if (change) change(group.rank(), options);
      const auto loaded = Loader::Load(options, device);
      const std::lock_guard lock(mutex);
      verdicts[group.rank()] = loaded.status();
      if (!loaded.ok()) return;
      EXPECT_EQ((*loaded)->ranks.size(), size);
      loads.one_copy = ReadOneCopy((*loaded)->ranks);
      EXPECT_EQ((*loaded)->ranks[group.rank()].tensors, (*loaded)->tensors.size());
      loads.device_bytes[group.rank()] = (*loaded)->device_bytes;
      for (const LoadedTensor& tensor : (*loaded)->tensors) {
        ++loads.tensors[tensor.entry.name];
        Bytes bytes(tensor.size_bytes());
        if (tensor.slice.has_value()) continue;
        const auto stream = device.NewStream();
        ASSERT_TRUE(device
                        .CopyOut(*tensor.buffer, {tensor.buffer_offset_bytes, bytes.size()},
                                 **stream, bytes)
                        .ok());
        ASSERT_TRUE((*stream)->Wait().ok());
        if (tensor.file != "m.safetensors") continue;
        EXPECT_EQ(AsText(bytes),
                  std::string_view(text_).substr(tensor.entry.begin_bytes, bytes.size()))
            << tensor.entry.name;
      }
    });
    for (const absl::Status& verdict : verdicts) EXPECT_EQ(verdict, verdicts[0]);
    loads.verdict = verdicts[0];
    return loads;
  }

  void ExpectEachTensorOnce(const Loads& loads) {
    ASSERT_TRUE(loads.verdict.ok()) << loads.verdict;
    EXPECT_EQ(loads.tensors.size(), tensors_.size() + 2);
    for (const auto& [name, holders] : loads.tensors) EXPECT_EQ(holders, 1u) << name;
  }

  std::vector<std::pair<std::string, uint64_t>> tensors_;
  std::string text_;
};

TEST_F(RankedLoadTest, EachTensorIsWholeAndWithOneRank) {
  for (const unsigned size : {1U, 2U, 3U, 7U, 20U}) {
    SCOPED_TRACE(size);
    ExpectEachTensorOnce(Load(size));
  }
  signing::SignOptions plain;
  plain.annotate = false;
  Sign(plain);
  for (const unsigned size : {1U, 2U, 3U}) {
    SCOPED_TRACE(size);
    ExpectEachTensorOnce(Load(size));
  }
}

TEST_F(RankedLoadTest, AModelLargerThanADevice) {
  // 11.2 MB in all; the largest tensor, with what lies around it in its MiB's, takes 6 MiB.
  const uint64_t memory_bytes = 7 * kMiB;
  EXPECT_EQ(ReasonOf(Load(1, memory_bytes).verdict), Reason::kUnsupported);
  const Loads loads = Load(2, memory_bytes);
  ExpectEachTensorOnce(loads);
  EXPECT_GT(loads.device_bytes[0], 4 * kMiB);
  EXPECT_GT(loads.device_bytes[1], 4 * kMiB);
  const Loads too_small = Load(2, 3 * kMiB);
  EXPECT_EQ(ReasonOf(too_small.verdict), Reason::kUnsupported);
  EXPECT_TRUE(too_small.tensors.empty());
}

TEST_F(RankedLoadTest, OnlyTheTensorsThatWereAskedFor) {
  const Loads loads = Load(2, uint64_t{1} << 40, std::nullopt, [](unsigned, LoadOptions& options) {
    options.verify.tensors = {"b", "c", "h", "x"};
  });
  ASSERT_TRUE(loads.verdict.ok()) << loads.verdict;
  EXPECT_EQ(loads.tensors,
            (std::map<std::string, unsigned>{{"b", 1}, {"c", 1}, {"h", 1}, {"x", 1}}));
  EXPECT_LE(loads.device_bytes[0] + loads.device_bytes[1], 7'600'000u);
}

// The range makes one rank read a part of the file; the tensors are dealt out besides.
TEST_F(RankedLoadTest, TensorsOfAFileThatIsAskedForByRangeToo) {
  for (const unsigned size : {1U, 2U, 3U}) {
    SCOPED_TRACE(size);
    const Loads loads =
        Load(size, uint64_t{1} << 40, std::nullopt, [](unsigned, LoadOptions& options) {
          options.verify.tensors = {"a", "b", "c", "h"};
          options.verify.ranges = {{"m.safetensors", 8 * kMiB, 8 * kMiB + 1}};
        });
    ASSERT_TRUE(loads.verdict.ok()) << loads.verdict;
    EXPECT_EQ(loads.tensors,
              (std::map<std::string, unsigned>{{"a", 1}, {"b", 1}, {"c", 1}, {"h", 1}}));
  }
}

TEST_F(RankedLoadTest, RanksThatAreAskedForDifferentLoads) {
  // Together longer than a message's longest text; only the last differs.
  std::vector<std::pair<std::string, uint64_t>> tensors;
  for (unsigned i = 0; i < 60; ++i) {
    tensors.emplace_back(StrCat(std::string(250, 't'), 100 + i), 64);
  }
  WriteModel({{"long.safetensors", Safetensors(tensors)}});
  Sign();
  const auto slices = [&](unsigned rank, size_t last) {
    std::vector<Slice> shares;
    for (size_t i = 0; i < 40; ++i) shares.push_back({tensors[i].first, 0, rank, 2});
    shares.push_back({tensors[last].first, 0, rank, 2});
    return shares;
  };
  const std::map<std::string, LoadChange> changes = {
      {"the slices",
       [&](unsigned rank, LoadOptions& options) { options.slices = slices(rank, 50 + rank); }},
      {"the least channel",
       [](unsigned rank, LoadOptions& options) {
         if (rank == 1) options.least_channel = Channel::kConfidentialGpu;
       }},
      {"the number of sampled answers",
       [](unsigned rank, LoadOptions& options) { options.pass.sampled_answers = rank; }},
      {"the references kept", [](unsigned rank, LoadOptions& options) {
         if (rank == 1) options.pass.references = hash::References::kBlake3;
       }}};
  for (const auto& [name, change] : changes) {
    SCOPED_TRACE(name);
    const Loads loads = Load(2, uint64_t{1} << 40, std::nullopt, change);
    EXPECT_EQ(ReasonOf(loads.verdict), Reason::kRanksDisagree) << loads.verdict;
    EXPECT_THAT(loads.verdict.ToString(), HasSubstr(StrCat(name, " of rank 1")));
    EXPECT_TRUE(loads.tensors.empty());
    // The same on both.
    const Loads alike = Load(2, uint64_t{1} << 40, std::nullopt,
                             [&, &change = change](unsigned rank, LoadOptions& options) {
                               change(1, options);
                               for (Slice& slice : options.slices) slice.rank = rank;
                             });
    EXPECT_TRUE(alike.verdict.ok()) << alike.verdict;
    EXPECT_TRUE(alike.one_copy);
  }
  CopyFor(1);
  const Loads copies =
      Load(2, uint64_t{1} << 40, std::nullopt,
           [&](unsigned rank, LoadOptions& options) { options.slices = slices(rank, 50); });
  EXPECT_TRUE(copies.verdict.ok()) << copies.verdict;
  EXPECT_FALSE(copies.one_copy);
}

TEST_F(RankedLoadTest, WhatOneRankFindsRefusesAll) {
  for (const uint64_t offset : {uint64_t{0}, 3 * kMiB, uint64_t{text_.size() - 1}}) {
    Flip("0/m.safetensors", {offset});
    const Loads loads = Load(3);
    EXPECT_EQ(ReasonOf(loads.verdict), Reason::kContentMismatch) << loads.verdict;
    EXPECT_TRUE(loads.tensors.empty());
    Flip("0/m.safetensors", {offset});
  }
  const Loads failed = Load(3, uint64_t{1} << 40, 1);
  EXPECT_EQ(ExitCodeOf(failed.verdict), 3);
  EXPECT_THAT(failed.verdict.ToString(), AllOf(HasSubstr("overheated"), HasSubstr("rank 1 on")));
  EXPECT_TRUE(failed.tensors.empty());
}

// Around a cut both neighbours read the same MiB, each from its own disk.
TEST_F(RankedLoadTest, NeighboursThatReadDifferentBytes) {
  // The cut lies between b and e, in MiB 5.
  CopyFor(1);
  ASSERT_TRUE(Load(2).verdict.ok());
  Flip("1/m.safetensors", {5 * kMiB + 1000});
  const Loads loads = Load(2);
  EXPECT_EQ(ReasonOf(loads.verdict), Reason::kRanksDisagree) << loads.verdict;
  EXPECT_THAT(loads.verdict.ToString(), HasSubstr("MiB 5"));
  EXPECT_TRUE(loads.tensors.empty());
}

}  // namespace
}  // namespace pavise::loading
