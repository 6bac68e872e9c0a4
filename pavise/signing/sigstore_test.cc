// A Sigstore of our own: authority, certificate log, transparency log. What it signs is accepted,
// and refused after every change to it. The public instance's signatures are in vectors_test.cc.

#include "pavise/signing/sigstore.h"

#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "pavise/base/json.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/testing/test_certificates.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::signing {
namespace {

using crypto::Certificate;
using crypto::KeyType;
using crypto::PrivateKey;
using crypto::testing::AuthorityOptions;
using crypto::testing::CertificateOptions;
using crypto::testing::TestCertificate;
using crypto::testing::Utf8StringDer;
using ::testing::HasSubstr;
using ::testing::SizeIs;

constexpr char kIssuerOid[] = "1.3.6.1.4.1.57264.1.8";
constexpr char kOldIssuerOid[] = "1.3.6.1.4.1.57264.1.1";
constexpr char kIssuer[] = "https://issuer.example";
constexpr int64_t kSignedAt = 1'750'000'000;

absl::Time Unix(int64_t seconds) { return absl::FromUnixSeconds(seconds); }

Bytes ToVector(const Digest32& digest) { return Bytes(digest.begin(), digest.end()); }

Digest32 LeafHash(const Bytes& body) {
  Bytes leaf = {0x00};
  leaf.insert(leaf.end(), body.begin(), body.end());
  return *crypto::Sha256(leaf);
}

Digest32 NodeHash(const Digest32& left, const Digest32& right) {
  Bytes node = {0x01};
  node.insert(node.end(), left.begin(), left.end());
  node.insert(node.end(), right.begin(), right.end());
  return *crypto::Sha256(node);
}

// RFC 6962, 2.1 and 2.1.1, word for word: the root over leaves, and the path of one of them.
size_t SplitOf(size_t count) {
  size_t split = 1;
  while (split * 2 < count) split *= 2;
  return split;
}

Digest32 TreeRoot(std::span<const Digest32> leaves) {
  if (leaves.size() == 1) return leaves[0];
  const size_t split = SplitOf(leaves.size());
  return NodeHash(TreeRoot(leaves.first(split)), TreeRoot(leaves.subspan(split)));
}

std::vector<Digest32> TreePath(size_t index, std::span<const Digest32> leaves) {
  if (leaves.size() == 1) return {};
  const size_t split = SplitOf(leaves.size());
  std::vector<Digest32> path;
  if (index < split) {
    path = TreePath(index, leaves.first(split));
    path.push_back(TreeRoot(leaves.subspan(split)));
  } else {
    path = TreePath(index - split, leaves.subspan(split));
    path.push_back(TreeRoot(leaves.first(split)));
  }
  return path;
}

// The signing certificate that Fulcio would issue.
CertificateOptions LeafOptions() {
  CertificateOptions options;
  options.common_name = "sigstore";
  options.not_before = Unix(kSignedAt - 60);
  options.not_after = Unix(kSignedAt + 540);
  options.subject_alternative_name = "email:alice@acme.example";
  const std::string_view issuer = kIssuer;
  options.extensions = {{kOldIssuerOid, Bytes(issuer.begin(), issuer.end())},
                        {kIssuerOid, Utf8StringDer(issuer)}};
  return options;
}

CertificateOptions FulcioOptions(const std::string& name) {
  CertificateOptions options = AuthorityOptions(name);
  options.not_before = Unix(1'600'000'000);
  options.not_after = Unix(2'000'000'000);
  return options;
}

// What to sign, and how to get it wrong.
struct SigningPlan {
  CertificateOptions leaf = LeafOptions();
  int scts = 1;
  const TestCertificate* issuer = nullptr;  // else the intermediate
  PrivateKey* ct_key = nullptr;             // else the certificate log's
  PrivateKey* promise_key = nullptr;        // else the transparency log's
  PrivateKey* checkpoint_key = nullptr;
  PrivateKey* envelope_key = nullptr;  // else the leaf's
  int64_t integrated_time_s = kSignedAt;
  std::string kind = "dsse";
  std::string kind_version = "0.0.1";
  std::function<void(Json&)> change_body;
  std::optional<std::string> body_text;  // in place of the body
  size_t tree_size = 5;
  size_t index = 2;
  std::string payload = R"({"_type":"https://in-toto.io/Statement/v1"})";
  // The whole note but the log's signature line; {} for what belongs there.
  std::string note_text;
  std::string signature_name = "rekor.example";
  std::string other_signature_lines;
};

class SigstoreTest : public ::testing::Test {
 protected:
  static PrivateKey NewKey(KeyType type = KeyType::kEcP256) { return *PrivateKey::Generate(type); }

  SigstoreTest()
      : root_(MakeRoot(FulcioOptions("root"))),
        intermediate_(Issue(root_, FulcioOptions("intermediate"))),
        rekor_(NewKey()),
        ct_log_(NewKey()),
        other_(NewKey()) {}

  SigstoreTrustedRoot Root() const {
    SigstoreTrustedRoot root;
    root.rekor_logs.push_back({.key = rekor_.public_key(),
                               .log_key_id = KeyId(rekor_),
                               .base_url = "https://rekor.example"});
    root.ct_logs.push_back({ct_log_.public_key()});
    root.fulcio.push_back({.chain = {intermediate_.certificate, root_.certificate}});
    return root;
  }

  static Bytes KeyId(const PrivateKey& key) {
    return ToVector(*crypto::Sha256(key.public_key().der()));
  }

  static Bytes SignEntry(const TlogEntry& entry, PrivateKey& key) {
    // Built by the JSON library, which writes members by name and without spaces.
    const Json canonical = {{"body", ToBase64(entry.canonicalized_body)},
                            {"integratedTime", entry.integrated_time_s},
                            {"logID", ToHex(entry.log_key_id)},
                            {"logIndex", entry.log_index}};
    return *key.Sign(AsBytes(canonical.dump()));
  }

  static std::string SignNote(const std::string& text, const std::string& name, PrivateKey& key,
                              const Bytes& key_id) {
    Bytes line(key_id.begin(), key_id.begin() + 4);
    const Bytes signature = *key.Sign(AsBytes(text));
    line.insert(line.end(), signature.begin(), signature.end());
    return StrCat("\xe2\x80\x94 ", name, " ", ToBase64(line), "\n");
  }

  static std::string NoteText(const InclusionProof& proof) {
    return StrCat("rekor.example - 42\n", proof.tree_size, "\n", ToBase64(proof.root_hash), "\n");
  }

  Json Body(const SigningPlan& plan, const Bundle& bundle, const Certificate& leaf) const {
    const std::string hash = ToHex(*crypto::Sha256(bundle.payload));
    const std::string pem = ToBase64(AsBytes(leaf.ToPem()));
    Json body = {{"apiVersion", plan.kind_version}, {"kind", plan.kind}};
    if (plan.kind == "intoto") {
      body["spec"]["content"] = {
          {"envelope",
           {{"payloadType", bundle.payload_type},
            {"signatures",
             {{{"publicKey", pem}, {"sig", ToBase64(AsBytes(ToBase64(bundle.signature)))}}}}}},
          {"hash", {{"algorithm", "sha256"}, {"value", std::string(64, '0')}}},
          {"payloadHash", {{"algorithm", "sha256"}, {"value", hash}}}};
    } else {
      body["spec"] = {
          {"envelopeHash", {{"algorithm", "sha256"}, {"value", std::string(64, '0')}}},
          {"payloadHash", {{"algorithm", "sha256"}, {"value", hash}}},
          {"signatures", {{{"signature", ToBase64(bundle.signature)}, {"verifier", pem}}}}};
    }
    return body;
  }

  Bundle Sign(const SigningPlan& plan = {}) {
    const TestCertificate& issuer = plan.issuer != nullptr ? *plan.issuer : intermediate_;
    TestCertificate leaf =
        plan.scts == 0
            ? Issue(issuer, plan.leaf)
            : IssueWithScts(issuer, plan.leaf, plan.ct_key != nullptr ? *plan.ct_key : ct_log_,
                            Unix(kSignedAt - 60), plan.scts);
    Bundle bundle;
    bundle.method = Method::kSigstore;
    bundle.certificates = {leaf.certificate.der()};
    bundle.payload_type = kInTotoPayloadType;
    bundle.payload = Bytes(plan.payload.begin(), plan.payload.end());
    PrivateKey& envelope_key = plan.envelope_key != nullptr ? *plan.envelope_key : leaf.key;
    bundle.signature =
        *envelope_key.Sign(PreAuthenticationEncoding(bundle.payload_type, bundle.payload));

    TlogEntry entry;
    entry.log_index = 1'000'000 + plan.index;
    entry.log_key_id = KeyId(rekor_);
    entry.kind = plan.kind;
    entry.kind_version = plan.kind_version;
    entry.integrated_time_s = plan.integrated_time_s;
    Json body = Body(plan, bundle, leaf.certificate);
    if (plan.change_body) plan.change_body(body);
    const std::string text = plan.body_text.value_or(body.dump());
    entry.canonicalized_body = Bytes(text.begin(), text.end());

    std::vector<Digest32> leaves;
    for (size_t i = 0; i < plan.tree_size; ++i) {
      leaves.push_back(i == plan.index ? LeafHash(entry.canonicalized_body)
                                       : LeafHash({static_cast<uint8_t>(i)}));
    }
    InclusionProof proof;
    proof.log_index = plan.index;
    proof.tree_size = plan.tree_size;
    proof.root_hash = ToVector(TreeRoot(leaves));
    for (const Digest32& hash : TreePath(plan.index, leaves)) {
      proof.hashes.push_back(ToVector(hash));
    }
    const std::string note = plan.note_text.empty() ? NoteText(proof) : plan.note_text;
    proof.checkpoint = StrCat(
        note, "\n", plan.other_signature_lines,
        SignNote(note, plan.signature_name,
                 plan.checkpoint_key != nullptr ? *plan.checkpoint_key : rekor_, KeyId(rekor_)));
    entry.inclusion_proof = proof;
    entry.signed_entry_timestamp =
        SignEntry(entry, plan.promise_key != nullptr ? *plan.promise_key : rekor_);
    bundle.tlog_entries = {entry};
    return bundle;
  }

  std::string Verdict(const Bundle& bundle) const { return Verdict(bundle, Root()); }
  static std::string Verdict(const Bundle& bundle, const SigstoreTrustedRoot& root) {
    const absl::Status status = VerifySigstoreBundle(bundle, root).status();
    if (status.ok()) return "accepted";
    const std::optional<Reason> reason = ReasonOf(status);
    return reason.has_value() ? std::string(ReasonName(*reason)) : status.ToString();
  }

  std::string MessageOf(const Bundle& bundle) const {
    return std::string(VerifySigstoreBundle(bundle, Root()).status().ToString());
  }

  TestCertificate root_;
  TestCertificate intermediate_;
  PrivateKey rekor_;
  PrivateKey ct_log_;
  PrivateKey other_;
};

TEST_F(SigstoreTest, AcceptsWhatItsSigstoreSigned) {
  const absl::StatusOr<SigstoreIdentity> identity = VerifySigstoreBundle(Sign(), Root());
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->identity, "alice@acme.example");
  EXPECT_EQ(identity->issuer, kIssuer);
  EXPECT_EQ(identity->signed_at, Unix(kSignedAt));
  ASSERT_THAT(identity->chain, SizeIs(3));
  EXPECT_EQ(identity->chain[1].der(), intermediate_.certificate.der());
  EXPECT_EQ(identity->chain[2].der(), root_.certificate.der());
}

TEST_F(SigstoreTest, AcceptsEveryOmsCurveAndAnIntotoEntry) {
  for (const KeyType type : {KeyType::kEcP256, KeyType::kEcP384, KeyType::kEcP521}) {
    SigningPlan plan;
    plan.leaf.key_type = type;
    EXPECT_EQ(Verdict(Sign(plan)), "accepted") << crypto::KeyTypeName(type);
  }
  SigningPlan plan;
  plan.kind = "intoto";
  plan.kind_version = "0.0.2";
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
}

TEST_F(SigstoreTest, AcceptsARootThatIssuesItself) {
  SigningPlan plan;
  plan.issuer = &root_;
  SigstoreTrustedRoot root = Root();
  root.fulcio[0].chain = {root_.certificate};
  EXPECT_EQ(Verdict(Sign(plan), root), "accepted");
  // The intermediate alone as the anchor: the file names it.
  root.fulcio[0].chain = {intermediate_.certificate};
  EXPECT_EQ(Verdict(Sign(), root), "accepted");
  EXPECT_EQ(Verdict(Sign(plan), root), "certificate-invalid");
}

// Inclusion proofs.

TEST_F(SigstoreTest, AcceptsEveryLeafOfEverySmallTree) {
  int executed = 0;
  for (size_t size = 1; size <= 17; ++size) {
    for (size_t index = 0; index < size; ++index) {
      SigningPlan plan;
      plan.tree_size = size;
      plan.index = index;
      EXPECT_EQ(Verdict(Sign(plan)), "accepted") << "leaf " << index << " of " << size;
      ++executed;
    }
  }
  EXPECT_EQ(executed, 153);
}

// The root that RFC 9162, 2.1.3.2 computes from a path, which climbs by other rules than ours.
struct PathEnd {
  Digest32 root;
  bool complete = false;
};
PathEnd ClimbRfc9162(uint64_t index, uint64_t size, const Digest32& leaf,
                     const std::vector<Bytes>& hashes) {
  uint64_t fn = index;
  uint64_t sn = size - 1;
  Digest32 node = leaf;
  for (const Bytes& hash : hashes) {
    if (sn == 0) return {node, false};
    Digest32 sibling;
    std::copy(hash.begin(), hash.end(), sibling.begin());
    if ((fn & 1) != 0 || fn == sn) {
      node = NodeHash(sibling, node);
      while ((fn & 1) == 0 && fn != 0) {
        fn >>= 1;
        sn >>= 1;
      }
    } else {
      node = NodeHash(node, sibling);
    }
    fn >>= 1;
    sn >>= 1;
  }
  return {node, sn == 0};
}

TEST_F(SigstoreTest, AgreesWithRfc9162OnLargeTrees) {
  std::mt19937_64 generator(20251120);
  const Bundle base = Sign();
  const Digest32 leaf = LeafHash(base.tlog_entries[0].canonicalized_body);
  int accepted = 0;
  for (int i = 0; i < 120; ++i) {
    // The edges of the range that a bundle can say, and beyond, first.
    const uint64_t size = i == 0   ? uint64_t{1} << 63
                          : i == 1 ? ~uint64_t{0}
                                   : (generator() >> (generator() % 60)) | 2;
    const uint64_t index = i % 3 == 0 ? size - 1 : generator() % size;
    Bundle bundle = base;
    InclusionProof& proof = *bundle.tlog_entries[0].inclusion_proof;
    proof.log_index = index;
    proof.tree_size = size;
    proof.hashes.clear();
    while (!ClimbRfc9162(index, size, leaf, proof.hashes).complete) {
      ASSERT_LT(proof.hashes.size(), 65u);
      Bytes hash(32);
      for (uint8_t& byte : hash) byte = static_cast<uint8_t>(generator());
      proof.hashes.push_back(hash);
    }
    proof.root_hash = ToVector(ClimbRfc9162(index, size, leaf, proof.hashes).root);
    const auto sign = [&] {
      const std::string note = NoteText(proof);
      proof.checkpoint = StrCat(note, "\n", SignNote(note, "rekor.example", rekor_, KeyId(rekor_)));
    };
    sign();
    EXPECT_EQ(Verdict(bundle), "accepted") << index << " of " << size;
    accepted += Verdict(bundle) == "accepted";
    // One hash too many, one too few, with everything else in order.
    const std::vector<Bytes> hashes = proof.hashes;
    proof.hashes.push_back(Bytes(32));
    EXPECT_EQ(Verdict(bundle), "transparency-invalid");
    if (!hashes.empty()) {
      proof.hashes.assign(hashes.begin(), hashes.end() - 1);
      EXPECT_EQ(Verdict(bundle), "transparency-invalid");
    }
  }
  EXPECT_EQ(accepted, 120);
}

TEST_F(SigstoreTest, RefusesAChangedProof) {
  const Bundle base = Sign();
  struct Case {
    std::string name;
    std::function<void(InclusionProof&)> change;
  };
  const std::vector<Case> cases = {
      {"index", [](auto& p) { p.log_index = 3; }},
      {"index beyond the tree", [](auto& p) { p.log_index = 5; }},
      {"size", [](auto& p) { p.tree_size = 6; }},
      {"size 0", [](auto& p) { p.tree_size = 0; }},
      {"a hash", [](auto& p) { p.hashes[1][0] ^= 1; }},
      {"hashes swapped", [](auto& p) { std::swap(p.hashes[0], p.hashes[1]); }},
      {"a hash of 31 bytes", [](auto& p) { p.hashes[0].pop_back(); }},
      {"a hash of 33 bytes", [](auto& p) { p.hashes[0].push_back(0); }},
      {"a hash less", [](auto& p) { p.hashes.pop_back(); }},
      {"a hash more", [](auto& p) { p.hashes.push_back(Bytes(32)); }},
      {"no hashes", [](auto& p) { p.hashes.clear(); }},
      {"root", [](auto& p) { p.root_hash[31] ^= 1; }},
      {"root cut short", [](auto& p) { p.root_hash.pop_back(); }},
      {"no root", [](auto& p) { p.root_hash.clear(); }},
      {"no checkpoint", [](auto& p) { p.checkpoint.clear(); }},
  };
  for (const Case& c : cases) {
    Bundle bundle = base;
    c.change(*bundle.tlog_entries[0].inclusion_proof);
    EXPECT_EQ(Verdict(bundle), "transparency-invalid") << c.name;
  }
  EXPECT_THAT(cases, SizeIs(15));
}

// A leaf that is itself "0x01 || left || right" must not pass as an inner node, and the other way
// round: the prefixes keep them apart.
TEST_F(SigstoreTest, RefusesAnInnerNodeAsALeaf) {
  SigningPlan plan;
  plan.tree_size = 4;
  plan.index = 0;
  Bundle bundle = Sign(plan);
  InclusionProof& proof = *bundle.tlog_entries[0].inclusion_proof;
  // The same root from one level higher up.
  proof.tree_size = 2;
  proof.hashes.erase(proof.hashes.begin());
  const std::string note = NoteText(proof);
  proof.checkpoint = StrCat(note, "\n", SignNote(note, "rekor.example", rekor_, KeyId(rekor_)));
  EXPECT_EQ(Verdict(bundle), "transparency-invalid");
}

// Checkpoints.

TEST_F(SigstoreTest, RefusesACheckpointOfAnotherTree) {
  const Bundle base = Sign();
  SigningPlan larger;
  larger.tree_size = 9;
  const Bundle other = Sign(larger);
  Bundle bundle = base;
  bundle.tlog_entries[0].inclusion_proof->checkpoint =
      other.tlog_entries[0].inclusion_proof->checkpoint;
  EXPECT_EQ(Verdict(bundle), "transparency-invalid");
  EXPECT_THAT(MessageOf(bundle), HasSubstr("of a tree of 9"));
  // The same size, another root.
  SigningPlan same;
  same.payload = "{}";
  bundle.tlog_entries[0].inclusion_proof->checkpoint =
      Sign(same).tlog_entries[0].inclusion_proof->checkpoint;
  EXPECT_THAT(MessageOf(bundle), HasSubstr("another root"));
  // Proof and checkpoint of the other tree together.
  bundle.tlog_entries[0].inclusion_proof = other.tlog_entries[0].inclusion_proof;
  EXPECT_EQ(Verdict(bundle), "transparency-invalid");
}

TEST_F(SigstoreTest, RefusesACheckpointThatTheLogDidNotSign) {
  SigningPlan plan;
  plan.checkpoint_key = &other_;
  EXPECT_THAT(MessageOf(Sign(plan)), HasSubstr("the log's signature does not verify"));
  EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid");

  // Signed by another log, under its own hint.
  Bundle bundle = Sign();
  InclusionProof& proof = *bundle.tlog_entries[0].inclusion_proof;
  const std::string note = NoteText(proof);
  proof.checkpoint = StrCat(note, "\n", SignNote(note, "rekor.example", other_, KeyId(other_)));
  EXPECT_THAT(MessageOf(bundle), HasSubstr("not signed by the log that holds the entry"));
}

TEST_F(SigstoreTest, AcceptsWitnessesBesideTheLog) {
  SigningPlan plan;
  plan.other_signature_lines =
      StrCat("\xe2\x80\x94 witness.example ", ToBase64(Bytes(70, 7)), "\n");
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
}

TEST_F(SigstoreTest, RefusesCheckpointsOfAnotherForm) {
  const Bundle base = Sign();
  const std::string good = base.tlog_entries[0].inclusion_proof->checkpoint;
  const std::string note = NoteText(*base.tlog_entries[0].inclusion_proof);
  const std::string line = good.substr(note.size() + 1);
  const auto signed_as = [&](const std::string& text) {
    return StrCat(text, "\n", SignNote(text, "rekor.example", rekor_, KeyId(rekor_)));
  };
  const std::string root = ToBase64(base.tlog_entries[0].inclusion_proof->root_hash);
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"no signature", note + "\n"},
      {"no empty line", note + line},
      {"two empty lines", note + "\n\n" + line},
      {"text after the signatures", good + "text\n"},
      {"an empty line after the signatures", good + "\n"},
      {"no last newline", good.substr(0, good.size() - 1)},
      {"cut in the signature", good.substr(0, good.size() - 9) + "\n"},
      {"a dash for the em dash", note + "\n- " + line.substr(4)},
      {"no name", note + "\n\xe2\x80\x94  " + line.substr(line.rfind(' ') + 1)},
      {"only the hint",
       note + "\n\xe2\x80\x94 rekor.example " + ToBase64(ByteSpan(KeyId(rekor_)).first(4)) + "\n"},
      {"another name beside the signature",
       note + "\n\xe2\x80\x94 evil.example" + line.substr(line.rfind(' '))},
      {"two lines", signed_as("rekor.example - 42\n5\n")},
      {"a size with a zero before it", signed_as("rekor.example - 42\n05\n" + root + "\n")},
      {"a size with a sign", signed_as("rekor.example - 42\n+5\n" + root + "\n")},
      {"a root in hexadecimal",
       signed_as("rekor.example - 42\n5\n" +
                 ToHex(base.tlog_entries[0].inclusion_proof->root_hash) + "\n")},
      {"carriage returns", signed_as("rekor.example - 42\r\n5\r\n" + root + "\r\n")},
      {"no origin", signed_as("\n5\n" + root + "\n")},
  };
  for (const auto& [name, text] : cases) {
    Bundle bundle = base;
    bundle.tlog_entries[0].inclusion_proof->checkpoint = text;
    EXPECT_EQ(Verdict(bundle), "transparency-invalid") << name;
  }
  EXPECT_THAT(cases, SizeIs(17));

