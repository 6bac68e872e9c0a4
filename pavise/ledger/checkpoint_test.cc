#include "pavise/ledger/checkpoint.h"

#include <string>

#include "pavise/base/strings.h"
#include "pavise/ledger/merkle_tree.h"
#include "pavise/ledger/testing/example_log.h"

#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::ledger {
namespace {

using testing::CosignerKey;
using ::testing::HasSubstr;
using testing::KeyOfSeed;
using testing::kOrigin;
using testing::LogKey;
using ::testing::SizeIs;

constexpr std::string_view kDash = "\xe2\x80\x94 ";

CheckpointNote Signed(uint64_t size = 5, uint8_t seed = 1) {
  crypto::PrivateKey key = KeyOfSeed(seed);
  return *SignCheckpoint({kOrigin, size, testing::FilledDigest(0x42)}, key);
}

// Adds the cosignature of the key of `seed` at a time.
void AddCosignature(CheckpointNote& note, uint8_t seed, const std::string& name,
                    int64_t time_seconds = 1'767'225'600) {
  crypto::PrivateKey key = KeyOfSeed(seed);
  const auto verified = CheckpointVerifier::Verify(note, {LogKey(), {}, 0}, "note");
  ASSERT_TRUE(verified.ok()) << verified.status();
  note.signatures.push_back(*Cosign(*verified, name, key, absl::FromUnixSeconds(time_seconds)));
}

absl::StatusOr<CheckpointNote> Parse(const std::string& note) {
  return ParseCheckpointNote(AsBytes(note), "note");
}

absl::Status Verify(const CheckpointNote& note, const CheckpointTrust& trust) {
  return CheckpointVerifier::Verify(note, trust, "note").status();
}

// Published keys: of golang.org/x/mod/sumdb/note's documentation, and of Go's checksum database.
TEST(NoteKey, ReadsPublishedKeys) {
  for (const std::string& text :
       {std::string("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"),
        std::string("sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8")}) {
    const auto key = NoteKey::Parse(text, "key");
    ASSERT_TRUE(key.ok()) << key.status();
    EXPECT_EQ(key->Format(), text);
    EXPECT_EQ(key->kind(), NoteKeyKind::kLog);
    EXPECT_TRUE(NoteKey::Parse(text + "\n", "key").ok());
    EXPECT_FALSE(NoteKey::Parse(text + "\n\n", "key").ok());
    EXPECT_FALSE(NoteKey::Parse(text.substr(0, text.size() - 4), "key").ok());
    EXPECT_EQ(ReasonOf(NoteKey::Parse("X" + text, "key").status()), Reason::kKeyMismatch);
  }
}

TEST(NoteKey, RefusesOthers) {
  const std::string log = LogKey().Format();
  EXPECT_NE(log, CosignerKey(1, kOrigin).Format());
  EXPECT_EQ(NoteKey::Parse(CosignerKey(1, kOrigin).Format(), "key")->kind(),
            NoteKeyKind::kCosigner);
  EXPECT_EQ(ReasonOf(NoteKey::Parse(absl::StrReplaceAll(log, {{"+A", "+B"}}), "key").status()),
            Reason::kKeyUnsupported);
  for (const char* const name : {"", "a b", "a+b", "a\nb", "a\x7f", "\xc3\xa4"}) {
    EXPECT_EQ(
        ReasonOf(NoteKey::Create(name, NoteKeyKind::kLog, KeyOfSeed(1).public_key()).status()),
        Reason::kMalformed)
        << name;
  }
  EXPECT_EQ(
      ReasonOf(NoteKey::Create(std::string(129, 'a'), NoteKeyKind::kLog, KeyOfSeed(1).public_key())
                   .status()),
      Reason::kLimitExceeded);
  const auto other = crypto::PrivateKey::Generate(crypto::KeyType::kEcP256);
  EXPECT_EQ(ReasonOf(NoteKey::Create("a", NoteKeyKind::kLog, other->public_key()).status()),
            Reason::kKeyUnsupported);
  for (const std::string& text : {std::string(), std::string("a"), std::string("a+b"),
                                  absl::StrReplaceAll(log, {{"+A", "+"}}), log + "AAAA"}) {
    EXPECT_EQ(ReasonOf(NoteKey::Parse(text, "key").status()), Reason::kMalformed) << text;
  }
}

// The note of the documentation of tlog-cosignature: form only, its keys are not published there.
TEST(Checkpoint, ReadsTheSpecificationsExample) {
  const std::string text = StrCat(
      "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n",
      kDash,
      "example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/"
      "Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n",
      kDash,
      "witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2"
      "oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n");
  const auto note = Parse(text);
  ASSERT_TRUE(note.ok()) << note.status();
  EXPECT_EQ(note->checkpoint.origin, "example.com/behind-the-sofa");
  EXPECT_EQ(note->checkpoint.size, 20852163u);
  ASSERT_THAT(note->signatures, SizeIs(2));
  EXPECT_EQ(note->signatures[1].key_name, "witness.example.com/w1");
  EXPECT_EQ(ToHex(note->signatures[1].key_hash), "8d66cf3f");
  EXPECT_EQ(note->signatures[1].signature.size(), 72u);
  EXPECT_EQ(note->Format(), text);
}

TEST(Checkpoint, IsVerifiedByItsLogsKeyOnly) {
  const CheckpointNote note = Signed();
  EXPECT_EQ(Parse(note.Format())->Format(), note.Format());
  const auto verified = CheckpointVerifier::Verify(note, {LogKey(), {}, 0}, "note");
  ASSERT_TRUE(verified.ok()) << verified.status();
  EXPECT_EQ((*verified)->checkpoint(), (Checkpoint{kOrigin, 5, testing::FilledDigest(0x42)}));

  EXPECT_EQ(ReasonOf(Verify(note, {LogKey(2), {}, 0})), Reason::kSignerUntrusted);
  EXPECT_EQ(ReasonOf(Verify(note, {LogKey(1, "other.example"), {}, 0})), Reason::kIdentityMismatch);
  EXPECT_EQ(ExitCodeOf(Verify(note, {CosignerKey(1, kOrigin), {}, 0})), 2);
  CheckpointNote changed = note;
  changed.checkpoint.size = 6;
  EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {}, 0})), Reason::kSignatureInvalid);
  changed = note;
  changed.checkpoint.root[31] ^= 1;
  EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {}, 0})), Reason::kSignatureInvalid);
  changed = note;
  changed.extensions.push_back("more");
  EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {}, 0})), Reason::kSignatureInvalid);
  for (size_t i = 0; i < note.signatures[0].signature.size(); ++i) {
    changed = note;
    changed.signatures[0].signature[i] ^= 0x80;
    EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {}, 0})), Reason::kSignatureInvalid) << i;
  }
  changed = note;
  changed.signatures.push_back(note.signatures[0]);
  EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {}, 0})), Reason::kSignatureInvalid);
  changed = note;
  changed.signatures[0].key_hash[0] ^= 1;
  EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {}, 0})), Reason::kSignerUntrusted);
  // Signatures of keys that nobody named are passed over, also under the log's name.
  changed.signatures.push_back(note.signatures[0]);
  EXPECT_TRUE(Verify(changed, {LogKey(), {}, 0}).ok());
}

