#include "pavise/agent/remote_file.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/base/testing/temporary_directory.h"
#include "pavise/crypto/testing/test_certificates.h"
#include "pavise/kbs/testing/test_server.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pavise::agent {
namespace {

using kbs::testing::HttpAnswer;
using kbs::testing::TestServer;

// Over several reads, and not of one byte alone.
std::string LargeContent() {
  std::string content(3'000'000, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * i >> 7);
  return content;
}

class RemoteFileTest : public ::testing::Test {
 protected:
  RemoteFileTest()
      : server_({}, [this](const TestServer::Request& request) {
          const auto found = answers_.find(request.target);
          return found != answers_.end() ? found->second : HttpAnswer(404, "not here");
        }) {}

  std::string Url(const std::string& target) const {
    return StrCat("http://127.0.0.1:", server_.port(), target);
  }
  std::string Read(const std::string& name) const {
    std::ifstream file(directory_ / name, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(file), {});
  }
  absl::Status Fetch(const std::string& target, const std::string& name = "fetched") const {
    return FetchFile(Url(target), directory_ / name);
  }
  static Reason ReasonOf(const absl::Status& status) { return RefusalsOf(status).at(0).reason; }

  pavise::testing::TemporaryDirectory directory_;
  std::map<std::string, std::string> answers_;
  TestServer server_;
};

TEST_F(RemoteFileTest, AFileComesAndGoesWhole) {
  const std::string content = LargeContent();
  answers_["/a.sealed"] = HttpAnswer(200, content);
  answers_["/put"] = HttpAnswer(201, "");
  ASSERT_TRUE(Fetch("/a.sealed").ok());
  EXPECT_EQ(Read("fetched"), content);
  ASSERT_TRUE(PutFile(directory_ / "fetched", Url("/put")).ok());
  ASSERT_TRUE(PutText("statement", Url("/put")).ok());
  const auto requests = server_.requests();
  ASSERT_EQ(requests.size(), 3u);
  EXPECT_EQ(requests[1].method, "PUT");
  EXPECT_EQ(requests[1].body, content);
  EXPECT_EQ(requests[2].body, "statement");
  // An empty one, too.
  answers_["/empty"] = HttpAnswer(200, "");
  ASSERT_TRUE(Fetch("/empty", "empty").ok());
  EXPECT_TRUE(std::filesystem::exists(directory_ / "empty"));
}

TEST_F(RemoteFileTest, ATextIsShort) {
  answers_["/id"] = HttpAnswer(200, "17\n");
  answers_["/most"] = HttpAnswer(200, std::string(kMostRemoteTextBytes, 'x'));
  answers_["/long"] = HttpAnswer(200, std::string(kMostRemoteTextBytes + 1, 'x'));
  EXPECT_EQ(FetchText(Url("/id")).value(), "17\n");
  EXPECT_EQ(FetchText(Url("/most")).value().size(), kMostRemoteTextBytes);
  EXPECT_EQ(ReasonOf(FetchText(Url("/long")).status()), Reason::kLimitExceeded);
}

TEST_F(RemoteFileTest, ServersThatAnswerOtherwise) {
  EXPECT_EQ(ReasonOf(Fetch("/absent")), Reason::kFileMissing);
  EXPECT_EQ(ReasonOf(PutText("x", Url("/absent"))), Reason::kFileMissing);
  // No redirect is followed.
  answers_["/moved"] = HttpAnswer(302, "", StrCat("Location: ", Url("/id"), "\r\n"));
  answers_["/id"] = HttpAnswer(200, "17");
  EXPECT_EQ(ReasonOf(FetchText(Url("/moved")).status()), Reason::kFileMissing);
  EXPECT_EQ(server_.requests().back().target, "/moved");
  // Cut short, with and without a length.
  answers_["/short"] = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n12345";
  EXPECT_EQ(ExitCodeOf(Fetch("/short", "short")), 3);
  answers_["/unsaid"] = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n12345";
  EXPECT_EQ(ReasonOf(Fetch("/unsaid", "unsaid")), Reason::kMalformed);
  answers_["/other"] = "SSH-2.0-server\r\n\r\n";
  EXPECT_EQ(ExitCodeOf(Fetch("/other", "other")), 3);
  // What is there is not overwritten.
  std::ofstream(directory_ / "there") << "mine";
  EXPECT_EQ(ExitCodeOf(Fetch("/id", "there")), 3);
  EXPECT_EQ(Read("there"), "mine");
}

TEST_F(RemoteFileTest, OverTlsTheServerIsOneThatThisMachineKnows) {
  const auto root = crypto::testing::MakeRoot(crypto::testing::AuthorityOptions("test root"));
  crypto::testing::CertificateOptions names;
  names.subject_alternative_name = "IP:127.0.0.1";
  names.extended_key_usage = "serverAuth";
  const auto certificate = crypto::testing::Issue(root, names);
  TestServer server({.certificate = &certificate},
                    [](const TestServer::Request&) { return HttpAnswer(200, "17"); });
  const std::string rest = StrCat(":", server.port(), "/id");
  EXPECT_EQ(ReasonOf(FetchText("https://127.0.0.1" + rest).status()), Reason::kCertificateInvalid);
  // OpenSSL's way to name this machine's authorities.
  setenv("SSL_CERT_FILE", directory_.Write("root.pem", root.certificate.ToPem()).c_str(), 1);
  EXPECT_EQ(FetchText("https://127.0.0.1" + rest).value_or("none"), "17");
  EXPECT_EQ(ReasonOf(FetchText("https://localhost" + rest).status()), Reason::kCertificateInvalid);
  unsetenv("SSL_CERT_FILE");
  EXPECT_EQ(server.requests().size(), 1u);
}

TEST_F(RemoteFileTest, WhatIsNoUrl) {
  EXPECT_TRUE(IsRemote("http://host/a"));
  EXPECT_FALSE(IsRemote("file.sealed"));
  EXPECT_TRUE(IsRemote("https://host/a"));
  EXPECT_FALSE(IsRemote("ftp://host/a"));
  for (const char* url :
       {"http://", "http://host", "http:///a", "http://host:/a", "http://host:0/a",
        "http://host:65536/a", "http://host:x/a", "http://user@host/a", "http://host/a b",
        "http://host/a\r\nX: y", "http://host/\xc3\xa9", "https://", "https://host", "file"}) {
    EXPECT_EQ(ExitCodeOf(FetchText(url).status()), 2) << url;
  }
}

}  // namespace
}  // namespace pavise::agent
