#include "pavise/kbs/client.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/digest.h"
#include "pavise/crypto/jwe.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/kbs/problem.h"
#include "pavise/kbs/testing/test_server.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::kbs {
namespace {

using crypto::KeyType;
using crypto::PrivateKey;
using crypto::testing::CertificateOptions;
using crypto::testing::TestCertificate;
using pavise::testing::TemporaryDirectory;
using ::testing::HasSubstr;
using testing::HttpAnswer;
using ::testing::SizeIs;
using testing::TestServer;

constexpr absl::StatusCode kMachineFailure = absl::StatusCode::kInternal;

ClientOptions Loopback(const TestServer& server) {
  return {.base_url = StrCat("http://127.0.0.1:", server.port()), .allow_plain_loopback = true};
}

TEST(ClientOptionsTest, RefusesAddressesThatAreNone) {
  const auto code = [](std::string url) {
    return Client::Create({.base_url = std::move(url),
                           .server_certificate = std::string(64, 'a'),
                           .allow_plain_loopback = true})
        .status()
        .code();
  };
  for (const char* url :
       {"https://broker.example", "https://broker.example:8443/", "https://10.0.0.1:1",
        "https://[2001:db8::1]:443", "https://a,https://b:8443,https://10.0.0.1"}) {
    EXPECT_EQ(code(url), absl::StatusCode::kOk) << url;
  }
  for (const char* url : {"",
                          "broker.example",
                          "ftp://x",
                          "https://",
                          "https://:443",
                          "https://user@host",
                          "https://host/path",
                          "https://host?x",
                          "https://host:0",
                          "https://host:65536",
                          "https://host:",
                          "https://host:4a",
                          "https://ho st",
                          "https://[::1",
                          "https://[host]",
                          "https://[127.0.0.1]",
                          "https://[::1]x",
                          "https://a,b",
                          "https://a,",
                          "https://a,https://",
                          "https://a,unix:/run/x",
                          "https://a,http://127.0.0.1:1",
                          "unix:relative",
                          "unix:",
                          "https://host\r\nX: y",
                          "http://broker.example",
                          "http://10.0.0.1",
                          "http://localhost"}) {
    EXPECT_EQ(code(url), absl::StatusCode::kInvalidArgument) << url;
  }
  EXPECT_EQ(code("unix:/" + std::string(200, 'a')), absl::StatusCode::kInvalidArgument);
  std::string many = "https://a";
  for (size_t i = 1; i < kMostBrokers; ++i) many += ",https://a";
  EXPECT_EQ(code(many), absl::StatusCode::kOk);
  EXPECT_EQ(code(many + ",https://a"), absl::StatusCode::kInvalidArgument);
}

TEST(ClientOptionsTest, TrustIsStatedAndPlainHttpIsAskedFor) {
  const std::string pin(64, 'a');
  const auto code = [](const ClientOptions& options) {
    return Client::Create(options).status().code();
  };
  constexpr auto kUsage = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code({.base_url = "https://x"}), kUsage);
  EXPECT_EQ(code({.base_url = "https://x", .authority_file = "/a", .server_certificate = pin}),
            kUsage);
  EXPECT_EQ(code({.base_url = "https://x", .server_certificate = pin.substr(1)}), kUsage);
  EXPECT_EQ(code({.base_url = "http://127.0.0.1:80"}), kUsage);
  EXPECT_EQ(code({.base_url = "http://127.0.0.1:80", .allow_plain_loopback = true}),
            absl::StatusCode::kOk);
  EXPECT_EQ(code({.base_url = "unix:/run/x"}), absl::StatusCode::kOk);
  EXPECT_EQ(code({.base_url = "unix:/run/x", .server_certificate = pin}), kUsage);

  const TemporaryDirectory directory;
  const auto reason = [&](const std::string& file) {
    return ReasonOf(Client::Create({.base_url = "https://x", .authority_file = file}).status());
  };
  EXPECT_EQ(reason(directory / "missing"), Reason::kFileUnreadable);
  EXPECT_EQ(reason(directory.Write("empty.pem", "")), Reason::kMalformed);
  EXPECT_EQ(reason(directory.Write("text.pem", "no certificate")), Reason::kMalformed);
}

