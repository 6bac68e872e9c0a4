#ifndef PAVISE_EVIDENCE_APPRAISE_BOOT_HOST_PROTECTIONS_H_
#define PAVISE_EVIDENCE_APPRAISE_BOOT_HOST_PROTECTIONS_H_

#include <set>
#include <span>
#include <string>
#include <string_view>

#include "pavise/evidence/appraise/check_list.h"

namespace pavise::evidence {

// What a measured host's kernel must be told so that root on it, and whoever reaches a device, can
// read no other process's memory and run no code that was not measured. An allow-list alone does
// not do that: root could load a module, trace a process or start another kernel unmeasured.
struct HostProtection {
  std::string_view name;       // as policies name an exception: "lockdown"
  std::string_view parameter;  // on the kernel's command line: "lockdown=confidentiality"
  std::string_view against;    // what it keeps out, for people
};

// In the order in which the image builder writes them (Linux 6.1,
// Documentation/admin-guide/kernel-parameters.txt and sysctl/kernel.rst).
std::span<const HostProtection> HostProtections();

// Holds a proven kernel command line against HostProtections(), one check each: the parameter must
// stand there exactly once, and its key in no other spelling, since the kernel lets the last one
// win. Beside them only parameters may stand that are known to leave them in force (a list in the
// source), and no "--", after which the kernel reads nothing. kPlatformInsecure. `exceptions`:
// names that the policy allows to be missing; one that names no protection is kPolicyDenied, so
// that a typing error does not pass for a rule.
void CheckHostProtections(std::string_view command_line, const std::set<std::string>& exceptions,
                          CheckList& checks);

}  // namespace pavise::evidence

#endif  // PAVISE_EVIDENCE_APPRAISE_BOOT_HOST_PROTECTIONS_H_