TEST(Checkpoint, IsCosigned) {
  CheckpointNote note = Signed();
  AddCosignature(note, 7, "hospital.example");
  AddCosignature(note, 8, "witness.example", 1'767'225'601);
  note = *Parse(note.Format());
  const NoteKey hospital = CosignerKey(7, "hospital.example");
  const NoteKey witness = CosignerKey(8, "witness.example");
  const NoteKey absent = CosignerKey(9, "absent.example");
  const auto verified =
      CheckpointVerifier::Verify(note, {LogKey(), {absent, hospital, witness}, 2}, "note");
  ASSERT_TRUE(verified.ok()) << verified.status();
  ASSERT_THAT((*verified)->cosignatures, SizeIs(2));
  EXPECT_EQ((*verified)->cosignatures[0].key.name(), "hospital.example");
  EXPECT_EQ((*verified)->cosignatures[1].time, absl::FromUnixSeconds(1'767'225'601));

  EXPECT_EQ(ReasonOf(Verify(note, {LogKey(), {absent, hospital, witness}, 3})),
            Reason::kSignerUntrusted);
  // The log cannot stand for its cosigners, one key counts once, and kinds are not exchanged.
  EXPECT_EQ(ExitCodeOf(Verify(note, {LogKey(), {CosignerKey(1, kOrigin)}, 0})), 2);
  EXPECT_EQ(ExitCodeOf(Verify(note, {LogKey(), {hospital, CosignerKey(7, "other")}, 1})), 2);
  EXPECT_EQ(ExitCodeOf(Verify(note, {LogKey(), {LogKey(7, "hospital.example")}, 0})), 2);
  // Every byte of a cosignature counts, its time among them.
  for (size_t i = 0; i < 72; ++i) {
    CheckpointNote changed = note;
    changed.signatures[1].signature[i] ^= 1;
    EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {hospital}, 0})), Reason::kSignatureInvalid) << i;
    EXPECT_TRUE(Verify(changed, {LogKey(), {witness}, 1}).ok());
  }
  CheckpointNote changed = note;
  changed.signatures[1].signature.push_back(0);
  EXPECT_EQ(ReasonOf(Verify(changed, {LogKey(), {hospital}, 0})), Reason::kSignatureInvalid);
  // A cosignature of another checkpoint.
  CheckpointNote other = Signed(6);
  other.signatures.push_back(note.signatures[1]);
  EXPECT_EQ(ReasonOf(Verify(other, {LogKey(), {hospital}, 1})), Reason::kSignatureInvalid);
  // Without the time it is no cosignature: a plain signature by the cosigner's key.
  other = Signed();
  crypto::PrivateKey key = KeyOfSeed(7);
  Bytes plain(8, 0);
  const Bytes signature = *key.Sign(AsBytes(other.Text()));
  plain.insert(plain.end(), signature.begin(), signature.end());
  other.signatures.push_back({hospital.name(), hospital.hash(), plain});
  EXPECT_EQ(ReasonOf(Verify(other, {LogKey(), {hospital}, 1})), Reason::kSignatureInvalid);
}

