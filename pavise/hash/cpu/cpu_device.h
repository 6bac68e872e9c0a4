#ifndef PAVISE_HASH_CPU_CPU_DEVICE_H_
#define PAVISE_HASH_CPU_CPU_DEVICE_H_

#include <memory>

#include "pavise/hash/device.h"

namespace pavise::hash {

// The CPU as a device: work is spread over `threads` threads (0: one for each CPU this process may
// use; at most 1,024), which live as long as the device. Ranges under SHA-2 and BLAKE2b are one
// task each; a BLAKE3 range is spread over its kSubtreeBytes subtrees. The device must outlive its
// buffers and streams. Thread-safe; supports what OpenSSL's loaded providers offer, and BLAKE3.
std::unique_ptr<Device> NewCpuDevice(unsigned threads = 0);
// Borrows the caller's bytes, which must outlive the buffer, without a copy.
std::unique_ptr<Buffer> WrapHostMemory(const Device& cpu_device, ByteSpan host);

// CPUs in this process's affinity mask, at least 1.
unsigned UsableCpus();

}  // namespace pavise::hash

#endif  // PAVISE_HASH_CPU_CPU_DEVICE_H_
