#ifndef PAVISE_AUDIT_ATTACKS_H_
#define PAVISE_AUDIT_ATTACKS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pavise/audit/recording.h"
#include "pavise/offload/tensor.h"

// Attacks on what a worker sees of a layer Y = X W. Each is a pure function from what an adversary
// of the stated kind has to a guess; scoring guesses is score.h's. "Seen" is X' or W', "known" what
// the adversary has in the clear. All are deterministic. Nothing here asks for a key.
namespace pavise::audit {

using offload::Matrix;

// ---- Against a public model that the weights were fine-tuned from (k x n, as `seen`) -----------

// ArrowMatch (USENIX Security 2025): each column of `base`, and then each row, is looked for among
// those of `seen` by the direction it has, whatever its scale. A guess of W. Undoes one-sided
// permutations and scales.
Matrix MatchDirections(const Matrix& seen, const Matrix& base);

// Undoes two-sided permutations and positive scales: rows and columns divided by the middle of
// their magnitudes (log |W| less medians) do not depend on scales, and sorted rows of that not on
// the order of columns. Rows are matched by these, columns and rows in turns by correlation, and
// scales are fitted. A guess of W.
Matrix MatchSignatures(const Matrix& seen, const Matrix& base);

// Where a direction of the plain space is taken to be in that of the worker. Row by row: a plain
// unit vector, and the worker's.
struct DirectionGuess {
  Matrix plain;
  Matrix seen;
};

// Rotations keep singular values: the `count` largest of both are paired in order. Directions of
// the k dimension.
DirectionGuess AlignSingularVectors(const Matrix& seen, const Matrix& base, size_t count);

// ---- From the traffic alone --------------------------------------------------------------------

// Tempo's key shift is Dk^2 and Dn^-2: weights and inputs without coefficients.
SeenLayer RemoveShiftedScales(const SeenLayer& seen);

// Rows of `seen` whose elements are multiples of one number, as rows of integers scaled by an
// integer are: each row is divided by its greatest common divisor. Rows that are none stay.
Matrix DivideByCommonDivisors(const Matrix& seen);

// Hadamard matrices are public: blocks of 64 columns (or where there are fewer, the largest power
// of two), times the orthonormal one once more, which undoes one round of them.
Matrix UndoHadamard(const Matrix& seen);

// FastICA (symmetric, tanh) on the rows of all matrices, in the space of the `count` largest
// principal components: directions along which the inputs are independent. One a row, `count` at
// most. Mixing rows makes them more alike to Gaussian noise, and does not make them that: where
// rows are many it works under orthogonal keys of both dimensions.
Matrix IndependentComponents(const std::vector<const Matrix*>& seen, size_t count, uint64_t seed);

// Images that lie row by row, `places` of them each, less the mean of each image and channel.
// Means are what mixed samples have most in common.
Matrix LessImageMeans(const Matrix& seen, size_t places);

// The inner products of all pairs of `places` over the samples and channels of images, less the
// means of rows and columns: neither a rotation of samples nor one of channels changes them, so
// that what a batch's images look like in the mean stays.
Matrix PlaceProducts(const Matrix& seen, size_t places);

// The largest and the smallest principal direction, taken for the constant one: activations after
// a ReLU are positive, so that it is their largest; normalised ones sum to zero, so that they have
// none of it.
DirectionGuess GuessConstantDirection(const std::vector<const Matrix*>& seen);

// Of each row the cluster that it is in (k-means by cosine, from the rows that are farthest from
// each other); rows of zeros are in cluster `count`. Gradients of one class point one way.
std::vector<size_t> ClusterRows(const Matrix& rows, size_t count);

// Rows of probabilities, with integer factors for rows and for columns: factors of a rank-one fit,
// rounded to integers up to 16, and rows made to sum to one.
Matrix RemoveProbabilityScales(const Matrix& seen);

// Shares of the form x + a r modulo `modulus` with a different `a` of 1 to 3 each: what two of them
// give, for the numbers of workers under which it is least like noise. Centred residues.
Matrix CombineShares(const Matrix& first, const Matrix& second, int modulus);

// For each row of `first` the largest |cosine| with a row of `second` that in turn has none closer
// in `first`, else 0. Rows of one sample under one key lie along one line.
std::vector<double> LinkRows(const Matrix& first, const Matrix& second);

// Masks of few dimensions, or the same ones in each step, are the largest singular vectors of all
// that was seen: what is left of `seen` beside the `dimensions` largest.
Matrix ProjectOut(const std::vector<const Matrix*>& all, const Matrix& seen, size_t dimensions);

// ---- With known inputs
// ---------------------------------------------------------------------------

// Covariances of what is known and what is seen have the same eigenvalues under a rotation: the
// `count` largest are paired in order. `known` is X itself, or other samples of its kind.
DirectionGuess AlignPrincipalComponents(const Matrix& seen, const Matrix& known, size_t count);

// For each of a few known rows of X the row of `seen_known` that has its values in another order (a
// positive factor apart), and the order of columns that follows from all of them. `seen` with its
// columns in that order; rows stay where they are.
Matrix SortColumns(const Matrix& seen_known, const Matrix& known, const Matrix& seen);

// Linear regression from rows of `seen_known` to rows of `known`, which are taken for each other's
// in this order, applied to `seen`.
Matrix InvertActivations(const Matrix& seen_known, const Matrix& known, const Matrix& seen);

// ---- Theft
// ---------------------------------------------------------------------------------------

// A layer that begins as `weights` and is fine-tuned on known pairs until it fits them: the nearest
// weights that do. No pairs: as they are.
Matrix FineTune(const Matrix& weights, const Matrix& known_inputs, const Matrix& known_outputs);

}  // namespace pavise::audit

#endif  // PAVISE_AUDIT_ATTACKS_H_