TEST(ClientTest, KeepsConnectionAndSession) {
  const TemporaryDirectory directory;
  TestServer server({.unix_path = directory / "socket"}, [](const TestServer::Request& request) {
    return HttpAnswer(200, request.body,
                      "Content-Type: text/plain\r\nSet-Cookie: other=1\r\n"
                      "Set-Cookie: kbs-session-id=abc; Path=/; HttpOnly\r\n");
  });
  Client client = Client::Create({.base_url = "unix:" + (directory / "socket")}).value();
  const HttpResponse first =
      client.Request("POST", "/a?b=c", AsBytes("body"), {{"X-Test", "yes"}}).value();
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(first.content_type, "text/plain");
  EXPECT_EQ(AsText(first.body), "body");
  EXPECT_EQ(client.session_id(), "abc");
  EXPECT_TRUE(client.Request("GET", "/second").ok());

  const auto requests = server.requests();
  ASSERT_THAT(requests, SizeIs(2));
  EXPECT_EQ(requests[0].method, "POST");
  EXPECT_EQ(requests[0].target, "/a?b=c");
  EXPECT_EQ(requests[0].headers.at("content-type"), "application/json");
  EXPECT_EQ(requests[0].headers.at("x-test"), "yes");
  EXPECT_EQ(requests[0].headers.at("host"), "localhost");
  EXPECT_EQ(requests[0].headers.count("cookie"), 0u);
  EXPECT_EQ(requests[1].headers.at("cookie"), "kbs-session-id=abc");
  EXPECT_EQ(requests[1].body, "");
  EXPECT_EQ(requests[1].connection, 1);

  EXPECT_TRUE(client.set_session_id("xyz").ok());
  EXPECT_TRUE(client.Request("GET", "/third").ok());
  EXPECT_EQ(server.requests()[2].headers.at("cookie"), "kbs-session-id=xyz");
  EXPECT_EQ(ReasonOf(client.set_session_id("a; b=c")), Reason::kMalformed);
}

TEST(ClientTest, SendsNothingThatWouldSplitARequest) {
  TestServer server({}, [](const TestServer::Request&) { return HttpAnswer(200, ""); });
  Client client = Client::Create(Loopback(server)).value();
  const auto code = [&](std::string_view method, std::string_view target, HttpHeaders headers) {
    return client.Exchange(method, target, {}, headers).status().code();
  };
  constexpr auto kUsage = absl::StatusCode::kInvalidArgument;
  EXPECT_EQ(code("GET", "/", {}), absl::StatusCode::kOk);
  EXPECT_EQ(code("", "/", {}), kUsage);
  EXPECT_EQ(code("GET ", "/", {}), kUsage);
  EXPECT_EQ(code("GET", "", {}), kUsage);
  EXPECT_EQ(code("GET", "x", {}), kUsage);
  EXPECT_EQ(code("GET", "/ HTTP/1.1", {}), kUsage);
  EXPECT_EQ(code("GET", "/\r\nX: y", {}), kUsage);
  EXPECT_EQ(code("GET", "/", {{"X: y", "z"}}), kUsage);
  EXPECT_EQ(code("GET", "/", {{"X", "y\r\nZ: a"}}), kUsage);
  EXPECT_THAT(server.requests(), SizeIs(1));
}

TEST(ClientTest, ConnectsAnewWhereTheServerClosed) {
  TestServer server(
      {}, [](const TestServer::Request&) { return HttpAnswer(200, "", "Connection: close\r\n"); });
  Client client = Client::Create(Loopback(server)).value();
  for (int i = 0; i < 2; ++i) {
    const auto response = client.Request("POST", "/", AsBytes("x"));
    EXPECT_TRUE(response.ok()) << response.status();
  }
  ASSERT_THAT(server.requests(), SizeIs(2));
  EXPECT_EQ(server.requests()[1].connection, 2);
}

