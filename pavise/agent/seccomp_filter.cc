#include "pavise/agent/seccomp_filter.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cstdint>
#include <vector>

namespace pavise::agent {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "no system call filter for this architecture"
#endif

// The last call that was looked at: map_shadow_stack (Linux 6.6), the same number on both.
constexpr uint32_t kLastKnownCall = 453;
// Calls of the x32 ABI have this bit, and would pass a filter of plain numbers.
[[maybe_unused]] constexpr uint32_t kX32Bit = 0x40000000;
constexpr uint32_t kNamespaceFlags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET |
                                     CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

constexpr uint32_t kRefusedCalls[] = {
    // Other processes' memory and descriptors.
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kcmp,
    438 /* pidfd_getfd */,
    440 /* process_madvise */,
    // The kernel's larger attack surfaces.
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    425 /* io_uring_setup */,
    426 /* io_uring_enter */,
    427 /* io_uring_register */,
    // File systems and namespaces.
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    428 /* open_tree */,
    429 /* move_mount */,
    430 /* fsopen */,
    431 /* fsconfig */,
    432 /* fsmount */,
    433 /* fspick */,
    442 /* mount_setattr */,
    SYS_open_by_handle_at,
    SYS_name_to_handle_at,
    SYS_fanotify_init,
    SYS_quotactl,
    443 /* quotactl_fd */,
    // The machine.
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_acct,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_vhangup,
    SYS_nfsservctl,
    SYS_lookup_dcookie,
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef __x86_64__
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
    SYS__sysctl,
    SYS_uselib,
    SYS_ustat,
    SYS_sysfs,
#endif
};

constexpr uint32_t Refused(int error) {
  return SECCOMP_RET_ERRNO | (static_cast<uint32_t>(error) & SECCOMP_RET_DATA);
}

class Program {
 public:
  void Load(size_t offset) { Add(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)); }
  // The low 32 bits of an argument (all machines named above are little-endian).
  void LoadArgument(int index) {
    Load(offsetof(seccomp_data, args) + sizeof(uint64_t) * static_cast<size_t>(index));
  }
  void Return(uint32_t action) { Add(BPF_RET | BPF_K, action); }
  void ReturnIfEqual(uint32_t value, uint32_t action) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    Return(action);
  }
  void ReturnUnlessEqual(uint32_t value, uint32_t action) {
    Add(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0);
    Return(action);
  }
  void ReturnIfAnyBit(uint32_t bits, uint32_t action) {
    Add(BPF_JMP | BPF_JSET | BPF_K, bits, 0, 1);
    Return(action);
  }
  void ReturnIfGreater(uint32_t value, uint32_t action) {
    Add(BPF_JMP | BPF_JGT | BPF_K, value, 0, 1);
    Return(action);
  }
  // What `body` adds is passed over unless the call is `number`; it ends with a return.
  template <typename Body>
  void IfCall(uint32_t number, Body body) {
    Program inner;
    body(inner);
    Add(BPF_JMP | BPF_JEQ | BPF_K, number, 0, static_cast<uint8_t>(inner.code_.size()));
    code_.insert(code_.end(), inner.code_.begin(), inner.code_.end());
  }
  Bytes Encoded() const {
    const auto* begin = reinterpret_cast<const uint8_t*>(code_.data());
    return Bytes(begin, begin + code_.size() * sizeof(sock_filter));
  }

 private:
  void Add(uint16_t code, uint32_t k, uint8_t if_true = 0, uint8_t if_false = 0) {
    code_.push_back(sock_filter{code, if_true, if_false, k});
  }
  std::vector<sock_filter> code_;
};

}  // namespace

Bytes SeccompFilter() {
  Program program;
  program.Load(offsetof(seccomp_data, arch));
  program.ReturnUnlessEqual(kArchitecture, SECCOMP_RET_KILL_PROCESS);
  program.Load(offsetof(seccomp_data, nr));
#ifdef __x86_64__
  program.ReturnIfAnyBit(kX32Bit, SECCOMP_RET_KILL_PROCESS);
#endif
  program.ReturnIfEqual(SYS_clone3, Refused(ENOSYS));
  program.ReturnIfGreater(kLastKnownCall, Refused(ENOSYS));
  for (const uint32_t call : kRefusedCalls) program.ReturnIfEqual(call, Refused(EPERM));
  program.IfCall(SYS_clone, [](Program& clone) {
    clone.LoadArgument(0);
    clone.ReturnIfAnyBit(kNamespaceFlags, Refused(EPERM));
    clone.Return(SECCOMP_RET_ALLOW);
  });
  program.IfCall(SYS_socket, [](Program& socket) {
    socket.LoadArgument(0);
    for (const uint32_t family : {AF_UNIX, AF_INET, AF_INET6}) {
      socket.ReturnIfEqual(family, SECCOMP_RET_ALLOW);
    }
    socket.IfCall(AF_NETLINK, [](Program& netlink) {
      netlink.LoadArgument(2);
      netlink.ReturnIfEqual(NETLINK_ROUTE, SECCOMP_RET_ALLOW);
      netlink.Return(Refused(EPERM));
    });
    socket.Return(Refused(EPERM));
  });
  program.IfCall(SYS_ioctl, [](Program& ioctl) {
    ioctl.LoadArgument(1);
    ioctl.ReturnIfEqual(TIOCSTI, Refused(EPERM));
    ioctl.ReturnIfEqual(TIOCLINUX, Refused(EPERM));
    ioctl.Return(SECCOMP_RET_ALLOW);
  });
  // Reading the limit stays allowed: the new limit's address is null then.
  program.IfCall(SYS_prlimit64, [](Program& limit) {
    limit.LoadArgument(1);
    limit.IfCall(RLIMIT_CORE, [](Program& core) {
      core.Load(offsetof(seccomp_data, args) + sizeof(uint64_t) * 2);
      core.IfCall(0, [](Program& low) {
        low.Load(offsetof(seccomp_data, args) + sizeof(uint64_t) * 2 + sizeof(uint32_t));
        low.ReturnIfEqual(0, SECCOMP_RET_ALLOW);
        low.Return(Refused(EPERM));
      });
      core.Return(Refused(EPERM));
    });
    limit.Return(SECCOMP_RET_ALLOW);
  });
#ifdef SYS_setrlimit
  program.IfCall(SYS_setrlimit, [](Program& limit) {
    limit.LoadArgument(0);
    limit.ReturnIfEqual(RLIMIT_CORE, Refused(EPERM));
    limit.Return(SECCOMP_RET_ALLOW);
  });
#endif
  program.Return(SECCOMP_RET_ALLOW);
  return program.Encoded();
}

}  // namespace pavise::agent