TEST(Checkpoint, IsSignedForWhatItMayName) {
  crypto::PrivateKey key = KeyOfSeed(1);
  EXPECT_EQ(ReasonOf(SignCheckpoint({"two words", 1, {}}, key).status()), Reason::kMalformed);
  EXPECT_EQ(ReasonOf(SignCheckpoint({kOrigin, kMaxTreeSize + 1, {}}, key).status()),
            Reason::kLimitExceeded);
  const auto verified = CheckpointVerifier::Verify(Signed(), {LogKey(), {}, 0}, "note");
  EXPECT_EQ(ExitCodeOf(Cosign(*verified, "a", key, absl::FromUnixSeconds(-1)).status()), 2);
  EXPECT_EQ(ReasonOf(Cosign(*verified, "", key, absl::UnixEpoch()).status()), Reason::kMalformed);
}

TEST(Checkpoint, OtherTextsAreRefused) {
  const std::string text = Signed().Format();
  const auto changed = [&](const std::string& from, const std::string& to) {
    EXPECT_THAT(text, HasSubstr(from));
    return absl::StrReplaceAll(text, {{from, to}});
  };
  const std::string root = ToBase64(testing::FilledDigest(0x42));
  const std::string line = text.substr(text.find(kDash.data()));
  for (const std::string& other : {
           std::string(),
           std::string("\n\n"),
           StrCat("\n", text),
           StrCat(text, "\n"),
           text.substr(0, text.size() - 1),
           text.substr(0, text.find(kDash.data())),
           changed("\n5\n", "\n05\n"),
           changed("\n5\n", "\n+5\n"),
           changed("\n5\n", "\n-5\n"),
           changed("\n5\n", "\n5 \n"),
           changed("\n5\n", "\n\n"),
           changed("\n5\n", "\n0x5\n"),
           changed("\n5\n", "\n5\r\n"),
           changed("\n5\n", "\n99999999999999999999\n"),
           changed("\n5\n", "\n"),
           changed(root, ToBase64(Bytes(31, 0x42))),
           changed(root, ToBase64(Bytes(33, 0x42))),
           changed(root, root.substr(0, root.size() - 1)),
           changed(kOrigin, ""),
           changed(kOrigin, "a\tb"),
           changed(kOrigin, "a\xff"),
           changed(std::string(kDash), "- "),
           changed(std::string(kDash), std::string(kDash) + " "),
           changed(StrCat(kDash, kOrigin), StrCat(kDash, "a+b")),
           changed(StrCat(kDash, kOrigin, " "), std::string(kDash)),
           StrCat(text, kDash, kOrigin, " AAAAAA==\n"),  // a hash and no signature
           StrCat(text, kDash, kOrigin, " \n"),
           StrCat(text, "\n", line),
       }) {
    EXPECT_EQ(ReasonOf(Parse(other).status()), Reason::kMalformed) << other;
  }
  EXPECT_EQ(ReasonOf(Parse(changed("\n5\n", StrCat("\n", kMaxTreeSize + 1, "\n"))).status()),
            Reason::kLimitExceeded);
  std::string many = text;
  for (size_t i = 1; i < kMaxNoteSignatures; ++i) many += line;
  EXPECT_TRUE(Parse(many).ok());
  EXPECT_EQ(ReasonOf(Parse(many + line).status()), Reason::kLimitExceeded);
  EXPECT_EQ(ReasonOf(Parse(text + std::string(kMaxNoteBytes, 'a')).status()),
            Reason::kLimitExceeded);
  EXPECT_EQ(
      ReasonOf(
          Parse(changed(StrCat(kDash, kOrigin), StrCat(kDash, std::string(129, 'a')))).status()),
      Reason::kLimitExceeded);
}

}  // namespace
}  // namespace pavise::ledger
