// Runs a job and ends itself with SIGKILL when a given number of its steps are behind.
// job_crasher JOB.yaml PORT STEPS (0: never) run|resume: exit code as of ExitCodeOf. What a machine
// and a stakeholder would do is asked of the test behind PORT.

#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "pavise/base/bytes.h"
#include "pavise/base/clock.h"
#include "pavise/base/status.h"
#include "pavise/base/strings.h"
#include "pavise/job/run_job.h"
#include "pavise/kbs/client.h"

namespace pavise::job {
namespace {

class FixedClock final : public Clock {
 public:
  absl::Time Now() const override { return absl::FromUnixSeconds(1'800'000'000); }
};

absl::StatusOr<Bytes> Get(const std::string& port, const std::string& target) {
  kbs::ClientOptions options;
  options.base_url = StrCat("http://127.0.0.1:", port);
  options.allow_plain_loopback = true;
  PAVISE_ASSIGN_OR_RETURN(kbs::Client client, kbs::Client::Create(options));
  PAVISE_ASSIGN_OR_RETURN(kbs::HttpResponse answer, client.Request("GET", target));
  return std::move(answer.body);
}

int Run(const std::string& file, const std::string& port, int last, bool resume) {
  static const FixedClock kClock;
  const absl::StatusOr<Job> job = ReadJob(file);
  if (!job.ok()) return ExitCodeOf(job.status());
  int seen = 0;
  JobServices services;
  services.machine.clock = &kClock;
  services.machine.evidence =
      [&](const Digest32& nonce,
          const crypto::PublicKey& key) -> absl::StatusOr<evidence::CompositeEvidence> {
    PAVISE_ASSIGN_OR_RETURN(const Bytes cbor, Get(port, StrCat("/test/evidence?", ToHex(nonce), "&",
                                                               ToHex(key.der()))));
    return evidence::FromCbor(cbor, "evidence");
  };
  services.fetch_ledger = [&](const std::string&) { return Get(port, "/test/ledger"); };
  services.on_step = [&](std::string_view name) {
    const std::string line = StrCat(name, "\n");
    if (write(STDOUT_FILENO, line.data(), line.size()) < 0 || ++seen == last) {
      kill(getpid(), SIGKILL);
    }
  };
  const absl::Status done = RunJob(*job, resume, services).status();
  if (!done.ok()) fprintf(stderr, "%s\n", done.ToString().c_str());
  return ExitCodeOf(done);
}

}  // namespace
}  // namespace pavise::job

int main(int argc, char** argv) {
  if (argc != 5) return 2;
  return pavise::job::Run(argv[1], argv[2], atoi(argv[3]), std::string(argv[4]) == "resume");
}
