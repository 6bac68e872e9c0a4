#ifndef PAVISE_CLI_TESTING_BROKER_PROCESS_H_
#define PAVISE_CLI_TESTING_BROKER_PROCESS_H_

#include <sys/types.h>

#include <string>

namespace pavise::cli::testing {

// `pavise broker serve` on a loopback port, from its first answer to SIGTERM. A test failure where
// it does not start; its log is "broker.log" in the directory.
class BrokerProcess {
 public:
  BrokerProcess(const std::string& directory, const std::string& configuration);
  ~BrokerProcess();
  BrokerProcess(const BrokerProcess&) = delete;
  BrokerProcess& operator=(const BrokerProcess&) = delete;

  bool is_running() const { return child_ > 0; }
  pid_t id() const { return child_; }
  std::string url() const;
  // Waits for the end that somebody's SIGKILL brings; a test failure where it ends otherwise.
  void ExpectKilled();

 private:
  pid_t child_ = 0;
  int port_ = 0;
};

}  // namespace pavise::cli::testing

#endif  // PAVISE_CLI_TESTING_BROKER_PROCESS_H_
