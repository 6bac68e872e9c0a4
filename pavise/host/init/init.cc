// The first process of a measured host. It mounts what a kernel offers, loads the modules, the IMA
// policy and the verified root file system that /etc/pavise/init.conf names, becomes that root, and
// runs one program: there is no shell, no login and no way to another program. Whatever fails, and
// the program's end, switch the machine off.
//
// /etc/pavise/init.conf, measured with the initial file system (docs/formats/host_image.md), one
// directive a line, words separated by single spaces:
//   module PATH                    a kernel module; in this order
//   ima-policy PATH                loaded by its path, so that IMA measures it
//   root DATA_BLOCKS HASH_BLOCK ROOT_HASH SALT
//                                  squashfs on dm-verity (SHA-256, 4 KiB blocks, tree appended), on
//                                  the first virtio, SCSI or NVMe disk whose superblock has this
//                                  salt and whose tree has this root hash (verity_root.h)
//   network ADDRESS/PREFIX [GATEWAY]
//                                  IPv4 on the first Ethernet device, and the loopback device
//   start PROGRAM [ARGUMENT...]    absolute path

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "pavise/host/init/verity_root.h"

namespace {

using pavise::host::HoldsVerityRoot;
using pavise::host::VerityRoot;

constexpr const char* kConfiguration = "/etc/pavise/init.conf";
constexpr const char* kRootMount = "/sysroot";
constexpr unsigned kBlockBytes = 4096;
constexpr unsigned kSectorBytes = 512;

[[noreturn]] void SwitchOff() {
  sync();
  reboot(RB_POWER_OFF);
  _exit(1);  // not as process 1: outside a machine of its own
}

[[noreturn]] void Fail(const std::string& what, int error_number = errno) {
  std::fprintf(stderr, "pavise-init: %s: %s\npavise-init: the machine is switched off\n",
               what.c_str(), std::strerror(error_number));
  std::fflush(stderr);
  SwitchOff();
}

void Mount(const char* type, const char* target, unsigned long flags, const char* data = "") {
  mkdir(target, 0755);
  if (mount(type, target, type, flags, data) != 0) Fail(std::string("mounting ") + target);
}

void LoadModule(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  // By descriptor: the kernel reads, measures and checks the signature of the same bytes.
  if (file < 0 || syscall(SYS_finit_module, file, "", 0) != 0) {
    if (errno != EEXIST) Fail("module " + path);
  }
  close(file);
}

void LoadImaPolicy(const std::string& path) {
  const int file = open("/sys/kernel/security/ima/policy", O_WRONLY | O_CLOEXEC);
  const ssize_t size = static_cast<ssize_t>(path.size());
  if (file < 0 || write(file, path.data(), path.size()) != size || close(file) != 0) {
    Fail("IMA policy " + path);
  }
}

// What a directory lists, sorted.
std::vector<std::string> NamesIn(const char* path) {
  std::vector<std::string> names;
  if (DIR* directory = opendir(path)) {
    while (const dirent* entry = readdir(directory)) {
      if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    }
    closedir(directory);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// One dm ioctl with the header filled in and `payload` after it.
bool DeviceMapper(int control, unsigned long command, uint32_t flags, uint32_t target_count,
                  const std::string& payload, uint64_t* device = nullptr) {
  std::vector<char> buffer(std::max<size_t>(4096, sizeof(dm_ioctl) + payload.size()));
  auto* header = reinterpret_cast<dm_ioctl*>(buffer.data());
  header->version[0] = DM_VERSION_MAJOR;
  header->data_size = static_cast<uint32_t>(buffer.size());
  header->data_start = sizeof(dm_ioctl);
  header->target_count = target_count;
  header->flags = flags;
  std::strcpy(header->name, "root");
  std::memcpy(buffer.data() + sizeof(dm_ioctl), payload.data(), payload.size());
  if (ioctl(control, command, buffer.data()) != 0) return false;
  if (device != nullptr) *device = header->dev;
  return true;
}

// Whether the verified root lies on this disk; it is mounted then.
bool MountVerityRoot(int control, const std::string& disk, const VerityRoot& root) {
  DeviceMapper(control, DM_DEV_REMOVE, 0, 0, "");
  uint64_t device = 0;
  if (!DeviceMapper(control, DM_DEV_CREATE, 0, 0, "", &device)) Fail("device mapper");
  const std::string parameters = "1 " + disk + " " + disk + " 4096 4096 " + root.data_blocks + " " +
                                 root.hash_block + " sha256 " + root.root_hash + " " + root.salt +
                                 " 1 panic_on_corruption";
  dm_target_spec target = {};
  target.length =
      std::strtoull(root.data_blocks.c_str(), nullptr, 10) * (kBlockBytes / kSectorBytes);
  std::strcpy(target.target_type, "verity");
  std::string payload(reinterpret_cast<const char*>(&target), sizeof(target));
  payload += parameters;
  payload.resize((payload.size() + 8) / 8 * 8);
  if (!DeviceMapper(control, DM_TABLE_LOAD, DM_READONLY_FLAG, 1, payload) ||
      !DeviceMapper(control, DM_DEV_SUSPEND, 0, 0, "")) {
    return false;
  }
  mknod("/dev/verified-root", S_IFBLK | 0400,
        makedev(static_cast<unsigned>((device >> 8) & 0xfff),
                static_cast<unsigned>((device & 0xff) | ((device >> 12) & 0xfff00))));
  mkdir(kRootMount, 0755);
  return mount("/dev/verified-root", kRootMount, "squashfs", MS_RDONLY | MS_NODEV | MS_NOSUID,
               "") == 0;
}

bool IsDiskOf(const std::string& disk, const VerityRoot& root) {
  const int file = open(disk.c_str(), O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool holds = HoldsVerityRoot(file, root);
  close(file);
  return holds;
}

void BecomeRoot(const VerityRoot& root) {
  const int control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
  if (control < 0) Fail("/dev/mapper/control");
  for (int attempt = 0; attempt < 50; ++attempt) {  // disks appear a moment after their driver
    for (const std::string& name : NamesIn("/sys/block")) {
      if (!name.starts_with("vd") && !name.starts_with("sd") && !name.starts_with("nvme")) continue;
      const std::string disk = "/dev/" + name;
      if (!IsDiskOf(disk, root)) continue;
      if (!MountVerityRoot(control, disk, root)) Fail("verified root on " + disk);
      close(control);
      for (const char* mounted : {"/proc", "/sys", "/dev", "/run"}) {
        if (mount(mounted, (kRootMount + std::string(mounted)).c_str(), nullptr, MS_MOVE,
                  nullptr) != 0) {
          Fail(std::string("moving ") + mounted);
        }
      }
      if (chdir(kRootMount) != 0 || mount(".", "/", nullptr, MS_MOVE, nullptr) != 0 ||
          chroot(".") != 0 || chdir("/") != 0) {
        Fail("changing to the verified root");
      }
      return;
    }
    usleep(100'000);
  }
  Fail("no disk holds the verified root", ENODEV);
}

sockaddr Ipv4(in_addr_t address) {
  sockaddr_in internet = {};
  internet.sin_family = AF_INET;
  internet.sin_addr.s_addr = address;
  sockaddr generic = {};
  std::memcpy(&generic, &internet, sizeof(internet));
  return generic;
}

in_addr_t ParseIpv4(const std::string& text) {
  in_addr address = {};
  if (inet_pton(AF_INET, text.c_str(), &address) != 1) Fail("no IPv4 address: " + text, EINVAL);
  return address.s_addr;
}

ifreq Interface(const std::string& name) {
  ifreq request = {};
  std::strncpy(request.ifr_name, name.c_str(), IFNAMSIZ - 1);
  return request;
}

void SwitchOn(int socket, const std::string& device) {
  ifreq request = Interface(device);
  if (ioctl(socket, SIOCGIFFLAGS, &request) != 0) Fail("network device " + device);
  request.ifr_flags |= IFF_UP;
  if (ioctl(socket, SIOCSIFFLAGS, &request) != 0) Fail("network device " + device);
}

void ConfigureNetwork(const std::string& address_and_prefix, const std::string& gateway) {
  const size_t slash = address_and_prefix.find('/');
  if (slash == std::string::npos) Fail("no prefix length: " + address_and_prefix, EINVAL);
  const int prefix = std::atoi(address_and_prefix.c_str() + slash + 1);
  if (prefix < 1 || prefix > 32) Fail("no prefix length: " + address_and_prefix, EINVAL);
  const int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (control < 0) Fail("network");
  SwitchOn(control, "lo");
  std::string device;
  for (int attempt = 0; attempt < 50 && device.empty(); ++attempt) {
    for (const std::string& name : NamesIn("/sys/class/net")) {
      ifreq request = Interface(name);
      if (ioctl(control, SIOCGIFHWADDR, &request) == 0 &&
          request.ifr_hwaddr.sa_family == ARPHRD_ETHER) {
        device = name;
        break;
      }
    }
    if (device.empty()) usleep(100'000);
  }
  if (device.empty()) Fail("no Ethernet device", ENODEV);
  ifreq request = Interface(device);
  request.ifr_addr = Ipv4(ParseIpv4(address_and_prefix.substr(0, slash)));
  if (ioctl(control, SIOCSIFADDR, &request) != 0) Fail("address of " + device);
  request.ifr_netmask = Ipv4(htonl(~uint32_t{0} << (32 - prefix)));
  if (ioctl(control, SIOCSIFNETMASK, &request) != 0) Fail("network mask of " + device);
  SwitchOn(control, device);
  if (!gateway.empty()) {
    rtentry route = {};
    route.rt_dst = Ipv4(INADDR_ANY);
    route.rt_genmask = Ipv4(INADDR_ANY);
    route.rt_gateway = Ipv4(ParseIpv4(gateway));
    route.rt_flags = RTF_UP | RTF_GATEWAY;
    if (ioctl(control, SIOCADDRT, &route) != 0) Fail("route by " + gateway);
  }
  close(control);
}

// Read whole before anything is done, so that no program inherits the open file.
std::vector<std::string> ReadLines(const char* path) {
  std::ifstream file(path);
  if (!file) Fail(path, ENOENT);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

std::vector<std::string> Words(const std::string& line) {
  std::istringstream stream(line);
  std::vector<std::string> words;
  for (std::string word; std::getline(stream, word, ' ');) words.push_back(word);
  return words;
}

[[noreturn]] void Start(const std::vector<std::string>& command) {
  const pid_t child = fork();
  if (child < 0) Fail("fork");
  if (child == 0) {
    std::vector<char*> arguments;
    for (const std::string& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    // The console takes no input, whoever types on it.
    const int nothing = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (nothing < 0 || dup2(nothing, STDIN_FILENO) < 0) Fail("/dev/null");
    char path[] = "PATH=/usr/bin:/usr/sbin";
    char* environment[] = {path, nullptr};
    execve(arguments[0], arguments.data(), environment);
    Fail("starting " + command[0]);
  }
  for (;;) {  // process 1 also inherits the orphans
    int status = 0;
    const pid_t ended = wait(&status);
    if (ended == child) {
      std::fprintf(stderr, "pavise-init: %s ended with status %d\n", command[0].c_str(),
                   WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
      SwitchOff();
    }
    if (ended < 0 && errno != EINTR) Fail("wait");
  }
}

}  // namespace

int main() {
  if (getpid() != 1) {
    std::fprintf(stderr, "pavise-init is the first process of a measured host, and nothing else\n");
    return 2;
  }
  constexpr unsigned long kNothing = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  Mount("proc", "/proc", kNothing);
  Mount("sysfs", "/sys", kNothing);
  Mount("devtmpfs", "/dev", MS_NOSUID | MS_NOEXEC);
  Mount("tmpfs", "/run", kNothing, "mode=0755");
  Mount("securityfs", "/sys/kernel/security", kNothing);
  // For limits of what the program starts. A kernel without it runs, and says so itself.
  (void)mount("cgroup2", "/sys/fs/cgroup", "cgroup2", kNothing, "");
  for (const std::string& line : ReadLines(kConfiguration)) {
    const std::vector<std::string> words = Words(line);
    if (words.empty() || words[0][0] == '#') continue;
    const auto is = [&](const char* name, size_t count) {
      return words[0] == name && words.size() == count;
    };
    if (is("module", 2)) {
      LoadModule(words[1]);
    } else if (is("ima-policy", 2)) {
      LoadImaPolicy(words[1]);
    } else if (is("root", 5)) {
      BecomeRoot({words[1], words[2], words[3], words[4]});
    } else if (is("network", 2) || is("network", 3)) {
      ConfigureNetwork(words[1], words.size() == 3 ? words[2] : "");
    } else if (words[0] == "start" && words.size() >= 2 && words[1][0] == '/') {
      Start({words.begin() + 1, words.end()});
    } else {
      Fail("not understood: " + line, EINVAL);
    }
  }
  Fail("nothing to start", EINVAL);
}
