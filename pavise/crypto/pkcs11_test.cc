#include "pavise/crypto/pkcs11.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <p11-kit/p11-kit.h>
#include <p11-kit/pkcs11.h>
#include <stdlib.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_files.h"

namespace pavise::crypto {
namespace {

using pavise::testing::TemporaryDirectory;
using testing::HasProgram;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ReadText;
using testing::RunCommand;

const Bytes kMessage = {'m', 'o', 'd', 'e', 'l'};
constexpr char kPin[] = "4711-pin";

std::string SoftHsmModule() {
  for (const char* path :
       {"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
        "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"}) {
    if (std::filesystem::exists(path)) return path;
  }
  return "";
}

// A SoftHSM token of its own, in a temporary directory.
class TokenTest : public ::testing::Test {
 protected:
  void SetUp() override {
    module_ = SoftHsmModule();
    if (module_.empty() || !HasProgram("softhsm2-util")) {
      GTEST_SKIP() << "SoftHSM (package softhsm2) is not installed";
    }
    std::filesystem::create_directory(directory_ / "tokens");
    directory_.Write("softhsm2.conf", StrCat("directories.tokendir = ", directory_ / "tokens",
                                             "\nobjectstore.backend = file\nlog.level = ERROR\n"));
    setenv("SOFTHSM2_CONF", (directory_ / "softhsm2.conf").c_str(), 1);
    InitToken("pavise token");
  }
  void TearDown() override { unsetenv("SOFTHSM2_CONF"); }

  void Run(const std::string& command) {
    const auto result = RunCommand("cd " + directory_.path() + " && " + command);
    ASSERT_EQ(result.exit_code, 0) << command << "\n" << result.output;
  }
  void InitToken(const std::string& label) {
    Run(StrCat("softhsm2-util --init-token --free --label '", label, "' --so-pin 12345678 --pin ",
               kPin));
  }
  void Import(const std::string& file, const std::string& label, const std::string& id,
              const std::string& more = "") {
    Run(StrCat("softhsm2-util --import ", file, " --token 'pavise token' --force --label '", label,
               "' --id ", id, " --pin ", kPin, " ", more));
  }
  PublicKey ImportNew(KeyType type, const std::string& label, const std::string& id,
                      const std::string& more = "") {
    const PrivateKey key = PrivateKey::Generate(type).value();
    directory_.Write(label + ".pem", key.ToPem(SecretBytes()).value().RevealText());
    Import("'" + label + ".pem'", label, id, more);
    return key.public_key();
  }
  std::string Uri(const std::string& object) const {
    return StrCat("pkcs11:token=pavise%20token;", object, ";pin-value=", kPin,
                  "?module-path=", module_);
  }
  // Refused for `reason`, without the PIN in any text.
  void ExpectRefused(const std::string& uri, Reason reason, const std::string& detail) {
    const absl::Status status = OpenPkcs11Signer(uri).status();
    EXPECT_EQ(ReasonOf(status), reason) << uri << "\n" << status;
    const auto findings = RefusalsOf(status);
    ASSERT_EQ(findings.size(), 1u) << uri;
    EXPECT_THAT(findings[0].detail, HasSubstr(detail)) << uri;
    EXPECT_THAT(status.ToString(), Not(HasSubstr(kPin)));
  }

