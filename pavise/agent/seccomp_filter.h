#ifndef PAVISE_AGENT_SECCOMP_FILTER_H_
#define PAVISE_AGENT_SECCOMP_FILTER_H_

#include "pavise/base/bytes.h"

namespace pavise::agent {

// The system call filter of a contained command: struct sock_filter[] in the machine's byte order,
// as seccomp(2) and bubblewrap's --seccomp take it. Beside the namespaces it keeps the command from
// what they do not cover and from the kernel's less trodden ways in.
//
// Refused with EPERM: tracing and reading other processes, keys, BPF, perf, userfaultfd, io_uring
// (its requests pass no filter), mounts, new namespaces, modules, kexec, clocks, swap, quotas,
// open_by_handle_at, terminal input by ioctl (TIOCSTI, TIOCLINUX), a limit for core dumps (which a
// host's handler would receive), and sockets of families other than UNIX, IPv4, IPv6 and routing's
// netlink: VSOCK has no namespace and leads to the hypervisor. With ENOSYS: clone3 (its flags lie
// in memory that a filter cannot read; libraries fall back to clone) and calls newer than this
// list. Calls of another architecture or ABI (i386, x32) end the process.
Bytes SeccompFilter();

}  // namespace pavise::agent

#endif  // PAVISE_AGENT_SECCOMP_FILTER_H_