  Bundle bundle = base;
  bundle.tlog_entries[0].inclusion_proof->checkpoint = good + std::string(70'000, 'x') + "\n";
  EXPECT_EQ(Verdict(bundle), "limit-exceeded");
  std::string many = note + "\n";
  for (int i = 0; i < 65; ++i) many += "\xe2\x80\x94 w " + ToBase64(Bytes(9, 1)) + "\n";
  bundle.tlog_entries[0].inclusion_proof->checkpoint = many;
  EXPECT_EQ(Verdict(bundle), "limit-exceeded");
  // Further lines of the log's own are signed and allowed.
  bundle.tlog_entries[0].inclusion_proof->checkpoint = signed_as(note + "Timestamp: 1750000000\n");
  EXPECT_EQ(Verdict(bundle), "accepted");
}

// The signed entry timestamp.

TEST_F(SigstoreTest, RefusesAPromiseOfAnotherKeyOrEntry) {
  SigningPlan plan;
  plan.promise_key = &other_;
  EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid");

  const Bundle base = Sign();
  struct Case {
    std::string name;
    std::function<void(TlogEntry&)> change;
  };
  const std::vector<Case> cases = {
      {"another time", [](auto& e) { ++e.integrated_time_s; }},
      {"another index", [](auto& e) { ++e.log_index; }},
      {"no time", [](auto& e) { e.integrated_time_s = 0; }},
      {"time before 1970", [](auto& e) { e.integrated_time_s = -1; }},
      {"no promise", [](auto& e) { e.signed_entry_timestamp.reset(); }},
      {"empty promise", [](auto& e) { e.signed_entry_timestamp->clear(); }},
      {"promise cut short", [](auto& e) { e.signed_entry_timestamp->pop_back(); }},
      {"bytes after the promise", [](auto& e) { e.signed_entry_timestamp->push_back(0); }},
      {"no proof", [](auto& e) { e.inclusion_proof.reset(); }},
      {"a space in the body", [](auto& e) { e.canonicalized_body.push_back(' '); }},
      {"another log", [this](auto& e) { e.log_key_id = KeyId(other_); }},
      {"an identifier cut short", [](auto& e) { e.log_key_id.pop_back(); }},
      {"no identifier", [](auto& e) { e.log_key_id.clear(); }},
  };
  for (const Case& c : cases) {
    Bundle bundle = base;
    c.change(bundle.tlog_entries[0]);
    EXPECT_EQ(Verdict(bundle), "transparency-invalid") << c.name;
  }
  EXPECT_THAT(cases, SizeIs(13));
}

// The log lies about the time: its own signature does not help beyond the certificate's life.
TEST_F(SigstoreTest, RefusesACertificateUsedOutsideItsLife) {
  SigningPlan plan;
  // The last second, which RFC 5280 counts in and the library out, is refused too.
  plan.integrated_time_s = kSignedAt + 540;
  EXPECT_EQ(Verdict(Sign(plan)), "certificate-invalid");
  EXPECT_THAT(MessageOf(Sign(plan)), HasSubstr("expired on"));
  plan.integrated_time_s = kSignedAt + 539;
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
  plan.integrated_time_s = kSignedAt - 61;
  EXPECT_EQ(Verdict(Sign(plan)), "certificate-invalid");
  plan.integrated_time_s = kSignedAt - 60;
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
}

TEST_F(SigstoreTest, RefusesLogsAndAuthoritiesOutsideTheirPeriods) {
  const Bundle bundle = Sign();
  struct Case {
    std::string name;
    std::function<void(SigstoreTrustedRoot&)> change;
    std::string verdict;
  };
  const std::vector<Case> cases = {
      {"exactly the log's period",
       [](auto& r) {
         r.rekor_logs[0].valid_from = Unix(kSignedAt);
         r.rekor_logs[0].valid_until = Unix(kSignedAt);
       },
       "accepted"},
      {"log closed", [](auto& r) { r.rekor_logs[0].valid_until = Unix(kSignedAt - 1); },
       "transparency-invalid"},
      {"log not yet open", [](auto& r) { r.rekor_logs[0].valid_from = Unix(kSignedAt + 1); },
       "transparency-invalid"},
      {"log closed, but named again with another period",
       [](auto& r) {
         r.rekor_logs.push_back(r.rekor_logs[0]);
         r.rekor_logs[0].valid_until = Unix(kSignedAt - 1);
       },
       "accepted"},
      {"unknown log", [](auto& r) { r.rekor_logs.clear(); }, "transparency-invalid"},
      {"another key under the log's identifier",
       [this](auto& r) { r.rekor_logs[0].key = other_.public_key(); }, "transparency-invalid"},
      {"log with a key that Rekor v1 does not have",
       [](auto& r) { r.rekor_logs[0].key = NewKey(KeyType::kEcP384).public_key(); }, "unsupported"},
      {"certificate log closed", [](auto& r) { r.ct_logs[0].valid_until = Unix(kSignedAt - 61); },
       "transparency-invalid"},
      {"no certificate log", [](auto& r) { r.ct_logs.clear(); }, "transparency-invalid"},
      {"authority closed", [](auto& r) { r.fulcio[0].valid_until = Unix(kSignedAt - 1); },
       "certificate-invalid"},
      {"authority not yet open", [](auto& r) { r.fulcio[0].valid_from = Unix(kSignedAt + 1); },
       "certificate-invalid"},
      {"no authority", [](auto& r) { r.fulcio.clear(); }, "certificate-invalid"},
      {"an authority without certificates", [](auto& r) { r.fulcio[0].chain.clear(); },
       "certificate-invalid"},
      {"another authority",
       [](auto& r) { r.fulcio[0].chain = {MakeRoot(FulcioOptions("other")).certificate}; },
       "certificate-invalid"},
      {"another authority of the same name",
       [](auto& r) { r.fulcio[0].chain = {MakeRoot(FulcioOptions("intermediate")).certificate}; },
       "certificate-invalid"},
      {"the signing certificate as the authority",
       [&](auto& r) {
         r.fulcio[0].chain = {*Certificate::FromDer(bundle.certificates[0], "leaf")};
       },
       "certificate-invalid"},
      {"the right authority beside a wrong one",
       [](auto& r) {
         r.fulcio.insert(r.fulcio.begin(), {{MakeRoot(FulcioOptions("other")).certificate}});
       },
       "accepted"},
  };
  for (const Case& c : cases) {
    SigstoreTrustedRoot root = Root();
    c.change(root);
    EXPECT_EQ(Verdict(bundle, root), c.verdict) << c.name;
  }
  EXPECT_THAT(cases, SizeIs(17));
}

TEST_F(SigstoreTest, RefusesAnAuthorityThatHasExpired) {
  CertificateOptions options = FulcioOptions("old");
  options.not_after = Unix(kSignedAt - 1);
  const TestCertificate old = Issue(root_, options);
  SigningPlan plan;
  plan.issuer = &old;
  SigstoreTrustedRoot root = Root();
  root.fulcio[0].chain = {old.certificate, root_.certificate};
  EXPECT_EQ(Verdict(Sign(plan), root), "certificate-invalid");
}

// The body of the entry. Log, proof and promise are in order in all of these.

TEST_F(SigstoreTest, RefusesAnEntryAboutSomethingElse) {
  struct Case {
    std::string name;
    std::function<void(Json&)> change;
  };
  const std::string other_leaf =
      ToBase64(AsBytes(Issue(intermediate_, LeafOptions()).certificate.ToPem()));
  const std::vector<Case> cases = {
      {"another payload",
       [](Json& b) { b["spec"]["payloadHash"]["value"] = std::string(64, '0'); }},
      {"another hash", [](Json& b) { b["spec"]["payloadHash"]["algorithm"] = "sha512"; }},
      {"no payload hash", [](Json& b) { b["spec"].erase("payloadHash"); }},
      {"another signature",
       [](Json& b) { b["spec"]["signatures"][0]["signature"] = ToBase64(Bytes(70, 1)); }},
      {"no signature", [](Json& b) { b["spec"]["signatures"] = Json::array(); }},
      {"two signatures",
       [](Json& b) { b["spec"]["signatures"].push_back(b["spec"]["signatures"][0]); }},
      {"another certificate",
       [&](Json& b) { b["spec"]["signatures"][0]["verifier"] = other_leaf; }},
      {"two certificates",
       [&](Json& b) {
         std::string& verifier = b["spec"]["signatures"][0]["verifier"].get_ref<std::string&>();
         const Bytes both = *FromBase64(verifier, "");
         verifier = ToBase64(AsBytes(StrCat(AsText(both), AsText(both))));
       }},
      {"a verifier that is not base64",
       [](Json& b) { b["spec"]["signatures"][0]["verifier"] = "!"; }},
      {"a verifier that is no certificate",
       [](Json& b) { b["spec"]["signatures"][0]["verifier"] = "QUJD"; }},
      {"no verifier", [](Json& b) { b["spec"]["signatures"][0].erase("verifier"); }},
      {"a number as the signature", [](Json& b) { b["spec"]["signatures"][0]["signature"] = 1; }},
      {"no spec", [](Json& b) { b.erase("spec"); }},
      {"another kind", [](Json& b) { b["kind"] = "intoto"; }},
      {"another version", [](Json& b) { b["apiVersion"] = "0.0.2"; }},
      {"no kind", [](Json& b) { b.erase("kind"); }},
      {"an array", [](Json& b) { b = Json::array(); }},
  };
  for (const Case& c : cases) {
    SigningPlan plan;
    plan.change_body = c.change;
    EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid") << c.name;
  }
  EXPECT_THAT(cases, SizeIs(17));

  SigningPlan plan;
  for (const std::string text : {"", "{", "null", "{\"kind\":\"dsse\",\"kind\":\"dsse\"}"}) {
    plan.body_text = text;
    EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid") << text;
  }
  plan.body_text = std::string(2 << 20, ' ');
  EXPECT_EQ(Verdict(Sign(plan)), "limit-exceeded");
  plan.body_text = std::string(1000, '[');
  EXPECT_EQ(Verdict(Sign(plan)), "limit-exceeded");
  // Unknown members are the log's business.
  plan.body_text.reset();
  plan.change_body = [](Json& b) { b["spec"]["new"] = 1; };
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
}

TEST_F(SigstoreTest, RefusesAnIntotoEntryAboutSomethingElse) {
  struct Case {
    std::string name;
    std::function<void(Json&)> change;
  };
  const std::string other_leaf =
      ToBase64(AsBytes(Issue(intermediate_, LeafOptions()).certificate.ToPem()));
  const auto envelope = [](Json& b) -> Json& { return b["spec"]["content"]["envelope"]; };
  const std::vector<Case> cases = {
      {"payload", [](Json& b) { b["spec"]["content"]["payloadHash"]["value"] = "00"; }},
      {"type", [&](Json& b) { envelope(b)["payloadType"] = "text/plain"; }},
      {"signature", [&](Json& b) { envelope(b)["signatures"][0]["sig"] = ToBase64(Bytes(70, 1)); }},
      {"certificate", [&](Json& b) { envelope(b)["signatures"][0]["publicKey"] = other_leaf; }},
      {"two signatures",
       [&](Json& b) { envelope(b)["signatures"].push_back(envelope(b)["signatures"][0]); }},
      {"nothing", [](Json& b) { b["spec"] = Json::object(); }},
  };
  for (const Case& c : cases) {
    SigningPlan plan;
    plan.kind = "intoto";
    plan.kind_version = "0.0.2";
    plan.change_body = c.change;
    EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid") << c.name;
  }
  EXPECT_THAT(cases, SizeIs(6));
}

TEST_F(SigstoreTest, RefusesPartsOfAnotherSignature) {
  const Bundle a = Sign();
  SigningPlan plan;
  plan.payload = R"({"other":1})";
  const Bundle b = Sign(plan);
  Bundle changed = a;
  changed.payload = b.payload;
  EXPECT_EQ(Verdict(changed), "transparency-invalid");
  changed = a;
  changed.signature = b.signature;
  EXPECT_EQ(Verdict(changed), "transparency-invalid");
  // The same person, the same minute, another certificate.
  changed = a;
  changed.certificates = b.certificates;
  EXPECT_EQ(Verdict(changed), "transparency-invalid");
  changed = a;
  changed.tlog_entries = b.tlog_entries;
  EXPECT_EQ(Verdict(changed), "transparency-invalid");
}

TEST_F(SigstoreTest, RefusesEntriesThatItCannotJudge) {
  SigningPlan plan;
  plan.kind = "hashedrekord";
  EXPECT_EQ(Verdict(Sign(plan)), "unsupported");
  plan.kind = "alpine";
  EXPECT_EQ(Verdict(Sign(plan)), "unsupported");
  plan.kind = "intoto";
  plan.kind_version = "0.0.1";
  EXPECT_EQ(Verdict(Sign(plan)), "unsupported");
  plan.kind = "dsse";
  plan.kind_version = "0.0.9";
  EXPECT_EQ(Verdict(Sign(plan)), "unsupported");

  Bundle bundle = Sign();
  bundle.tlog_entries.push_back(bundle.tlog_entries[0]);
  EXPECT_EQ(Verdict(bundle), "unsupported");
  bundle.tlog_entries.clear();
  EXPECT_EQ(Verdict(bundle), "transparency-invalid");
  // Only the body that the log signed says what kind it is.
  bundle = Sign();
  bundle.tlog_entries[0].kind = "hashedrekord";
  EXPECT_EQ(Verdict(bundle), "unsupported");
}

TEST_F(SigstoreTest, SaysThatRekorV2IsNotSupported) {
  SigningPlan plan;
  plan.kind = "hashedrekord";
  plan.kind_version = "0.0.2";
  EXPECT_EQ(Verdict(Sign(plan)), "unsupported");
  EXPECT_THAT(MessageOf(Sign(plan)), HasSubstr("Rekor v2"));
  Bundle bundle = Sign();
  bundle.tlog_entries[0].integrated_time_s = 0;
  bundle.tlog_entries[0].signed_entry_timestamp.reset();
  EXPECT_EQ(Verdict(bundle), "unsupported");
  EXPECT_THAT(MessageOf(bundle), HasSubstr("RFC 3161"));
}

// The certificate.

TEST_F(SigstoreTest, RefusesACertificateWithoutATimestampOfAKnownLog) {
  SigningPlan plan;
  plan.scts = 0;
  EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid");
  plan.scts = 1;
  plan.ct_key = &other_;
  EXPECT_EQ(Verdict(Sign(plan)), "transparency-invalid");
  plan.scts = 3;
  plan.ct_key = nullptr;
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
}

TEST_F(SigstoreTest, RefusesACertificateThatMayNotSignCode) {
  SigningPlan plan;
  plan.leaf.extended_key_usage = "serverAuth";
  EXPECT_EQ(Verdict(Sign(plan)), "certificate-invalid");
  plan.leaf.extended_key_usage = "";
  EXPECT_EQ(Verdict(Sign(plan)), "certificate-invalid");
  plan.leaf = LeafOptions();
  plan.leaf.key_usage = "critical,keyAgreement";
  EXPECT_EQ(Verdict(Sign(plan)), "certificate-invalid");
  plan.leaf.key_usage = "";
  EXPECT_EQ(Verdict(Sign(plan)), "certificate-invalid");
  plan.leaf.key_usage = "critical,digitalSignature,keyAgreement";
  EXPECT_EQ(Verdict(Sign(plan)), "accepted");
}

TEST_F(SigstoreTest, RefusesAnEnvelopeThatAnotherKeySigned) {
  SigningPlan plan;
  plan.envelope_key = &other_;
  // Log and certificate agree on that signature.
  EXPECT_EQ(Verdict(Sign(plan)), "signature-invalid");
}

TEST_F(SigstoreTest, ReadsTheIdentity) {
  struct Case {
    std::string names;
    std::string verdict;
    std::string identity;
  };
  const std::string workflow =
      "https://github.com/acme/models/.github/workflows/sign.yml@refs/heads/main";
  const std::vector<Case> cases = {
      {"email:bob@acme.example", "accepted", "bob@acme.example"},
      {"URI:" + workflow, "accepted", workflow},
      {"otherName:1.3.6.1.4.1.57264.1.7;UTF8:alice!ci", "accepted", "alice!ci"},
      {"", "certificate-invalid", ""},
      {"email:a@acme.example,email:b@acme.example", "certificate-invalid", ""},
      {"email:a@acme.example,URI:https://b.example", "certificate-invalid", ""},
      {"IP:10.0.0.1", "certificate-invalid", ""},
  };
  for (const Case& c : cases) {
    SigningPlan plan;
    plan.leaf.subject_alternative_name = c.names;
    const absl::StatusOr<SigstoreIdentity> identity = VerifySigstoreBundle(Sign(plan), Root());
    EXPECT_EQ(Verdict(Sign(plan)), c.verdict) << c.names;
    if (identity.ok()) {
      EXPECT_EQ(identity->identity, c.identity);
    }
  }
  EXPECT_THAT(cases, SizeIs(7));
}

TEST_F(SigstoreTest, ReadsTheIssuer) {
  using Extensions = std::vector<std::pair<std::string, Bytes>>;
  const auto raw = [](std::string_view text) { return Bytes(text.begin(), text.end()); };
  Bytes cut = Utf8StringDer(kIssuer);
  cut.pop_back();
  Bytes longer = Utf8StringDer(kIssuer);
  longer.push_back('x');
  Bytes not_minimal = {0x0c, 0x81, 3, 'a', 'b', 'c'};
  const std::string long_name = "https://" + std::string(300, 'a') + ".example";
  struct Case {
    std::string name;
    Extensions extensions;
    std::string verdict;
    std::string issuer;
  };
  const std::vector<Case> cases = {
      {"new", {{kIssuerOid, Utf8StringDer("https://a")}}, "accepted", "https://a"},
      {"old", {{kOldIssuerOid, raw("https://b")}}, "accepted", "https://b"},
      {"long", {{kIssuerOid, Utf8StringDer(long_name)}}, "accepted", long_name},
      {"200 bytes",
       {{kIssuerOid, Utf8StringDer(std::string(200, 'a'))}},
       "accepted",
       std::string(200, 'a')},
      {"both",
       {{kIssuerOid, Utf8StringDer("https://a")}, {kOldIssuerOid, raw("https://a")}},
       "accepted",
       "https://a"},
      {"two",
       {{kIssuerOid, Utf8StringDer("https://a")}, {kOldIssuerOid, raw("https://b")}},
       "certificate-invalid",
       ""},
      {"none", {}, "certificate-invalid", ""},
      {"empty", {{kIssuerOid, Utf8StringDer("")}}, "certificate-invalid", ""},
      {"empty, old", {{kOldIssuerOid, {}}}, "certificate-invalid", ""},
      {"not DER", {{kIssuerOid, raw("https://a")}}, "certificate-invalid", ""},
      {"cut", {{kIssuerOid, cut}}, "certificate-invalid", ""},
      {"bytes after it", {{kIssuerOid, longer}}, "certificate-invalid", ""},
      {"length in another form", {{kIssuerOid, not_minimal}}, "certificate-invalid", ""},
      {"a control character",
       {{kIssuerOid, Utf8StringDer("https://a\n")}},
       "certificate-invalid",
       ""},
      {"not UTF-8", {{kIssuerOid, Utf8StringDer("\xff\xfe")}}, "certificate-invalid", ""},
      {"a NUL",
       {{kOldIssuerOid, raw(std::string_view("https://a\0b", 11))}},
       "certificate-invalid",
       ""},
  };
  for (const Case& c : cases) {
    SigningPlan plan;
    plan.leaf.extensions = c.extensions;
    const Bundle bundle = Sign(plan);
    EXPECT_EQ(Verdict(bundle), c.verdict) << c.name;
    const absl::StatusOr<SigstoreIdentity> identity = VerifySigstoreBundle(bundle, Root());
    if (identity.ok()) {
      EXPECT_EQ(identity->issuer, c.issuer);
    }
  }
  EXPECT_THAT(cases, SizeIs(16));
}

TEST_F(SigstoreTest, RefusesABundleOfAnotherMethod) {
  Bundle bundle = Sign();
  bundle.method = Method::kCertificate;
  EXPECT_EQ(Verdict(bundle), "malformed");
  bundle = Sign();
  bundle.certificates.push_back(intermediate_.certificate.der());
  EXPECT_EQ(Verdict(bundle), "malformed");
  bundle.certificates.clear();
  EXPECT_EQ(Verdict(bundle), "malformed");
}

// The trusted root file.

class TrustedRootTest : public SigstoreTest {
 protected:
  Json Log(const PrivateKey& key) const {
    return {{"baseUrl", "https://log.example"},
            {"hashAlgorithm", "SHA2_256"},
            {"publicKey",
             {{"rawBytes", ToBase64(key.public_key().der())},
              {"keyDetails", "PKIX_ECDSA_P256_SHA_256"},
              {"validFor", {{"start", "2021-01-12T11:53:27Z"}}}}},
            {"logId", {{"keyId", ToBase64(KeyId(key))}}}};
  }
  Json File() const {
    return {{"mediaType", "application/vnd.dev.sigstore.trustedroot+json;version=0.1"},
            {"tlogs", {Log(rekor_)}},
            {"ctlogs", {Log(ct_log_)}},
            {"certificateAuthorities",
             {{{"uri", "https://fulcio.example"},
               {"certChain",
                {{"certificates",
                  {{{"rawBytes", ToBase64(intermediate_.certificate.der())}},
                   {{"rawBytes", ToBase64(root_.certificate.der())}}}}}},
               {"validFor",
                {{"start", "2021-03-07T03:20:29Z"}, {"end", "2030-12-31T23:59:59.999Z"}}}}}}};
  }
  static absl::StatusOr<SigstoreTrustedRoot> Parse(const Json& json) {
    return ParseSigstoreTrustedRoot(AsBytes(json.dump()), "root.json");
  }
};

TEST_F(TrustedRootTest, ReadsBothForms) {
  for (const bool wrapped : {false, true}) {
    Json json = File();
    if (wrapped) {
      json = {{"mediaType", "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json"},
              {"trustedRoot", File()},
              {"signingConfig", {{"anything", 1}}}};
    }
    const absl::StatusOr<SigstoreTrustedRoot> root = Parse(json);
    ASSERT_TRUE(root.ok()) << root.status();
    ASSERT_THAT(root->rekor_logs, SizeIs(1));
    EXPECT_TRUE(root->rekor_logs[0].key == rekor_.public_key());
    EXPECT_EQ(root->rekor_logs[0].log_key_id, KeyId(rekor_));
    EXPECT_EQ(root->rekor_logs[0].base_url, "https://log.example");
    EXPECT_EQ(root->rekor_logs[0].valid_from, Unix(1610452407));
    EXPECT_EQ(root->rekor_logs[0].valid_until, absl::InfiniteFuture());
    ASSERT_THAT(root->ct_logs, SizeIs(1));
    ASSERT_THAT(root->fulcio, SizeIs(1));
    EXPECT_THAT(root->fulcio[0].chain, SizeIs(2));
    EXPECT_EQ(root->fulcio[0].valid_until, absl::FromUnixMillis(1924991999999));
    EXPECT_EQ(Verdict(Sign(), *root), "accepted");
  }
}

TEST_F(TrustedRootTest, IgnoresWhatItDoesNotUse) {
  Json json = File();
  json["new"] = {{"member", 1}};
  json["timestampAuthorities"] = "whatever";
  json["tlogs"][0]["new"] = 1;
  json["tlogs"][0].erase("baseUrl");
  json["tlogs"][0]["publicKey"].erase("validFor");
  json["ctlogs"][0]["publicKey"]["validFor"] = nullptr;
  json["certificateAuthorities"][0].erase("validFor");
  EXPECT_TRUE(Parse(json).ok()) << Parse(json).status();
  json.erase("ctlogs");
  ASSERT_TRUE(Parse(json).ok());
  // Nothing can be accepted then.
  EXPECT_EQ(Verdict(Sign(), *Parse(json)), "transparency-invalid");
  json["mediaType"] = "application/vnd.dev.sigstore.trustedroot.v0.2+json";
  EXPECT_TRUE(Parse(json).ok());
}

TEST_F(TrustedRootTest, LeavesOutLogsWithUnknownKeys) {
  Json json = File();
  // A SubjectPublicKeyInfo whose algorithm (1.2.3.4.5) nobody knows.
  const Bytes unknown = *FromHex(
      "301030060604"
      "2a030405"
      "030600"
      "0102030405",
      "key");
  Json log = json["tlogs"][0];
  log["publicKey"]["rawBytes"] = ToBase64(unknown);
  json["tlogs"].push_back(log);
  const absl::StatusOr<SigstoreTrustedRoot> root = Parse(json);
  if (root.ok()) {
    EXPECT_THAT(root->rekor_logs, SizeIs(1));
  } else {
    ADD_FAILURE() << root.status();
  }
}

TEST_F(TrustedRootTest, RefusesWhatItMustNotRead) {
  struct Case {
    std::string name;
    std::function<void(Json&)> change;
    std::string verdict = "malformed";
  };
  const auto authority = [](Json& j) -> Json& { return j["certificateAuthorities"][0]; };
  const auto key = [](Json& j) -> Json& { return j["tlogs"][0]["publicKey"]; };
  const std::vector<Case> cases = {
      {"no media type", [](Json& j) { j.erase("mediaType"); }},
      {"another media type", [](Json& j) { j["mediaType"] = "application/json"; }, "unsupported"},
      {"an array", [](Json& j) { j = Json::array(); }},
      {"a trusted root that is a text", [](Json& j) { j["trustedRoot"] = "x"; }},
      {"no logs", [](Json& j) { j.erase("tlogs"); }},
      {"empty logs", [](Json& j) { j["tlogs"] = Json::array(); }},
      {"no authorities", [](Json& j) { j.erase("certificateAuthorities"); }},
      {"empty authorities", [](Json& j) { j["certificateAuthorities"] = Json::array(); }},
      {"empty chain", [&](Json& j) { authority(j)["certChain"]["certificates"] = Json::array(); }},
      {"no chain", [&](Json& j) { authority(j).erase("certChain"); }},
      {"a certificate that is none",
       [&](Json& j) { authority(j)["certChain"]["certificates"][0]["rawBytes"] = "QUJD"; }},
      {"too many certificates",
       [&](Json& j) {
         Json& list = authority(j)["certChain"]["certificates"];
         while (list.size() < 17) list.push_back(list[0]);
       },
       "limit-exceeded"},
      {"too many logs",
       [&](Json& j) {
         while (j["tlogs"].size() < 1001) j["tlogs"].push_back(1);
       },
       "limit-exceeded"},
      {"no key", [&](Json& j) { j["tlogs"][0].erase("publicKey"); }},
      {"empty key", [&](Json& j) { key(j)["rawBytes"] = ""; }},
      {"key that is none", [&](Json& j) { key(j)["rawBytes"] = "QUJD"; }},
      {"key that is not base64", [&](Json& j) { key(j)["rawBytes"] = "%"; }},
      {"no identifier", [](Json& j) { j["tlogs"][0].erase("logId"); }},
      {"another log's identifier",
       [](Json& j) { j["tlogs"][0]["logId"] = j["ctlogs"][0]["logId"]; }},
      {"another certificate log's identifier",
       [](Json& j) { j["ctlogs"][0]["logId"] = j["tlogs"][0]["logId"]; }},
      {"a period that ends before it begins",
       [&](Json& j) { key(j)["validFor"]["end"] = "2020-01-01T00:00:00Z"; }},
      {"a period that is a text", [&](Json& j) { key(j)["validFor"] = "always"; }},
      {"a date", [&](Json& j) { key(j)["validFor"]["start"] = "2021-01-12"; }},
      {"infinity", [&](Json& j) { key(j)["validFor"]["start"] = "infinite-past"; }},
      {"a time with spaces",
       [&](Json& j) { key(j)["validFor"]["start"] = " 2021-01-12T11:53:27Z"; }},
      {"the 32nd", [&](Json& j) { key(j)["validFor"]["start"] = "2021-01-32T11:53:27Z"; }},
      {"a time as a number", [&](Json& j) { key(j)["validFor"]["start"] = 1610452407; }},
      {"an authority's wrong time", [&](Json& j) { authority(j)["validFor"]["end"] = "tomorrow"; }},
  };
  for (const Case& c : cases) {
    Json json = File();
    c.change(json);
    const absl::Status status = Parse(json).status();
    ASSERT_TRUE(ReasonOf(status).has_value()) << c.name << status;
    EXPECT_EQ(ReasonName(*ReasonOf(status)), c.verdict) << c.name << ": " << status;
  }
  EXPECT_THAT(cases, SizeIs(28));
}

TEST_F(TrustedRootTest, RefusesWhatIsNotJsonOrTooLarge) {
  const std::string twice = R"({"mediaType":"a","mediaType":"b"})";
  EXPECT_EQ(ReasonOf(ParseSigstoreTrustedRoot(AsBytes(twice), "r").status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(ParseSigstoreTrustedRoot(Bytes(), "r").status()), Reason::kMalformed);
  const Bytes large(kMaxTrustedRootBytes + 1, ' ');
  EXPECT_EQ(ReasonOf(ParseSigstoreTrustedRoot(large, "r").status()), Reason::kLimitExceeded);
  const std::string deep(100'000, '[');
  EXPECT_EQ(ReasonOf(ParseSigstoreTrustedRoot(AsBytes(deep), "r").status()),
            Reason::kLimitExceeded);
}

}  // namespace
}  // namespace pavise::signing
