// The seeds of the fuzz targets (fuzz/make_signing_corpus.py): their names say the verdict. Finds
// of a fuzzer lie beside them under names without an extension, and are run by the corpus programs.
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "pavise/base/file.h"
#include "pavise/base/status.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"
#include "pavise/signing/bundle.h"
#include "pavise/signing/outboard.h"
#include "pavise/signing/sigstore.h"
#include "pavise/signing/statement.h"
#include "pavise/signing/trust_policy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::signing {
namespace {

struct Seeds {
  std::string target;  // folder below fuzz/corpus
  std::string extension;
  size_t accepted;
  size_t refused;
  std::function<absl::Status(ByteSpan, const std::string&)> parse;
};

class FuzzSeedsTest : public ::testing::TestWithParam<Seeds> {};

TEST_P(FuzzSeedsTest, GetTheVerdictOfTheirNames) {
  const Seeds& seeds = GetParam();
  const std::string corpus = std::string(PAVISE_SOURCE_DIR) + "/fuzz/corpus/" + seeds.target;
  size_t accepted = 0;
  size_t refused = 0;
  for (const std::string& path : crypto::testing::FilesBelow(corpus, seeds.extension)) {
    SCOPED_TRACE(path);
    const auto bytes = ReadFile(path, 1 << 20);
    ASSERT_TRUE(bytes.ok()) << bytes.status();
    const absl::Status status = seeds.parse(*bytes, path);
    if (std::filesystem::path(path).filename().string().starts_with("refused_")) {
      EXPECT_TRUE(ReasonOf(status).has_value()) << status;
      ++refused;
    } else {
      EXPECT_TRUE(status.ok()) << status;
      ++accepted;
    }
  }
  EXPECT_EQ(accepted, seeds.accepted);
  EXPECT_EQ(refused, seeds.refused);
}

// A trust file is read as if it lay beside the key that the seeds name.
absl::Status ParseBesideKey(ByteSpan yaml) {
  const pavise::testing::TemporaryDirectory folder;
  folder.Write("key.pub",
               "-----BEGIN PUBLIC KEY-----\n"
               "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n"
               "6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n"
               "-----END PUBLIC KEY-----\n");
  return ParseTrustPolicy(yaml, folder / "trust.yaml").status();
}

INSTANTIATE_TEST_SUITE_P(
    AllParsers, FuzzSeedsTest,
    ::testing::Values(
        Seeds{"bundle_fuzz", ".json", 6, 6,
              [](ByteSpan b, const std::string& p) { return ParseBundle(b, p).status(); }},
        Seeds{"statement_fuzz", ".json", 15, 11,
              [](ByteSpan b, const std::string& p) { return ParseStatement(b, p).status(); }},
        Seeds{"outboard_fuzz", ".tree", 4, 9,
              [](ByteSpan b, const std::string& p) { return ParseOutboard(b, p).status(); }},
        Seeds{"trust_policy_fuzz", ".yaml", 6, 13,
              [](ByteSpan b, const std::string&) { return ParseBesideKey(b); }},
        Seeds{"trusted_root_fuzz", ".json", 3, 5,
              [](ByteSpan b, const std::string& p) {
                return ParseSigstoreTrustedRoot(b, p).status();
              }}),
    [](const ::testing::TestParamInfo<Seeds>& seeds) { return seeds.param.target; });

}  // namespace
}  // namespace pavise::signing