// A request that got no answer may have been carried out: only GET is sent a second time.
TEST(ClientTest, OnlyGetIsRepeated) {
  TestServer server({}, [](const TestServer::Request& request) {
    return request.target == "/drop" && request.connection == 1 ? std::string()
                                                                : HttpAnswer(200, "");
  });
  Client client = Client::Create(Loopback(server)).value();
  EXPECT_TRUE(client.Request("GET", "/").ok());
  EXPECT_TRUE(client.Request("GET", "/drop").ok());
  EXPECT_THAT(server.requests(), SizeIs(3));

  TestServer other({}, [](const TestServer::Request& request) {
    return request.target == "/drop" ? std::string() : HttpAnswer(200, "");
  });
  Client poster = Client::Create(Loopback(other)).value();
  EXPECT_TRUE(poster.Request("POST", "/", AsBytes("x")).ok());
  EXPECT_EQ(poster.Request("POST", "/drop", AsBytes("x")).status().code(), kMachineFailure);
  EXPECT_THAT(other.requests(), SizeIs(2));
  // And GET once, not for ever.
  EXPECT_TRUE(poster.Request("GET", "/").ok());
  EXPECT_EQ(poster.Request("GET", "/drop").status().code(), kMachineFailure);
  EXPECT_THAT(other.requests(), SizeIs(5));
}

