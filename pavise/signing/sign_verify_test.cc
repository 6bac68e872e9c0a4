// Signing and verifying end to end, and everything that must be refused.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <random>

#include "pavise/base/file.h"
#include "pavise/base/strings.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/outboard.h"
#include "pavise/signing/sign.h"
#include "pavise/signing/verify.h"

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::signing {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Field;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::UnorderedElementsAre;

constexpr uint64_t kMiB = 1 << 20;

struct TestTensor {
  std::string name;
  uint64_t elements;  // F32
};

// A safetensors file of F32 tensors, its bytes drawn from `seed`.
std::string SafetensorsBytes(const std::vector<TestTensor>& tensors, uint32_t seed) {
  std::string header = "{";
  uint64_t offset = 0;
  for (const TestTensor& tensor : tensors) {
    absl::StrAppendFormat(&header,
                          "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[%d],\"data_offsets\":[%d,%d]}",
                          offset == 0 && header.size() == 1 ? "" : ",", tensor.name,
                          tensor.elements, offset, offset + tensor.elements * 4);
    offset += tensor.elements * 4;
  }
  header += "}";
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i)
    out[static_cast<size_t>(i)] = static_cast<char>(header.size() >> (8 * i));
  out += header;
  std::mt19937 generator(seed);
  std::string data(offset, '\0');
  for (char& c : data) c = static_cast<char>(generator());
  return out + data;
}

std::string Slurp(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void Spill(const fs::path& path, const std::string& bytes) {
  fs::create_directories(path.parent_path());
  // A new file: file systems flush one that is emptied and written again, and this is done
  // thousands of times here.
  fs::remove(path);
  std::ofstream(path, std::ios::binary)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

void FlipBit(const fs::path& path, uint64_t offset) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(offset));
  const char c = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(c);
}

crypto::PrivateKey& TestKey() {
  static crypto::PrivateKey key = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  return key;
}

crypto::PrivateKey& OtherKey() {
  static crypto::PrivateKey key = *crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  return key;
}

TrustPolicy Trusting(const crypto::PublicKey& key) {
  TrustedSigners signers;
  signers.keys.push_back({key});
  return TrustPolicy::ForSigners(std::move(signers));
}

// Signs a statement of the test's own making.
void SignStatement(Statement statement, const fs::path& path) {
  const auto text = FormatStatement(statement);
  ASSERT_TRUE(text.ok()) << text.status();
  Bundle bundle;
  bundle.method = Method::kKey;
  bundle.key_hint = TestKey().public_key().OmsHint();
  bundle.payload_type = std::string(kInTotoPayloadType);
  bundle.payload.assign(text->begin(), text->end());
  bundle.signature =
      *TestKey().Sign(PreAuthenticationEncoding(bundle.payload_type, bundle.payload));
  Spill(path, FormatBundle(bundle));
}

class SignVerifyTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/pavise-sign-XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    MakeModel(root_ / "model", 1);
  }
  void TearDown() override { fs::remove_all(root_); }

  void MakeModel(const fs::path& model, uint32_t seed) {
    Spill(model / "config.json", absl::StrFormat("{\"seed\": %d}", seed));
    // Tensors that do not lie on MiB boundaries; "b" crosses one.
    Spill(model / "model.safetensors",
          SafetensorsBytes({{"a", 200'000}, {"b", 400'000}, {"c", 100}, {"d", 300'001}}, seed));
    Spill(model / "sub" / "notes.txt", "notes");
    Spill(model / "sub" / "empty.bin", "");
  }

  SignOptions Signing() const {
    SignOptions options;
    options.model_path = (root_ / "model").string();
    options.signature_path = (root_ / "model.sig").string();
    options.signer = &TestKey();
    return options;
  }
  VerifyOptions Verifying() const {
    VerifyOptions options;
    options.model_path = (root_ / "model").string();
    options.signature_path = (root_ / "model.sig").string();
    options.policy = Trusting(TestKey().public_key());
    return options;
  }
  void Sign() { Sign(Signing()); }
  static void Sign(const SignOptions& options) {
    const auto report = SignModel(options);
    ASSERT_TRUE(report.ok()) << report.status();
  }
  static void ExpectAccepted(const VerifyOptions& options) {
    const auto verified = ModelVerifier::Verify(options);
    EXPECT_TRUE(verified.ok()) << verified.status();
  }
  // Refused, with a finding of this reason about this item, and exit code 1.
  static std::vector<Refusal> ExpectRefused(const VerifyOptions& options, Reason reason,
                                            const std::string& item) {
    const auto verified = ModelVerifier::Verify(options);
    EXPECT_FALSE(verified.ok());
    if (verified.ok()) return {};
    EXPECT_EQ(ExitCodeOf(verified.status()), 1) << verified.status();
    const std::vector<Refusal> findings = RefusalsOf(verified.status());
    EXPECT_THAT(findings, Contains(AllOf(Field(&Refusal::reason, reason),
                                         Field(&Refusal::item, HasSubstr(item)))))
        << verified.status();
    return findings;
  }

  fs::path ModelFile(const std::string& name = "model.safetensors") const {
    return root_ / "model" / name;
  }

  fs::path root_;
};

TEST_F(SignVerifyTest, EveryMethodHashAndChoiceOfDigestsRoundTrips) {
  int cases = 0;
  for (const auto method : {SerializationMethod::kFiles, SerializationMethod::kShards}) {
    for (const auto algorithm :
         {hash::Algorithm::kSha256, hash::Algorithm::kBlake2b, hash::Algorithm::kBlake3}) {
      for (const bool annotate : {true, false}) {
        SignOptions options = Signing();
        options.serialization.method = method;
        options.serialization.hash_type = algorithm;
        options.serialization.shard_size_bytes = 1'000'000;
        options.annotate = annotate;
        if (method == SerializationMethod::kShards && algorithm == hash::Algorithm::kBlake3) {
          // Never written, because the reference tool means something else by it; read all the
          // same.
          EXPECT_EQ(ExitCodeOf(SignModel(options).status()), 2);
          fs::remove(root_ / "model.sig.tree");
          const auto digest = DigestModel(options);
          ASSERT_TRUE(digest.ok()) << digest.status();
          SignStatement(digest->statement, root_ / "model.sig");
        } else {
          Sign(options);
        }
        for (const auto choice : {DigestChoice::kAuto, DigestChoice::kOms, DigestChoice::kAll}) {
          SCOPED_TRACE(StrCat(static_cast<int>(method), " ", hash::AlgorithmName(algorithm), " ",
                              annotate, " ", static_cast<int>(choice)));
          VerifyOptions verify = Verifying();
          verify.digests = choice;
          const auto verified = ModelVerifier::Verify(verify);
          ASSERT_TRUE(verified.ok()) << verified.status();
          EXPECT_FALSE((*verified)->partial);
          const auto& sources = (*verified)->digests_read;
          const bool expects_annotation = annotate && choice != DigestChoice::kOms;
          EXPECT_EQ(std::count(sources.begin(), sources.end(), "blake3-annotation"),
                    expects_annotation);
          EXPECT_EQ(std::count(sources.begin(), sources.end(), "tensor-digests"),
                    annotate && choice == DigestChoice::kAll);
          if (choice != DigestChoice::kAuto || !annotate) {
            EXPECT_THAT(sources, Contains("oms"));
          }

          FlipBit(ModelFile(), 2'000'000);
          ExpectRefused(verify, Reason::kContentMismatch, "model.safetensors");
          FlipBit(ModelFile(), 2'000'000);
          ++cases;
        }
      }
    }
  }
  EXPECT_EQ(cases, 36);
}

TEST_F(SignVerifyTest, AFlippedBitIsLocatedToFileTensorAndMebibyte) {
  Sign();
  FlipBit(ModelFile(), kMiB + 12345);  // inside tensor b
  const auto findings = ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_THAT(findings[0].detail, HasSubstr("bytes 1048576 to 2097151 (MiB 1)"));
  EXPECT_THAT(findings[0].detail, HasSubstr("damaged tensor: b (F32 [400000]"));
  EXPECT_FALSE(findings[0].remedy.empty());

  // Without the outboard tree the tensor is still named.
  fs::remove(root_ / "model.sig.tree");
  const auto without = ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(without[0].detail, HasSubstr("damaged tensor: b ("));
}

TEST_F(SignVerifyTest, DamageToTheHeaderIsSaidToBeThere) {
  Sign();
  // A space inside the JSON would change no tensor; any header byte will do.
  FlipBit(ModelFile(), 12);
  const auto findings = ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(findings[0].detail, HasSubstr("header or in padding"));
}

TEST_F(SignVerifyTest, FlippedBitsAtEveryPositionClassAreRefused) {
  Sign();
  const uint64_t size = fs::file_size(ModelFile());
  int cases = 0;
  for (const uint64_t offset : {uint64_t{0}, uint64_t{7}, uint64_t{8}, kMiB - 1, kMiB, kMiB + 1,
                                2 * kMiB - 1, 2 * kMiB, 3 * kMiB, size - 1}) {
    FlipBit(ModelFile(), offset);
    ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
    FlipBit(ModelFile(), offset);
    ++cases;
  }
  for (const char* name : {"config.json", "sub/notes.txt"}) {
    for (uint64_t offset = 0; offset < fs::file_size(ModelFile(name)); ++offset) {
      FlipBit(ModelFile(name), offset);
      ExpectRefused(Verifying(), Reason::kContentMismatch, name);
      FlipBit(ModelFile(name), offset);
      ++cases;
    }
  }
  EXPECT_EQ(cases, 10 + 11 + 5);
  ExpectAccepted(Verifying());
}

TEST_F(SignVerifyTest, TruncatedAndExtendedFilesAreRefused) {
  Sign();
  const std::string whole = Slurp(ModelFile());
  Spill(ModelFile(), whole.substr(0, whole.size() - 1));
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  Spill(ModelFile(), whole + std::string(1, '\0'));
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  Spill(ModelFile(), "");
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  Spill(ModelFile(), whole);
  Spill(ModelFile("sub/empty.bin"), "x");
  ExpectRefused(Verifying(), Reason::kContentMismatch, "sub/empty.bin");
}

TEST_F(SignVerifyTest, MissingUnsignedRenamedAndSwappedFilesAreRefusedAndAllNamed) {
  Spill(ModelFile("sub/noted.txt"), "NOTES");
  Sign();
  fs::rename(ModelFile("config.json"), ModelFile("config.jsom"));
  const auto renamed = ExpectRefused(Verifying(), Reason::kFileMissing, "config.json");
  EXPECT_THAT(renamed, Contains(AllOf(Field(&Refusal::reason, Reason::kFileUnsigned),
                                      Field(&Refusal::item, "config.jsom"))));
  fs::rename(ModelFile("config.jsom"), ModelFile("config.json"));

  // Two files of one length, swapped.
  fs::rename(ModelFile("sub/notes.txt"), ModelFile("sub/x"));
  fs::rename(ModelFile("sub/noted.txt"), ModelFile("sub/notes.txt"));
  fs::rename(ModelFile("sub/x"), ModelFile("sub/noted.txt"));
  const auto swapped = ExpectRefused(Verifying(), Reason::kContentMismatch, "sub/notes.txt");
  EXPECT_EQ(swapped.size(), 2u);

  fs::remove_all(ModelFile("sub"));
  ExpectRefused(Verifying(), Reason::kFileMissing, "sub/empty.bin");
}

TEST_F(SignVerifyTest, UnsignedFilesPassOnlyOnRequest) {
  Sign();
  Spill(ModelFile("extra.py"), "import os");
  ExpectRefused(Verifying(), Reason::kFileUnsigned, "extra.py");
  VerifyOptions ignoring = Verifying();
  ignoring.ignore_unsigned_files = true;
  ExpectAccepted(ignoring);
  VerifyOptions named = Verifying();
  named.ignore_paths = {"extra.py"};
  ExpectAccepted(named);
  // Neither hides a change or a gap.
  named.ignore_paths = {"extra.py", "config.json", "sub/"};
  ExpectAccepted(named);
  FlipBit(ModelFile("config.json"), 1);
  ExpectRefused(named, Reason::kContentMismatch, "config.json");
  FlipBit(ModelFile("config.json"), 1);
  Spill(ModelFile("sub/extra.py"), "import os");
  ExpectRefused(named, Reason::kFileUnsigned, "sub/extra.py");
  fs::remove(ModelFile("sub/extra.py"));
  FlipBit(ModelFile(), 100'000);
  ExpectRefused(ignoring, Reason::kContentMismatch, "model.safetensors");
  FlipBit(ModelFile(), 100'000);
  fs::remove(ModelFile("config.json"));
  ExpectRefused(ignoring, Reason::kFileMissing, "config.json");
}

TEST_F(SignVerifyTest, FilesOfAnotherSignedModelAreRefused) {
  MakeModel(root_ / "other", 2);
  Sign();
  SignOptions other = Signing();
  other.model_path = (root_ / "other").string();
  other.signature_path = (root_ / "other.sig").string();
  Sign(other);
  fs::copy_file(root_ / "other" / "model.safetensors", ModelFile(),
                fs::copy_options::overwrite_existing);
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
  // The other model's outboard tree does not belong to this signature either.
  fs::copy_file(root_ / "other.sig.tree", root_ / "model.sig.tree",
                fs::copy_options::overwrite_existing);
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model.sig.tree");
}

TEST_F(SignVerifyTest, SymbolicLinksNeedBothEnds) {
  Spill(root_ / "outside.bin", "outside");
  fs::create_symlink(root_ / "outside.bin", ModelFile("link.bin"));
  EXPECT_EQ(ReasonOf(SignModel(Signing()).status()), Reason::kFileTypeRefused);
  EXPECT_FALSE(fs::exists(root_ / "model.sig"));

  SignOptions allowing = Signing();
  allowing.serialization.allow_symlinks = true;
  Sign(allowing);
  ExpectRefused(Verifying(), Reason::kFileTypeRefused, "link.bin");
  VerifyOptions allowed = Verifying();
  allowed.allow_symlinks = true;
  ExpectAccepted(allowed);
  Spill(root_ / "outside.bin", "Outside");
  ExpectRefused(allowed, Reason::kContentMismatch, "link.bin");

  // The verifier alone cannot allow them.
  fs::remove(ModelFile("link.bin"));
  Sign();
  fs::rename(ModelFile("config.json"), root_ / "config.json");
  fs::create_symlink(root_ / "config.json", ModelFile("config.json"));
  ExpectRefused(allowed, Reason::kFileTypeRefused, "config.json");

  VerifyOptions ignoring = Verifying();
  ignoring.ignore_unsigned_files = true;
  ExpectRefused(ignoring, Reason::kFileTypeRefused, "config.json");
}

TEST_F(SignVerifyTest, EveryFlippedBitOfTheSignatureFileIsRefused) {
  for (const bool annotate : {true, false}) {
    SignOptions options = Signing();
    options.annotate = annotate;
    Sign(options);
    const std::string whole = Slurp(root_ / "model.sig");
    // Every byte of the short file; of the long one, which only holds more of the same, every
    // seventh.
    for (size_t i = 0; i < whole.size(); i += annotate ? 7 : 1) {
      std::string changed = whole;
      changed[i] = static_cast<char>(changed[i] ^ (1 << (i % 7)));
      Spill(root_ / "model.sig", changed);
      const auto verified = ModelVerifier::Verify(Verifying());
      ASSERT_EQ(ExitCodeOf(verified.status()), 1) << "byte " << i << ": " << verified.status();
    }
    for (size_t length = 0; length < whole.size(); length += 7) {
      Spill(root_ / "model.sig", whole.substr(0, length));
      ASSERT_EQ(ExitCodeOf(ModelVerifier::Verify(Verifying()).status()), 1) << length;
    }
    Spill(root_ / "model.sig", whole);
    ExpectAccepted(Verifying());
  }
}

TEST_F(SignVerifyTest, EveryFlippedBitOfTheOutboardFileIsRefused) {
  Sign();
  const std::string whole = Slurp(root_ / "model.sig.tree");
  int accepted = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    Spill(root_ / "model.sig.tree", changed);
    const auto verified = ModelVerifier::Verify(Verifying());
    accepted += verified.ok();
    if (!verified.ok()) {
      EXPECT_EQ(ExitCodeOf(verified.status()), 1) << verified.status();
    }
  }
  // Only the time of hashing (8 bytes) is bound by nothing: docs/formats/outboard.md.
  EXPECT_EQ(accepted, 8);
}

TEST_F(SignVerifyTest, AnotherKeyIsRefused) {
  Sign();
  VerifyOptions options = Verifying();
  options.policy = Trusting(OtherKey().public_key());
  EXPECT_EQ(ExitCodeOf(ModelVerifier::Verify(options).status()), 1);
}

TEST_F(SignVerifyTest, ARefusedSigningLeavesTheOldSignatureWhole) {
  Sign();
  const std::string signature = Slurp(root_ / "model.sig");
  const std::string tree = Slurp(root_ / "model.sig.tree");
  Spill(ModelFile(), "not a safetensors file at all");
  const auto report = SignModel(Signing());
  EXPECT_EQ(ReasonOf(report.status()), Reason::kMalformed) << report.status();
  EXPECT_EQ(Slurp(root_ / "model.sig"), signature);
  EXPECT_EQ(Slurp(root_ / "model.sig.tree"), tree);
  EXPECT_EQ(std::distance(fs::directory_iterator(root_), {}), 3);  // no temporary is left
}

TEST_F(SignVerifyTest, SignatureInsideTheModelIsNotPartOfIt) {
  SignOptions options = Signing();
  options.signature_path = ModelFile("model.sig").string();
  Sign(options);
  Sign(options);  // again, with the first pair lying there
  VerifyOptions verify = Verifying();
  verify.signature_path = options.signature_path;
  const auto verified = ModelVerifier::Verify(verify);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT((*verified)->signed_statement.statement.serialization.ignore_paths,
              UnorderedElementsAre(".git", ".gitattributes", ".github", ".gitignore", "model.sig",
                                   "model.sig.tree"));
}

TEST_F(SignVerifyTest, NothingHidesBehindTheNamesOfTheSignaturesOwnFiles) {
  SignOptions options = Signing();
  options.signature_path = ModelFile("model.sig").string();
  options.annotate = false;
  Sign(options);
  VerifyOptions verify = Verifying();
  verify.signature_path = options.signature_path;
  ExpectAccepted(verify);
  Spill(ModelFile("model.sig.tree/evil.py"), "import os");
  ExpectRefused(verify, Reason::kFileUnsigned, "model.sig.tree/evil.py");
}

TEST_F(SignVerifyTest, WhatTheSignatureLeavesOutIsListed) {
  Spill(ModelFile(".git/config"), "x");
  Sign();
  const auto verified = ModelVerifier::Verify(Verifying());
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT((*verified)->unsigned_files_ignored, ElementsAre(".git"));
}

TEST_F(SignVerifyTest, AnOutputReplacesNothingButAnOlderOutput) {
  const std::string model = Slurp(ModelFile());
  SignOptions options = Signing();
  for (const fs::path& target :
       {ModelFile(), root_ / "model", fs::path("/dev/null"), ModelFile("sub/notes.txt")}) {
    options.signature_path = target.string();
    options.outboard_path = (root_ / "t.tree").string();
    EXPECT_EQ(ReasonOf(SignModel(options).status()), Reason::kFileTypeRefused) << target;
    options.signature_path = (root_ / "model.sig").string();
    options.outboard_path = target.string();
    EXPECT_EQ(ReasonOf(SignModel(options).status()), Reason::kFileTypeRefused) << target;
  }
  options.outboard_path = options.signature_path;
  EXPECT_EQ(ExitCodeOf(SignModel(options).status()), 2);
  EXPECT_EQ(Slurp(ModelFile()), model);
  EXPECT_FALSE(fs::exists(root_ / "model.sig"));
  Sign();
  Sign();
}

TEST_F(SignVerifyTest, AFileThatStatesNoLengthButHoldsSomethingIsRefused) {
  Spill(ModelFile("__init__.py"), "");
  SignOptions options = Signing();
  options.serialization.allow_symlinks = true;
  Sign(options);
  fs::remove(ModelFile("__init__.py"));
  fs::create_symlink("/proc/self/environ", ModelFile("__init__.py"));
  VerifyOptions verify = Verifying();
  verify.allow_symlinks = true;
  ExpectRefused(verify, Reason::kFileTypeRefused, "__init__.py");
}

TEST_F(SignVerifyTest, EmptyModelsAreRefused) {
  SignOptions options = Signing();
  options.model_path = (root_ / "nothing").string();
  EXPECT_EQ(ReasonOf(SignModel(options).status()), Reason::kFileUnreadable);
  fs::create_directories(root_ / "nothing");
  EXPECT_EQ(ReasonOf(SignModel(options).status()), Reason::kFileMissing);
}

TEST_F(SignVerifyTest, SingleFileModels) {
  SignOptions options = Signing();
  options.model_path = ModelFile().string();
  Sign(options);
  VerifyOptions verify = Verifying();
  verify.model_path = options.model_path;
  ExpectAccepted(verify);
  verify.digests = DigestChoice::kAll;
  ExpectAccepted(verify);
  FlipBit(ModelFile(), kMiB);
  const auto findings = ExpectRefused(verify, Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(findings[0].detail, HasSubstr("MiB 1"));
  FlipBit(ModelFile(), kMiB);
  // The directory is another thing than the file.
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model");
  verify.model_path = ModelFile("config.json").string();
  ExpectRefused(verify, Reason::kContentMismatch, "config.json");
}

TEST_F(SignVerifyTest, TwoSignedDigestsOfDifferentContentsAreCaughtByAllDigests) {
  // The signer's annotation describes the file that is there, its OMS digest another one.
  MakeModel(root_ / "other", 2);
  SignOptions options = Signing();
  const auto here = DigestModel(options);
  options.model_path = (root_ / "other").string();
  const auto other = DigestModel(options);
  ASSERT_TRUE(here.ok() && other.ok());
  Statement forged = here->statement;
  for (size_t i = 0; i < forged.resources.size(); ++i) {
    forged.resources[i].digest = other->statement.resources[i].digest;
  }
  SignStatement(forged, root_ / "model.sig");
  VerifyOptions verify = Verifying();
  ExpectAccepted(verify);  // and its result says that only the annotation was read
  EXPECT_THAT((*ModelVerifier::Verify(verify))->digests_read, ElementsAre("blake3-annotation"));
  verify.digests = DigestChoice::kOms;
  ExpectRefused(verify, Reason::kContentMismatch, "model.safetensors");
  verify.digests = DigestChoice::kAll;
  const auto findings = ExpectRefused(verify, Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(findings.front().detail, HasSubstr("describe different contents"));

  // Tensor digests that disagree with the file's root.
  forged = here->statement;
  for (Resource& resource : forged.resources) {
    if (resource.path == "model.safetensors") resource.annotation->tensors[2].blake3[0] ^= 1;
  }
  SignStatement(forged, root_ / "model.sig");
  ExpectAccepted(Verifying());
  const auto tensor = ExpectRefused(verify, Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(tensor.front().detail, HasSubstr("c (F32 [100]"));

  // A tensor table that the header does not bear out.
  forged = here->statement;
  for (Resource& resource : forged.resources) {
    if (resource.path == "model.safetensors") resource.annotation->tensors[0].tensor.dtype = "I32";
  }
  SignStatement(forged, root_ / "model.sig");
  const auto table = ExpectRefused(verify, Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(table.front().detail, HasSubstr("header"));
}

TEST_F(SignVerifyTest, ASingleFileSignedUnderItsNameIsRead) {
  // The specification's spelling of a single-file model.
  SignOptions options = Signing();
  options.model_path = ModelFile("config.json").string();
  options.annotate = false;
  auto report = DigestModel(options);
  ASSERT_TRUE(report.ok());
  report->statement.resources[0].path = "config.json";
  SignStatement(report->statement, root_ / "model.sig");
  VerifyOptions verify = Verifying();
  verify.model_path = options.model_path;
  ExpectAccepted(verify);
  FlipBit(ModelFile("config.json"), 3);
  ExpectRefused(verify, Reason::kContentMismatch, "config.json");
}

TEST_F(SignVerifyTest, PartsVerifyAlone) {
  Sign();
  VerifyOptions tensor = Verifying();
  tensor.tensors = {"c"};
  const auto verified = ModelVerifier::Verify(tensor);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_TRUE((*verified)->partial);
  EXPECT_THAT((*verified)->tensors_checked, ElementsAre("c"));
  EXPECT_EQ((*verified)->bytes_checked, 400u);
  EXPECT_THAT((*verified)->digests_read, ElementsAre("tensor-digests"));

  const uint64_t size = fs::file_size(ModelFile());
  // Damage elsewhere is not looked at; damage inside is found.
  FlipBit(ModelFile(), kMiB + 5);  // tensor b
  ExpectAccepted(tensor);
  tensor.tensors = {"[bc]"};
  const auto findings = ExpectRefused(tensor, Reason::kContentMismatch, "model.safetensors");
  EXPECT_THAT(findings[0].detail, HasSubstr("damaged tensor: b"));

  VerifyOptions range = Verifying();
  range.ranges = {{"model.safetensors", 2 * kMiB + 7, 2 * kMiB + 9}};
  ExpectAccepted(range);
  EXPECT_EQ((*ModelVerifier::Verify(range))->bytes_checked, kMiB);
  range.ranges = {{"model.safetensors", kMiB - 1, kMiB + 1}};
  EXPECT_THAT(ExpectRefused(range, Reason::kContentMismatch, "model.safetensors")[0].detail,
              HasSubstr("(MiB 1)"));
  range.ranges = {{"config.json", 0, 3}};
  ExpectAccepted(range);
  // Ranges of one file share what they both touch.
  range.ranges = {{"model.safetensors", 0, 5},
                  {"config.json", 0, 3},
                  {"model.safetensors", 3, 9},
                  {"model.safetensors", 2 * kMiB, 2 * kMiB + 9}};
  const auto shared = ModelVerifier::Verify(range);
  ASSERT_TRUE(shared.ok()) << shared.status();
  EXPECT_EQ((*shared)->ranges_checked.size(), 4u);
  EXPECT_EQ((*shared)->files_checked, 2u);
  EXPECT_EQ((*shared)->bytes_checked, 2 * kMiB + fs::file_size(root_ / "model/config.json"));

  range.ranges = {{"model.safetensors", 5, 5}};
  EXPECT_EQ(ExitCodeOf(ModelVerifier::Verify(range).status()), 2);
  range.ranges = {{"model.safetensors", 0, size + 1}};
  EXPECT_EQ(ExitCodeOf(ModelVerifier::Verify(range).status()), 2);
  range.ranges = {{"absent", 0, 1}};
  ExpectRefused(range, Reason::kFileMissing, "absent");
  tensor.tensors = {"nope*"};
  ExpectRefused(tensor, Reason::kFileMissing, "nope*");
  range.ranges = {{"model.safetensors", 0, 1}};
  fs::remove(root_ / "model.sig.tree");
  ExpectRefused(range, Reason::kFileMissing, "model.sig.tree");
}

TEST_F(SignVerifyTest, APartIsRefusedWhenTheHeaderNamesOtherTensors) {
  Sign();
  // Same length, same data, but "a" and "b" have changed their names.
  std::string bytes = Slurp(ModelFile());
  bytes[bytes.find("\"a\"") + 1] = 'x';
  Spill(ModelFile(), bytes);
  VerifyOptions tensor = Verifying();
  tensor.tensors = {"c"};
  ExpectRefused(tensor, Reason::kContentMismatch, "model.safetensors");
  // Files that are missing, unsigned or of another length are not overlooked either.
  bytes[bytes.find("\"x\"") + 1] = 'a';
  Spill(ModelFile(), bytes);
  ExpectAccepted(tensor);
  Spill(ModelFile("extra"), "x");
  ExpectRefused(tensor, Reason::kFileUnsigned, "extra");
}

// A clock that lies after every file written so far, as the kernel stamps them.
absl::Time AfterAllWrites() { return absl::Now() + absl::Milliseconds(200); }

// Writes until the kernel stamps the file later than `time`.
void WriteAfter(absl::Time time, const fs::path& path, const std::function<void()>& write) {
  struct stat status;
  do {
    write();
    ASSERT_EQ(stat(path.c_str(), &status), 0);
  } while (absl::TimeFromTimespec(status.st_ctim) < time);
}

class IncrementalTest : public SignVerifyTest {
 protected:
  SignReport SignFirst(hash::Algorithm algorithm, SerializationMethod method) {
    options_ = Signing();
    options_.serialization.hash_type = algorithm;
    options_.serialization.method = method;
    options_.serialization.shard_size_bytes = kMiB;
    hashed_at_ = AfterAllWrites();
    const FixedClock clock(hashed_at_);
    options_.clock = &clock;
    auto report = SignModel(options_);
    options_.clock = &SystemClock();
    EXPECT_TRUE(report.ok()) << report.status();
    return report.ok() ? *report : SignReport();
  }
  absl::StatusOr<SignReport> SignAgain(std::vector<std::string> changed_tensors) {
    options_.incremental =
        IncrementalOptions{options_.signature_path, "", std::move(changed_tensors)};
    return SignModel(options_);
  }
  void ChangeTensorC() {
    // Tensor c follows a and b; it lies in the third MiB.
    const std::string bytes = Slurp(ModelFile());
    const uint64_t header =
        8 + static_cast<uint8_t>(bytes[0]) + 256 * static_cast<uint8_t>(bytes[1]);
    const uint64_t offset = header + 600'000 * 4 + 17;
    WriteAfter(hashed_at_, ModelFile(), [&] { FlipBit(ModelFile(), offset); });
    FlipBit(ModelFile(), offset);
    if (Slurp(ModelFile()) == bytes) FlipBit(ModelFile(), offset);
  }
  void ExpectAllDigestsMatch() {
    VerifyOptions verify = Verifying();
    verify.digests = DigestChoice::kAll;
    ExpectAccepted(verify);
  }

  SignOptions options_;
  absl::Time hashed_at_;
};

TEST_F(IncrementalTest, NothingWrittenNothingHashed) {
  SignFirst(hash::Algorithm::kSha256, SerializationMethod::kFiles);
  const std::string before = Slurp(root_ / "model.sig");
  const auto report = SignAgain({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes_hashed, 0u);
  EXPECT_EQ(report->files_reused, 4u);
  ExpectAllDigestsMatch();
}

TEST_F(IncrementalTest, OnlyTheChangedTensorsRangesAreHashed) {
  int cases = 0;
  for (const auto& [algorithm, method] :
       {std::pair{hash::Algorithm::kBlake3, SerializationMethod::kFiles},
        {hash::Algorithm::kSha256, SerializationMethod::kShards}}) {
    SignFirst(algorithm, method);
    ChangeTensorC();
    ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
    const auto report = SignAgain({"c"});
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_GT(report->bytes_hashed, 0u);
    // The shards method has no entry for the empty file.
    EXPECT_EQ(report->files_reused, method == SerializationMethod::kFiles ? 3u : 2u);
    ExpectAllDigestsMatch();
    ++cases;
  }
  EXPECT_EQ(cases, 2);
}

TEST_F(IncrementalTest, OnlyRangesThatChangedDragTheirNeighboursIn) {
  SignFirst(hash::Algorithm::kBlake3, SerializationMethod::kFiles);
  ChangeTensorC();  // the third MiB: ends b, holds c, begins d
  const auto report = SignAgain({"c"});
  ASSERT_TRUE(report.ok()) << report.status();
  // The header's MiB and the third for their chaining values; b, c and d for their digests. The
  // first MiB has not changed, so tensor a is not read.
  EXPECT_EQ(report->bytes_hashed, 2 * kMiB + 4 * (400'000 + 100 + 300'001));
  ExpectAllDigestsMatch();
}

TEST_F(IncrementalTest, ASerialDigestNeedsTheWholeFile) {
  SignFirst(hash::Algorithm::kSha256, SerializationMethod::kFiles);
  ChangeTensorC();
  const auto report = SignAgain({"c"});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_EQ(report->bytes_hashed, fs::file_size(ModelFile()));
  ExpectAllDigestsMatch();
}

TEST_F(IncrementalTest, AWrongDeclarationNeverVerifies) {
  SignFirst(hash::Algorithm::kBlake3, SerializationMethod::kFiles);
  ChangeTensorC();
  const auto report = SignAgain({"a"});  // it was c
  ASSERT_TRUE(report.ok()) << report.status();
  ExpectRefused(Verifying(), Reason::kContentMismatch, "model.safetensors");
}

TEST_F(IncrementalTest, UndeclaredFilesAreFoundByTheirTimes) {
  SignFirst(hash::Algorithm::kBlake3, SerializationMethod::kFiles);
  ChangeTensorC();
  WriteAfter(hashed_at_, ModelFile("config.json"),
             [&] { Spill(ModelFile("config.json"), "{\"seed\": 9}"); });
  Spill(ModelFile("new.txt"), "new");
  fs::remove(ModelFile("sub/notes.txt"));
  const auto report = SignAgain({"c"});
  ASSERT_TRUE(report.ok()) << report.status();
  ExpectAllDigestsMatch();
}

TEST_F(IncrementalTest, ANewLayoutIsHashedWhole) {
  SignFirst(hash::Algorithm::kBlake3, SerializationMethod::kFiles);
  WriteAfter(hashed_at_, ModelFile(), [&] {
    Spill(ModelFile(), SafetensorsBytes({{"c", 300'000}, {"b", 400'000}, {"a", 200'101}}, 5));
  });
  const auto report = SignAgain({"c"});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GE(report->bytes_hashed, fs::file_size(ModelFile()));
  ExpectAllDigestsMatch();
}

TEST_F(IncrementalTest, AnotherSignersDigestsAreNotReused) {
  SignFirst(hash::Algorithm::kBlake3, SerializationMethod::kFiles);
  options_.signer = &OtherKey();
  EXPECT_EQ(ReasonOf(SignAgain({}).status()), Reason::kSignatureInvalid);
}

// An attacker without a key puts another signature of the same signer, and its outboard file, in
// place of the previous pair: nothing of the other model may go into the new signature.
TEST_F(IncrementalTest, APreviousSignatureOfAnotherModelIsNotReused) {
  MakeModel(root_ / "other", 2);
  options_ = Signing();
  options_.serialization.hash_type = hash::Algorithm::kBlake3;
  SignOptions other = options_;
  other.model_path = (root_ / "other").string();
  const FixedClock clock(AfterAllWrites());
  other.clock = &clock;
  Sign(other);                                                            // over model.sig
  EXPECT_EQ(ReasonOf(SignAgain({}).status()), Reason::kContentMismatch);  // another name

  other.model_name = "model";
  Sign(other);
  for (const std::vector<std::string>& changed : {std::vector<std::string>{}, {"c"}}) {
    const auto report = SignAgain(changed);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->files_reused, 0u);
    EXPECT_GE(report->bytes_hashed, fs::file_size(ModelFile()));
    ExpectAllDigestsMatch();
    Sign(other);
  }
}

TEST_F(IncrementalTest, APreviousOutboardOfAnotherModelIsNotReused) {
  SignFirst(hash::Algorithm::kBlake3, SerializationMethod::kFiles);
  MakeModel(root_ / "other", 2);
  SignOptions other = Signing();
  other.model_path = (root_ / "other").string();
  other.signature_path = (root_ / "other.sig").string();
  Sign(other);
  fs::copy_file(root_ / "other.sig.tree", root_ / "model.sig.tree",
                fs::copy_options::overwrite_existing);
  const auto report = SignAgain({});
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_GE(report->bytes_hashed, fs::file_size(ModelFile()));
  ExpectAllDigestsMatch();
}

TEST_F(SignVerifyTest, FipsUsesShaAndSaysSo) {
  SignOptions options = Signing();
  options.fips = true;
  const auto report = SignModel(options);
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_THAT(report->fips_provider.value_or(""), HasSubstr("OpenSSL"));
  EXPECT_EQ(report->sha256_by, "OpenSSL");
  EXPECT_EQ(DigestModel(options)->sha256_by, "OpenSSL");
  EXPECT_FALSE(fs::exists(root_ / "model.sig.tree"));
  for (const Resource& resource : report->statement.resources) {
    EXPECT_EQ(resource.algorithm, "sha256");
    EXPECT_FALSE(resource.annotation.has_value());
  }
  VerifyOptions verify = Verifying();
  verify.fips = true;
  const auto verified = ModelVerifier::Verify(verify);
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_THAT((*verified)->digests_read, ElementsAre("oms"));
  EXPECT_TRUE((*verified)->fips_provider.has_value());
  EXPECT_EQ((*verified)->sha256_by, "OpenSSL");

  options.serialization.hash_type = hash::Algorithm::kBlake3;
  EXPECT_EQ(ExitCodeOf(SignModel(options).status()), 2);
  options.fips = false;
  Sign(options);
  ExpectRefused(verify, Reason::kUnsupported, "model.sig");
  // An annotated sha256 signature is verified by SHA-256 alone.
  Sign();
  EXPECT_THAT((*ModelVerifier::Verify(verify))->digests_read, ElementsAre("oms"));
}

TEST_F(SignVerifyTest, AModelsOldVersionIsRefusedByTheTrustPolicy) {
  SignOptions options = Signing();
  options.model_version = 3;
  Sign(options);
  VerifyOptions verify = Verifying();
  verify.policy.expected_model_name = "model";
  verify.policy.rules[0].minimum_version = 3;
  ExpectAccepted(verify);
  verify.policy.rules[0].minimum_version = 4;
  ExpectRefused(verify, Reason::kVersionTooOld, "");
  Sign();  // without a version
  verify.policy.rules[0].minimum_version = 1;
  ExpectRefused(verify, Reason::kVersionTooOld, "");
  verify.policy.rules[0].minimum_version = 0;
  ExpectAccepted(verify);
  verify.policy.expected_model_name = "another";
  ExpectRefused(verify, Reason::kPolicyDenied, "");
}

}  // namespace
}  // namespace pavise::signing
