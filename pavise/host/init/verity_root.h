#ifndef PAVISE_HOST_INIT_VERITY_ROOT_H_
#define PAVISE_HOST_INIT_VERITY_ROOT_H_

#include <string>

namespace pavise::host {

// The words of the directive "root" (docs/formats/host_image.md): decimal numbers of 4 KiB blocks,
// lower-case hex.
struct VerityRoot {
  std::string data_blocks, hash_block, root_hash, salt;
};

// Whether the disk or file behind the open descriptor has, at its place, a dm-verity superblock
// with this salt and a top block of the tree that hashes to the root hash (cryptsetup,
// "DMVerity": version 1, SHA-256 over salt and block). Mapping another disk would make the kernel
// panic at its first block. What lies below the top block the kernel checks as it is read: a disk
// with a copy of the tree and other data still stops the machine. Does not move the file offset.
bool HoldsVerityRoot(int disk, const VerityRoot& root);

}  // namespace pavise::host

#endif  // PAVISE_HOST_INIT_VERITY_ROOT_H_
