#ifndef PAVISE_OFFLOAD_TESTING_FRAMES_H_
#define PAVISE_OFFLOAD_TESTING_FRAMES_H_

#include <vector>

#include "pavise/offload/worker.h"

// Matrices as frames and back; usage mistakes end the test.
namespace pavise::offload::testing {

inline Frame FrameOf(MatrixView values, DType type = DType::kFp32) {
  return {type, 0, values.rows, values.columns, PackMatrix(values, type, "test").value()};
}
inline Frame FrameOf(const ResidueMatrix& residues, int modulus) {
  return {DType::kFp32, modulus, residues.rows(), residues.columns(),
          Bytes(residues.values().begin(), residues.values().end())};
}
inline Frames FramesOf(const Share& share, const std::vector<int>& moduli,
                       DType type = DType::kFp32) {
  if (moduli.empty()) return {FrameOf(share.values, type)};
  Frames frames;
  for (size_t p = 0; p < moduli.size(); ++p) {
    frames.push_back(FrameOf(share.residues[p], moduli[p]));
  }
  return frames;
}

inline Matrix FloatsOf(const Frame& frame) {
  return UnpackMatrix(frame.bytes, frame.type, frame.rows, frame.columns, "test").value();
}
inline ResidueMatrix ResiduesOf(const Frame& frame) {
  ResidueMatrix out = ResidueMatrix::Create(frame.rows, frame.columns, "test").value();
  for (size_t i = 0; i < out.values().size(); ++i) {
    out.values()[i] = static_cast<int8_t>(frame.bytes.at(i));
  }
  return out;
}
inline Share ShareOf(const Frames& frames) {
  Share share;
  for (const Frame& frame : frames) {
    if (frame.modulus == 0) {
      share.values = FloatsOf(frame);
    } else {
      share.residues.push_back(ResiduesOf(frame));
    }
  }
  return share;
}

}  // namespace pavise::offload::testing

#endif  // PAVISE_OFFLOAD_TESTING_FRAMES_H_