TEST(ClientTest, AnswersHaveBounds) {
  std::string answer;
  TestServer server({}, [&](const TestServer::Request&) { return answer; });
  ClientOptions options = Loopback(server);
  options.max_response_bytes = 1000;
  const auto status_of = [&](std::string bytes) {
    answer = std::move(bytes);
    Client client = Client::Create(options).value();
    return client.Exchange("GET", "/").status();
  };
  const auto reason_of = [&](std::string bytes) { return ReasonOf(status_of(std::move(bytes))); };
  const auto chunked = [](size_t size) {
    return StrCat("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", absl::Hex(size), "\r\n",
                  std::string(size, 'a'), "\r\n0\r\n\r\n");
  };
  EXPECT_TRUE(status_of(HttpAnswer(200, std::string(1000, 'a'))).ok());
  const absl::Status large = status_of(HttpAnswer(200, std::string(1001, 'a')));
  EXPECT_EQ(ReasonOf(large), Reason::kLimitExceeded) << large;
  EXPECT_TRUE(status_of(chunked(1000)).ok());
  EXPECT_EQ(reason_of(chunked(1001)), Reason::kLimitExceeded);
  EXPECT_EQ(reason_of(HttpAnswer(200, "", StrCat("X: ", std::string(20'000, 'a'), "\r\n"))),
            Reason::kLimitExceeded);
  EXPECT_EQ(reason_of("SSH-2.0-OpenSSH_9.2\r\n\r\n"), Reason::kMalformed);
  EXPECT_EQ(reason_of("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"), Reason::kMalformed);
  EXPECT_EQ(reason_of("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nwithout a length"),
            Reason::kMalformed);
  EXPECT_TRUE(status_of("HTTP/1.1 204 No Content\r\n\r\n").ok());
  EXPECT_EQ(reason_of(HttpAnswer(200, "", "Set-Cookie: kbs-session-id=a b\r\n")),
            Reason::kMalformed);
  // Cut short: the connection's fault.
  EXPECT_EQ(
      status_of("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nabcd").code(),
      kMachineFailure);
  EXPECT_EQ(status_of("").code(), kMachineFailure);
}

TEST(ClientTest, DeadlinesEndWaiting) {
  TestServer server({},
                    [](const TestServer::Request&) { return std::string(TestServer::kSilence); });
  ClientOptions options = Loopback(server);
  options.request_timeout = absl::Milliseconds(20);
  Client client = Client::Create(options).value();
  const absl::Status status = client.Exchange("GET", "/").status();
  EXPECT_EQ(status.code(), kMachineFailure);
  EXPECT_THAT(std::string(status.message()), HasSubstr("no answer within 20ms"));
}

TEST(ClientTest, NoServerIsAFailureOfTheMachine) {
  const TemporaryDirectory directory;
  Client client = Client::Create({.base_url = "unix:" + (directory / "nobody")}).value();
  EXPECT_EQ(client.Exchange("GET", "/").status().code(), kMachineFailure);
}

// Brokers side by side.
TEST(ClientTest, TheNextOneTakesADeadOnesPlace) {
  const auto named = [](std::string name, std::string headers) {
    return std::make_unique<TestServer>(TestServer::Options{}, [=](const TestServer::Request&) {
      return HttpAnswer(200, name, headers);
    });
  };
  auto first = named("first", "Connection: close\r\n");
  auto second = named("second", "");
  ClientOptions options = Loopback(*first);
  StrAppend(&options.base_url, ",", Loopback(*second).base_url);
  std::optional<Client> client = Client::Create(options).value();
  const auto answer = [&](std::string_view method) {
    const auto response = client->Request(method, "/");
    return response.ok() ? std::string(AsText(response->body)) : "nobody";
  };
  EXPECT_EQ(answer("GET"), "first");
  EXPECT_EQ(answer("POST"), "first");
  first.reset();
  EXPECT_EQ(answer("POST"), "second");
  EXPECT_EQ(answer("GET"), "second");
  EXPECT_EQ(second->requests()[1].connection, 1);  // it stays there
  client.reset();
  second.reset();
  client = Client::Create(options).value();
  EXPECT_EQ(client->Exchange("GET", "/").status().code(), kMachineFailure);
}

TEST(ClientTest, OneThatDoesNotAnswerIsLeft) {
  TestServer silent({},
                    [](const TestServer::Request&) { return std::string(TestServer::kSilence); });
  TestServer second({}, [](const TestServer::Request&) { return HttpAnswer(200, "{}"); });
  ClientOptions options = Loopback(silent);
  StrAppend(&options.base_url, ",", Loopback(second).base_url);
  options.request_timeout = absl::Milliseconds(200);
  Client client = Client::Create(options).value();
  // What was sent may have been done: it is not sent again.
  EXPECT_EQ(client.Exchange("POST", "/").status().code(), kMachineFailure);
  EXPECT_THAT(second.requests(), SizeIs(0));
  EXPECT_TRUE(client.Exchange("POST", "/").ok());
  EXPECT_THAT(silent.requests(), SizeIs(1));
}

TEST(ClientTest, TheBrokersReasonsComeOut) {
  const std::vector<Refusal> findings = {
      {Reason::kMeasurementMismatch, "PCR 4", "is aa, not bb", "boot the image"},
      {Reason::kPolicyDenied, "stage train", "runs used up", ""}};
  TestServer server({}, [&](const TestServer::Request& request) {
    if (request.target == "/busy") {
      return HttpAnswer(503, FormatProblem(ProblemOf(ProblemKind::kUnavailable,
                                                     MachineFailure("store", "broken"))));
    }
    if (request.target == "/proxy") return HttpAnswer(404, "<html>not found</html>");
    const Problem problem = ProblemOf(ProblemKind::kPolicyDeny, Refuse(findings));
    return HttpAnswer(problem.status, FormatProblem(problem),
                      "Content-Type: application/problem+json\r\n");
  });
  Client client = Client::Create(Loopback(server)).value();
  EXPECT_EQ(RefusalsOf(client.Request("GET", "/refused").status()), findings);
  EXPECT_EQ(client.Exchange("GET", "/refused").value().status, 403);
  EXPECT_EQ(client.Request("GET", "/busy").status().code(), kMachineFailure);
  const absl::Status proxy = client.Request("GET", "/proxy").status();
  EXPECT_EQ(ReasonOf(proxy), Reason::kPolicyDenied);
  EXPECT_THAT(std::string(proxy.message()), HasSubstr("404"));
  EXPECT_EQ(ReasonOf(client.RequestJson("GET", "/refused").status()), Reason::kMeasurementMismatch);
}

class TlsTest : public ::testing::Test {
 protected:
  TlsTest()
      : root_(crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test root"))),
        server_certificate_(crypto::testing::Issue(root_, ServerOptions())) {}

  static CertificateOptions ServerOptions() {
    return {.common_name = "broker",
            .extended_key_usage = "serverAuth",
            .subject_alternative_name = "IP:127.0.0.1"};
  }
  void Start(const TestCertificate& certificate, bool only_tls_1_2 = false) {
    server_ = std::make_unique<TestServer>(
        TestServer::Options{.certificate = &certificate, .only_tls_1_2 = only_tls_1_2},
        [](const TestServer::Request&) { return HttpAnswer(200, "{}"); });
  }
  std::string Url(std::string_view host = "127.0.0.1") const {
    return StrCat("https://", host, ":", server_->port());
  }
  ClientOptions ByAuthority(const TestCertificate& authority, std::string url) {
    return {.base_url = std::move(url),
            .authority_file = directory_.Write("root.pem", authority.certificate.ToPem())};
  }
  static std::string PinOf(const TestCertificate& certificate) {
    return ToHex(crypto::Sha256(certificate.certificate.der()).value());
  }
  // Refused before the server saw a request.
  void ExpectRefused(const ClientOptions& options, Reason reason, std::string_view detail) {
    Client client = Client::Create(options).value();
    const absl::Status status = client.Exchange("GET", "/").status();
    EXPECT_EQ(ReasonOf(status), reason) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string(detail)));
    EXPECT_THAT(server_->requests(), SizeIs(0));
  }

  TemporaryDirectory directory_;
  const TestCertificate root_;
  const TestCertificate server_certificate_;
  std::unique_ptr<TestServer> server_;
};

TEST_F(TlsTest, AuthorityAndNameAreHeld) {
  Start(server_certificate_);
  Client client = Client::Create(ByAuthority(root_, Url())).value();
  EXPECT_TRUE(client.RequestJson("GET", "/a").ok());
  EXPECT_TRUE(client.RequestJson("POST", "/b", AsBytes(std::string(1 << 20, 'x'))).ok());
  ASSERT_THAT(server_->requests(), SizeIs(2));
  EXPECT_EQ(server_->requests()[1].connection, 1);
  EXPECT_EQ(server_->requests()[1].body.size(), 1u << 20);
  EXPECT_EQ(server_->requests()[1].headers.at("host"), StrCat("127.0.0.1:", server_->port()));
}

TEST_F(TlsTest, AnotherAuthorityIsRefused) {
  Start(server_certificate_);
  const TestCertificate other =
      crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test root"));
  ExpectRefused(ByAuthority(other, Url()), Reason::kCertificateInvalid, "certificate");
}

TEST_F(TlsTest, AnotherNameIsRefused) {
  Start(server_certificate_);
  ExpectRefused(ByAuthority(root_, Url("localhost")), Reason::kCertificateInvalid,
                "hostname mismatch");
}

TEST_F(TlsTest, EachOfSeveralMustBeABroker) {
  Start(server_certificate_);
  // Of another authority, and of another name.
  const TestCertificate other =
      crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test root"));
  const TestCertificate foreign = crypto::testing::Issue(other, ServerOptions());
  TestServer impostor({.certificate = &foreign},
                      [](const TestServer::Request&) { return HttpAnswer(200, "{}"); });
  const std::string false_urls =
      StrCat("https://127.0.0.1:", impostor.port(), ",", Url("localhost"));
  Client client = Client::Create(ByAuthority(root_, StrCat(false_urls, ",", Url()))).value();
  EXPECT_TRUE(client.RequestJson("GET", "/a").ok());
  EXPECT_THAT(server_->requests(), SizeIs(1));
  Client misled = Client::Create(ByAuthority(root_, false_urls)).value();
  EXPECT_EQ(ReasonOf(misled.Exchange("GET", "/").status()), Reason::kCertificateInvalid);
  EXPECT_THAT(server_->requests(), SizeIs(1));
  EXPECT_THAT(impostor.requests(), SizeIs(0));
}

TEST_F(TlsTest, AnExpiredCertificateIsRefused) {
  CertificateOptions options = ServerOptions();
  options.not_after = absl::FromUnixSeconds(1'700'000'001);
  const TestCertificate expired = crypto::testing::Issue(root_, options);
  Start(expired);
  ExpectRefused(ByAuthority(root_, Url()), Reason::kCertificateInvalid, "expired");
}

TEST_F(TlsTest, ACertificateForAnotherUseIsRefused) {
  CertificateOptions options = ServerOptions();
  options.extended_key_usage = "codeSigning";
  const TestCertificate signer = crypto::testing::Issue(root_, options);
  Start(signer);
  ExpectRefused(ByAuthority(root_, Url()), Reason::kCertificateInvalid, "purpose");
}

TEST_F(TlsTest, APinIsThatCertificateAndNoOther) {
  Start(server_certificate_);
  Client client = Client::Create({.base_url = Url("localhost"),
                                  .server_certificate = PinOf(server_certificate_)})
                      .value();
  EXPECT_TRUE(client.RequestJson("GET", "/").ok());

  const TestCertificate other = crypto::testing::Issue(root_, ServerOptions());
  client = Client::Create({.base_url = Url(), .server_certificate = PinOf(other)}).value();
  const absl::Status status = client.Exchange("GET", "/").status();
  EXPECT_EQ(ReasonOf(status), Reason::kCertificateInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr(PinOf(server_certificate_)));
  EXPECT_THAT(server_->requests(), SizeIs(1));
}

TEST_F(TlsTest, OlderTlsIsRefused) {
  Start(server_certificate_, /*only_tls_1_2=*/true);
  ExpectRefused(ByAuthority(root_, Url()), Reason::kUnsupported, "TLS 1.3");
}

// A broker made of this area's own functions.
class FakeBroker {
 public:
  std::string operator()(const TestServer::Request& request) {
    const bool in_session = request.headers.count("cookie") != 0 &&
                            request.headers.at("cookie") == "kbs-session-id=session1";
    if (request.target == kAuthPath) {
      if (!ParseAuthRequest(AsBytes(request.body), "auth").ok()) return Deny("auth");
      return HttpAnswer(200, FormatChallenge({nonce}), "Set-Cookie: kbs-session-id=session1\r\n");
    }
    if (request.target == kAttestPath) {
      const auto attestation = ParseAttestation(AsBytes(request.body), "attestation");
      if (!in_session || !attestation.ok() || attestation->runtime_data.nonce != nonce) {
        return Deny("attest");
      }
      attested.emplace(attestation->runtime_data.key);
      return HttpAnswer(200, FormatTokenResponse("a.b.c"));
    }
    if (!in_session || !attested.has_value() ||
        request.target != StrCat(kResourcePrefix, "agreement/train/weights")) {
      return Deny("resource");
    }
    const SecretBytes secret("0123456789abcdef");
    return HttpAnswer(200, crypto::EncryptJwe(secret, *attested, "secret").value().dump());
  }

  Digest32 nonce = {7};
  std::optional<crypto::PublicKey> attested;

 private:
  static std::string Deny(std::string_view item) {
    const Problem problem =
        ProblemOf(ProblemKind::kPolicyDeny, Refuse(Reason::kPolicyDenied, item, "denied"));
    return HttpAnswer(problem.status, FormatProblem(problem));
  }
};

TEST(SessionTest, AuthAttestResource) {
  FakeBroker broker;
  TestServer server({}, [&](const TestServer::Request& request) { return broker(request); });
  Client client = Client::Create(Loopback(server)).value();
  const PrivateKey key = PrivateKey::Generate(KeyType::kEcP256).value();
  Session session(client, key);
  EXPECT_EQ(session.Attest(Json::object()).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ReasonOf(session.Resource({"agreement", "train", "weights"}).status()),
            Reason::kPolicyDenied);

  EXPECT_EQ(session.Auth({}).value(), (Challenge{broker.nonce}));
  EXPECT_EQ(session.Attest(Json{{"parts", 1}}).value(), "a.b.c");
  EXPECT_EQ(session.token(), "a.b.c");
  EXPECT_EQ(session.Resource({"agreement", "train", "weights"}).value().RevealText(),
            "0123456789abcdef");
  EXPECT_EQ(ReasonOf(session.Resource({"agreement", "train", "other"}).status()),
            Reason::kPolicyDenied);
  EXPECT_EQ(ReasonOf(session.Resource({"..", "train", "other"}).status()), Reason::kPathUnsafe);
  // The nonce was used.
  EXPECT_EQ(session.Attest(Json::object()).status().code(), absl::StatusCode::kInvalidArgument);
}

// The secret is wrapped to the session's key: a broker that is fooled about it serves nobody else.
TEST(SessionTest, ASecretForAnotherKeyDoesNotOpen) {
  FakeBroker broker;
  TestServer server({}, [&](const TestServer::Request& request) { return broker(request); });
  Client client = Client::Create(Loopback(server)).value();
  const PrivateKey key = PrivateKey::Generate(KeyType::kEcP256).value();
  Session session(client, key);
  ASSERT_TRUE(session.Auth({}).ok());
  ASSERT_TRUE(session.Attest(Json::object()).ok());
  broker.attested = PrivateKey::Generate(KeyType::kEcP256).value().public_key();
  EXPECT_EQ(ReasonOf(session.Resource({"agreement", "train", "weights"}).status()),
            Reason::kContentMismatch);
}

}  // namespace
}  // namespace pavise::kbs
