#include "pavise/crypto/certificate_memory.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::crypto {
namespace {

using testing::AuthorityOptions;
using testing::CertificateOptions;
using testing::Issue;
using testing::MakeRoot;
using testing::TestCertificate;

const absl::Time kNow = absl::FromUnixSeconds(1'800'000'000);

using Certificates = std::vector<Certificate>;

Certificate Again(const Certificate& certificate) {
  return Certificate::FromDer(certificate.der(), "again").value();
}

// That the answer of the memory is VerifyChain's, whatever it remembers.
class VerifiedChains : public ::testing::Test {
 protected:
  absl::Status Verify(const Certificate& leaf, const Certificates& intermediates,
                      const Certificates& roots, absl::Time at = kNow, bool partial_chain = false) {
    const auto fresh = VerifyChain(leaf, intermediates, roots, at, partial_chain);
    const auto kept = memory_.Verify(leaf, intermediates, roots, at, partial_chain);
    EXPECT_EQ(kept.status(), fresh.status());
    if (kept.ok() && fresh.ok()) {
      EXPECT_EQ(kept->size(), fresh->size());
      for (size_t i = 0; i < std::min(kept->size(), fresh->size()); ++i) {
        EXPECT_EQ((*kept)[i].der(), (*fresh)[i].der());
      }
    }
    return kept.status();
  }

  TestCertificate root_ = MakeRoot(AuthorityOptions("root"));
  TestCertificate intermediate_ = Issue(root_, AuthorityOptions("intermediate"));
  TestCertificate leaf_ = Issue(intermediate_, CertificateOptions{});
  CertificateMemory memory_;
};

TEST_F(VerifiedChains, AreRemembered) {
  const auto first =
      memory_.Verify(leaf_.certificate, {intermediate_.certificate}, {root_.certificate}, kNow);
  ASSERT_TRUE(first.ok()) << first.status();
  // Certificates that were read again: those of the first time come back.
  const auto second = memory_.Verify(Again(leaf_.certificate), {Again(intermediate_.certificate)},
                                     {Again(root_.certificate)}, kNow + absl::Hours(24));
  ASSERT_TRUE(second.ok()) << second.status();
  ASSERT_EQ(second->size(), 3u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(&(*second)[i].native(), &(*first)[i].native());
  // Without a memory, nothing is.
  const auto none = VerifyChain(nullptr, Again(leaf_.certificate), {intermediate_.certificate},
                                {root_.certificate}, kNow);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_NE(&(*none)[0].native(), &(*first)[0].native());
}

TEST_F(VerifiedChains, EveryPeriodStillCounts) {
  const absl::Time begin = absl::FromUnixSeconds(1'750'000'000);
  const absl::Time end = absl::FromUnixSeconds(1'850'000'000);
  int executed = 0;
  // The narrow certificate at each place of the chain in turn.
  for (int narrow = 0; narrow < 3; ++narrow) {
    CertificateOptions options[3] = {AuthorityOptions("root"), AuthorityOptions("intermediate"),
                                     CertificateOptions{}};
    options[narrow].not_before = begin;
    options[narrow].not_after = end;
    const TestCertificate root = MakeRoot(options[0]);
    const TestCertificate intermediate = Issue(root, options[1]);
    const TestCertificate leaf = Issue(intermediate, options[2]);
    const auto verify = [&](absl::Time at) {
      // It is remembered, and good, right before it is asked for another time.
      EXPECT_TRUE(
          Verify(leaf.certificate, {intermediate.certificate}, {root.certificate}, kNow).ok());
      ++executed;
      return Verify(leaf.certificate, {intermediate.certificate}, {root.certificate}, at);
    };
    EXPECT_TRUE(verify(begin).ok());
    EXPECT_TRUE(verify(end - absl::Seconds(1)).ok());
    EXPECT_TRUE(verify(end - absl::Nanoseconds(1)).ok());
    for (const absl::Time at :
         {begin - absl::Nanoseconds(1), begin - absl::Seconds(1), end, end + absl::Seconds(1),
          absl::UnixEpoch(), absl::UnixEpoch() - absl::Hours(1), absl::InfinitePast(),
          absl::InfiniteFuture()}) {
      EXPECT_EQ(ReasonOf(verify(at)), Reason::kCertificateInvalid) << at;
    }
  }
  EXPECT_EQ(executed, 33);
}

// Which of two issuers of one name is looked at depends on the time, too.
TEST_F(VerifiedChains, PeriodsOfWhatIsNotInTheChainCountToo) {
  CertificateOptions later = AuthorityOptions("intermediate");
  later.not_before = kNow + absl::Hours(1);
  CertificateOptions earlier = AuthorityOptions("intermediate");
  earlier.not_after = kNow + absl::Hours(1);
  const TestCertificate new_one = Issue(root_, later);
  const TestCertificate old_one = Issue(root_, earlier);
  const TestCertificate leaf = Issue(old_one, CertificateOptions{});
  const Certificates intermediates = {new_one.certificate, old_one.certificate};
  EXPECT_TRUE(Verify(leaf.certificate, intermediates, {root_.certificate}).ok());
  EXPECT_FALSE(
      Verify(leaf.certificate, intermediates, {root_.certificate}, kNow + absl::Hours(2)).ok());
  EXPECT_TRUE(Verify(leaf.certificate, intermediates, {root_.certificate}).ok());
}

TEST_F(VerifiedChains, AnotherSetOfCertificatesIsVerifiedAnew) {
  const Certificates intermediates = {intermediate_.certificate};
  const Certificates roots = {root_.certificate};
  ASSERT_TRUE(Verify(leaf_.certificate, intermediates, roots).ok());
  const TestCertificate impostor = MakeRoot(AuthorityOptions("root"));
  EXPECT_FALSE(Verify(leaf_.certificate, intermediates, {impostor.certificate}).ok());
  EXPECT_FALSE(Verify(leaf_.certificate, intermediates, {}).ok());
  EXPECT_FALSE(Verify(leaf_.certificate, {}, roots).ok());
  // A root is none where it stands among the intermediates.
  EXPECT_FALSE(Verify(leaf_.certificate, {intermediate_.certificate, root_.certificate}, {}).ok());
  // An anchor in the middle is one with partial_chain only.
  EXPECT_TRUE(Verify(leaf_.certificate, {}, intermediates, kNow, true).ok());
  EXPECT_FALSE(Verify(leaf_.certificate, {}, intermediates, kNow, false).ok());
  // Signed by another authority of the same name.
  const TestCertificate forged =
      Issue(Issue(impostor, AuthorityOptions("intermediate")), CertificateOptions{});
  EXPECT_FALSE(Verify(forged.certificate, intermediates, roots).ok());
  EXPECT_TRUE(Verify(leaf_.certificate, intermediates, roots).ok());
}

TEST_F(VerifiedChains, AnyChangedByteIsVerifiedAnew) {
  ASSERT_TRUE(Verify(leaf_.certificate, {intermediate_.certificate}, {root_.certificate}).ok());
  int executed = 0;
  const Bytes der = leaf_.certificate.der();
  for (size_t i = 0; i < der.size(); ++i) {
    Bytes changed = der;
    changed[i] ^= 1;
    const auto certificate = Certificate::FromDer(changed, "changed");
    if (!certificate.ok()) continue;
    EXPECT_FALSE(Verify(*certificate, {intermediate_.certificate}, {root_.certificate}).ok()) << i;
    ++executed;
  }
  EXPECT_GT(executed, 100);
}

TEST_F(VerifiedChains, SeveralThreads) {
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&, i] {
      for (int j = 0; j < 20; ++j) {
        const absl::Time at = (i + j) % 2 == 0 ? kNow : leaf_.certificate.not_after();
        const auto chain =
            memory_.Verify(leaf_.certificate, {intermediate_.certificate}, {root_.certificate}, at);
        good += chain.ok() == (at == kNow) ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good, 80);
}

int reads = 0;

absl::StatusOr<Certificates> CountingReader(ByteSpan pem) {
  ++reads;
  return Certificate::ListFromPem(AsText(pem), "text");
}

TEST(ReadCertificates, AreRememberedWithinBounds) {
  const std::string pem = MakeRoot(AuthorityOptions("root")).certificate.ToPem();
  CertificateMemory memory;
  reads = 0;
  const auto read = [&](const std::string& text) {
    const int before = reads;
    const auto certificates = memory.Read(AsBytes(text), CountingReader);
    EXPECT_TRUE(certificates.ok()) << certificates.status();
    EXPECT_EQ(certificates->size(), 1u);
    return reads > before;
  };
  EXPECT_TRUE(read(pem));
  EXPECT_FALSE(read(pem));
  // Another reader's answer is its own.
  const auto other = memory.Read(
      AsBytes(pem), [](ByteSpan) -> absl::StatusOr<Certificates> { return Certificates(); });
  EXPECT_EQ(other->size(), 0u);
  for (size_t i = 1; i < CertificateMemory::kMaxTexts - 1; ++i) read(StrCat(i, "\n", pem));
  EXPECT_FALSE(read(pem));
  // Full: the next one takes the place of what was used longest ago, the other reader's answer.
  EXPECT_TRUE(read(StrCat("a\n", pem)));
  EXPECT_TRUE(read(StrCat("b\n", pem)));
  EXPECT_FALSE(read(pem));
  EXPECT_TRUE(read(StrCat("1\n", pem)));
  // Longer than what is kept.
  const std::string long_text = pem + std::string(CertificateMemory::kMaxTextBytes, '\n');
  EXPECT_TRUE(read(long_text));
  EXPECT_TRUE(read(long_text));
}

TEST(ReadCertificates, RefusalsAreNotKept) {
  CertificateMemory memory;
  reads = 0;
  for (int i = 1; i <= 2; ++i) {
    EXPECT_EQ(ReasonOf(memory.Read(AsBytes("nothing"), CountingReader).status()),
              Reason::kMalformed);
    EXPECT_EQ(reads, i);
  }
}

}  // namespace
}  // namespace pavise::crypto