  TemporaryDirectory directory_;
  std::string module_;
};

TEST_F(TokenTest, SignsOnEachCurve) {
  int executed = 0;
  for (const auto& [type, id] :
       {std::pair(KeyType::kEcP256, "01"), std::pair(KeyType::kEcP384, "02"),
        std::pair(KeyType::kEcP521, "03")}) {
    const std::string label = StrCat("key ", KeyTypeName(type));
    const PublicKey key = ImportNew(type, label, id);
    auto signer = OpenPkcs11Signer(Uri(StrCat("object=key%20", KeyTypeName(type))));
    ASSERT_TRUE(signer.ok()) << signer.status();
    EXPECT_EQ((*signer)->public_key(), key);
    // More than once, and messages longer than a digest.
    for (const Bytes& message : {kMessage, Bytes(), Bytes(100'000, 7)}) {
      const auto signature = (*signer)->Sign(message);
      ASSERT_TRUE(signature.ok()) << signature.status();
      EXPECT_TRUE(key.Verify(message, *signature, "model").ok());
      EXPECT_EQ(ReasonOf(key.Verify(Bytes{'x'}, *signature, "model")), Reason::kSignatureInvalid);
    }
    ++executed;
  }
  EXPECT_EQ(executed, 3);
}

TEST_F(TokenTest, EveryFormOfTheUri) {
  const PublicKey key = ImportNew(KeyType::kEcP256, "signing", "0a0b");
  ImportNew(KeyType::kEcP256, "other", "0c");
  const std::string pin_file = directory_.Write("pin", StrCat(kPin, "\n"));
  const std::string token = "pkcs11:token=pavise%20token;";
  const std::pair<std::string, std::string> forms[] = {
      {StrCat(token, "object=signing;pin-value=", kPin, "?module-path=", module_), ""},
      {StrCat(token, "object=signing?pin-value=", kPin, "&module-path=", module_), ""},
      {StrCat(token, "object=signing?module-path=", module_, "&pin-value=4711%2Dpin"), ""},
      {StrCat(token, "object=signing;pin-value=", kPin, ";module-path=", module_), ""},
      {StrCat(token, "object=signing?pin-value=", kPin), module_},
      {StrCat(token, "object=signing?pin-value=", kPin, "&module-path=/nonexistent.so"), module_},
      {StrCat(token, "object=signing?pin-source=file:", pin_file), module_},
      {StrCat(token, "object=signing?pin-source=file://", pin_file), module_},
      {StrCat(token, "object=signing?pin-source=", pin_file), module_},
      {StrCat(token, "object=signing;pin-source=file:", pin_file), module_},
      {StrCat(token, "id=%0A%0B;pin-value=", kPin), module_},
      {StrCat(token, "object=signing;id=%0A%0B;type=private;pin-value=", kPin), module_},
      {StrCat("pkcs11:object=signing;pin-value=", kPin), module_},
      {StrCat("pkcs11:manufacturer=SoftHSM%20project;object=signing;pin-value=", kPin), module_},
  };
  int executed = 0;
  for (const auto& [uri, module_path] : forms) {
    auto signer = OpenPkcs11Signer(uri, module_path);
    ASSERT_TRUE(signer.ok()) << uri << "\n" << signer.status();
    EXPECT_EQ((*signer)->public_key(), key);
    EXPECT_TRUE(key.Verify(kMessage, (*signer)->Sign(kMessage).value(), "model").ok());
    ++executed;
  }
  EXPECT_EQ(executed, 14);
}

TEST_F(TokenTest, WhatDoesNotMatchOneKeyIsRefused) {
  ImportNew(KeyType::kEcP256, "good", "01");
  ImportNew(KeyType::kEcP256, "twin", "02");
  ImportNew(KeyType::kEcP256, "twin", "03");
  Run("openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem");
  Import("rsa.pem", "rsa", "04");
  Run("openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 -out koblitz.pem");
  Import("koblitz.pem", "koblitz", "05");
  ASSERT_TRUE(OpenPkcs11Signer(Uri("object=good")).ok());
  ASSERT_TRUE(OpenPkcs11Signer(Uri("object=twin;id=%03")).ok());

  ExpectRefused(Uri("object=missing"), Reason::kKeyUnsupported, "no such private key");
  ExpectRefused(Uri("id=%09"), Reason::kKeyUnsupported, "no such private key");
  ExpectRefused(Uri("object=good;id=%02"), Reason::kKeyUnsupported, "no such private key");
  ExpectRefused(Uri("object=goo"), Reason::kKeyUnsupported, "no such private key");
  ExpectRefused(Uri("object=twin"), Reason::kKeyUnsupported, "several private keys");
  ExpectRefused(Uri("object=rsa"), Reason::kKeyUnsupported, "not an elliptic-curve key");
  ExpectRefused(Uri("object=koblitz"), Reason::kKeyUnsupported, "curve");
  ExpectRefused(Uri("object=good;type=public"), Reason::kKeyUnsupported, "private key");
  ExpectRefused(StrCat("pkcs11:token=other;object=good;pin-value=", kPin, "?module-path=", module_),
                Reason::kKeyUnsupported, "no token");
  ExpectRefused(StrCat("pkcs11:token=pavise%20token;object=good?module-path=", module_),
                Reason::kKeyUnsupported, "PIN");
  ExpectRefused(
      StrCat("pkcs11:token=pavise%20token;object=good?pin-value=wrong&module-path=", module_),
      Reason::kKeyUnsupported, "PIN");
  // The right one still works after the wrong one.
  EXPECT_TRUE(OpenPkcs11Signer(Uri("object=good")).ok());
}

TEST_F(TokenTest, NoPinIsTriedWhereSeveralTokensMatch) {
  ImportNew(KeyType::kEcP256, "good", "01");
  InitToken("second token");
  const std::string either =
      StrCat("pkcs11:object=good;pin-value=", kPin, "?module-path=", module_);
  ExpectRefused(either, Reason::kKeyUnsupported, "several tokens");
  ExpectRefused(either, Reason::kKeyUnsupported, "second token");
  EXPECT_TRUE(OpenPkcs11Signer(Uri("object=good")).ok());
}

TEST_F(TokenTest, APrivateKeyWithoutItsPublicKeyIsRefused) {
  ImportNew(KeyType::kEcP256, "alone", "01", "--no-public-key");
  ExpectRefused(Uri("object=alone"), Reason::kKeyUnsupported, "no public key");
}

TEST_F(TokenTest, AForeignPublicKeyIsNoticed) {
  // The private key comes without its public key; another one's is stored under its id.
  ImportNew(KeyType::kEcP256, "signing", "01", "--no-public-key");
  const PublicKey foreign = PrivateKey::Generate(KeyType::kEcP256).value().public_key();
  {
    CK_FUNCTION_LIST* module = p11_kit_module_load(module_.c_str(), 0);
    ASSERT_NE(module, nullptr);
    ASSERT_EQ(p11_kit_module_initialize(module), CKR_OK);
    CK_SLOT_ID slots[4];
    CK_ULONG count = 4;
    ASSERT_EQ(module->C_GetSlotList(CK_TRUE, slots, &count), CKR_OK);
    CK_SESSION_HANDLE session = 0;
    ASSERT_EQ(module->C_OpenSession(slots[0], CKF_SERIAL_SESSION | CKF_RW_SESSION, nullptr, nullptr,
                                    &session),
              CKR_OK);
    std::string pin = kPin;
    ASSERT_EQ(module->C_Login(session, CKU_USER, reinterpret_cast<unsigned char*>(pin.data()),
                              pin.size()),
              CKR_OK);
    CK_OBJECT_CLASS object_class = CKO_PUBLIC_KEY;
    CK_KEY_TYPE key_type = CKK_EC;
    CK_BBOOL on_token = CK_TRUE;
    uint8_t id[] = {0x01};
    uint8_t parameters[] = {0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07};
    Bytes point = {0x04, 0x41};
    point.insert(point.end(), foreign.der().end() - 65, foreign.der().end());
    CK_ATTRIBUTE attributes[] = {{CKA_CLASS, &object_class, sizeof(object_class)},
                                 {CKA_KEY_TYPE, &key_type, sizeof(key_type)},
                                 {CKA_TOKEN, &on_token, sizeof(on_token)},
                                 {CKA_ID, id, sizeof(id)},
                                 {CKA_EC_PARAMS, parameters, sizeof(parameters)},
                                 {CKA_EC_POINT, point.data(), point.size()}};
    CK_OBJECT_HANDLE object = 0;
    ASSERT_EQ(module->C_CreateObject(session, attributes, std::size(attributes), &object), CKR_OK);
    ASSERT_EQ(module->C_CloseSession(session), CKR_OK);
    p11_kit_module_finalize(module);
    p11_kit_module_release(module);
  }
  auto signer = OpenPkcs11Signer(Uri("object=signing"));
  ASSERT_TRUE(signer.ok()) << signer.status();
  EXPECT_EQ((*signer)->public_key(), foreign);
  EXPECT_EQ(ReasonOf((*signer)->Sign(kMessage).status()), Reason::kKeyMismatch);
}

TEST_F(TokenTest, SeveralSignersAtOnce) {
  const PublicKey first_key = ImportNew(KeyType::kEcP256, "first", "01");
  const PublicKey second_key = ImportNew(KeyType::kEcP384, "second", "02");
  auto first = OpenPkcs11Signer(Uri("object=first")).value();
  {
    auto second = OpenPkcs11Signer(Uri("object=second")).value();
    EXPECT_TRUE(second_key.Verify(kMessage, second->Sign(kMessage).value(), "model").ok());
    EXPECT_TRUE(first_key.Verify(kMessage, first->Sign(kMessage).value(), "model").ok());
  }
  // The second's end did not log the first out.
  EXPECT_TRUE(first_key.Verify(kMessage, first->Sign(kMessage).value(), "model").ok());
}

TEST_F(TokenTest, AMissingPinFileIsRefused) {
  ImportNew(KeyType::kEcP256, "good", "01");
  const std::string uri = "pkcs11:token=pavise%20token;object=good?pin-source=";
  EXPECT_EQ(ReasonOf(OpenPkcs11Signer(uri + "file:" + (directory_ / "absent"), module_).status()),
            Reason::kFileUnreadable);
  EXPECT_EQ(ReasonOf(OpenPkcs11Signer(uri + "%7Ccat%20/etc/hostname", module_).status()),
            Reason::kUnsupported);
}

TEST(Pkcs11UriTest, BadUrisAreRefused) {
  const std::string bad[] = {
      "",
      "pkcs11",
      "PKCS12:object=a",
      "file:/etc/passwd",
      "pkcs11:",
      "pkcs11:token=a",                           // names no key
      "pkcs11:object=a;object=b",                 // twice
      "pkcs11:object=a;pin-value=1?pin-value=2",  // twice, across "?"
      "pkcs11:object=a;module-path=/x?module-path=/y",
      "pkcs11:object",  // no value
      "pkcs11:=a",
      "pkcs11:object=a;unknown=b",
      "pkcs11:object=%zz",
      "pkcs11:object=%4",
      std::string("pkcs11:object=a\0b", 17),
      std::string("\0", 1),
  };
  int executed = 0;
  for (const std::string& uri : bad) {
    EXPECT_EQ(ReasonOf(OpenPkcs11Signer(uri).status()), Reason::kMalformed) << uri;
    ++executed;
  }
  EXPECT_EQ(executed, 16);
  EXPECT_EQ(ReasonOf(OpenPkcs11Signer("pkcs11:object=" + std::string(10'000, 'a')).status()),
            Reason::kLimitExceeded);
}

TEST(Pkcs11ModuleTest, AModuleThatDoesNotLoadIsRefused) {
  const TemporaryDirectory directory;
  const std::string not_a_library = directory.Write("module.so", "not a library");
  for (const std::string& path : {directory / "absent.so", not_a_library}) {
    const absl::Status status =
        OpenPkcs11Signer("pkcs11:object=a?pin-value=secret77", path).status();
    EXPECT_EQ(ReasonOf(status), Reason::kFileUnreadable) << status;
    EXPECT_THAT(status.ToString(), HasSubstr(path));
    EXPECT_THAT(status.ToString(), Not(HasSubstr("secret77")));
  }
}

}  // namespace
}  // namespace pavise::crypto
