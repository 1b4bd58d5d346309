// The library's operations, each declared once. Three builds implement them: kernels/*.cu compiled by nvcc
// (CUDA), the same files compiled by a host compiler with kernels/emulator/ (emulator), and kernels/cpu/ on
// oneDNN (CPU).
//
// Rules for every operation
// - Pointers are dense NHWC arrays of the problem's sizes on one device, aligned to their element. Some
//   kernels need 16-byte alignment and check for it; otherwise a slower kernel serves.
// - A template's T is float or bfloat16. A `const void*` points to the type that the problem's precision
//   names. Arithmetic is always in float; a bfloat16 output is rounded once, when it is written.
// - Work is enqueued on `stream`. The CPU and the emulator ignore it and return when the work is done.
// - Outputs are written, never accumulated, and every element is written, except those of other channels where
//   a problem says that an output is placed. An output may alias an input only where the operation is marked
//   "in place".
// - The result is bit-identical at every call of the same build (on the CPU, for the same number of threads).
// - `workspace` points to at least the bytes that the matching *_workspace function returns. It may be null
//   when that is 0, and contains nothing between calls.
// - An operation with several kernels has a selection table (core/select.h). Of the rows that support the
//   problem the first, or the one of least predicted time, serves it. Where `impl` is an argument, it names a
//   row; nullptr takes the first.
// - Errors: std::invalid_argument for an unknown or unsupporting `impl`; CudaError for a CUDA failure.
//   Problems are valid by construction (problem.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/bfloat16.h"
#include "problem.h"

namespace cconvnet {

using Stream = void*;  // a cudaStream_t

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// ---- fused with a product -------------------------------------------------------------------------------
// Fused operations give results bit-identical to those of the separate ones, called one after the other.

// Applied to y before it is written: + bias, unless null; then max(0, .) if `relu`; then dropout, unless
// null, of problem.y_count() elements, at `step` (see dropout).
struct Epilogue {
  const float* bias = nullptr;
  bool relu = false;
  const DropoutProblem* dropout = nullptr;
  const int64_t* step = nullptr;
};

// What batch_norm_statistics computes of the output y of a convolution, as a matrix of pixels and channels. The
// first `counted` pixels count; 0 means all. Without `mean` nothing is computed; with it all three are given.
// All bits are those of the separate operation. It needs a workspace, so the function that returns its size takes
// `sums`: whether mean is given.
struct Statistics {
  float *mean = nullptr, *variance = nullptr, *unbiased = nullptr;
  int counted = 0;
};

// Applied to the gradient dx of an input before it is written, where the input is the output of a bias and a
// ReLU. As relu_bias_backward does: dx = masked_by > 0 ? scale * dx : 0, unless `masked_by` is null, which is
// that output, of dx's type and shape; then db = bias_grad's of dx as a matrix of pixels and channels. Without
// db nothing is applied. The sums need a workspace, so the functions that return its size take `sums`: whether
// db is given. All bits are those of the separate operations: layers on two devices, where nothing is fused,
// train like layers on one.
struct InputEpilogue {
  const void* masked_by = nullptr;
  float scale = 1.0f;
  float* db = nullptr;
};

// The update of one parameter tensor: v = momentum*v - lr*(g + weight_decay*w); w = w + v. With Nesterov's
// momentum w = w + momentum*v - lr*(g + weight_decay*w), with the new v and the old w. v and w are read and
// written. `w_bf16`, unless null, receives the new w rounded: the copy that products read. Values that
// change from step to step may be on the device, so that a captured step can be replayed. `rates`, unless
// null, contains lr and momentum, which replace the problem's. Nothing is written where `halt` is not null
// and contains anything but 0. Sources: Krizhevsky et al. 2012, section 5; for Nesterov's momentum Sutskever et
// al. 2013, "On the importance of initialization and momentum in deep learning", in PyTorch's form.
struct Update {
  SgdProblem problem;
  const float* rates = nullptr;
  const int32_t* halt = nullptr;
  float* v = nullptr;
  float* w = nullptr;
  bfloat16* w_bf16 = nullptr;
};

// ---- convolution ----------------------------------------------------------------------------------------
// conv_fprop  y[N,P,Q,K] = x * w, then the epilogue, and the statistics of y. y may be placed (ConvProblem), then
//             without a dropout and statistics; dy of the other passes may not.
// conv_dgrad  dx[N,H,W,C] = the gradient of <dy, x * w> by x: the transposed convolution of dy; then the
//             epilogue.
// conv_wgrad  dw[K,R,S,C/groups] = the gradient of <dy, x * w> by w. With `update`, which may be null, dw
//             also updates the weights, and its contents afterwards are unspecified.
// *_impls lists the selection table's rows that support the problem, first choice first.
std::vector<std::string> conv_fprop_impls(const ConvProblem& problem);
std::vector<std::string> conv_dgrad_impls(const ConvProblem& problem);
std::vector<std::string> conv_wgrad_impls(const ConvProblem& problem);
size_t conv_fprop_workspace(const ConvProblem& problem, const char* impl, bool sums);
size_t conv_dgrad_workspace(const ConvProblem& problem, const char* impl, bool sums);
size_t conv_wgrad_workspace(const ConvProblem& problem, const char* impl);
void conv_fprop(const ConvProblem& problem, const void* x, const void* w, const Epilogue& epilogue, void* y,
                void* workspace, Stream stream, const char* impl, const Statistics& statistics);
void conv_dgrad(const ConvProblem& problem, const void* dy, const void* w, const InputEpilogue& epilogue,
                void* dx, void* workspace, Stream stream, const char* impl);
void conv_wgrad(const ConvProblem& problem, const void* x, const void* dy, float* dw, const Update* update,
                void* workspace, Stream stream, const char* impl);

// ---- locally connected ----------------------------------------------------------------------------------
// The convolution's three passes with filters w[P,Q,K,R,S,C/groups] and a bias[P,Q,K] of their own for every
// output position. y[n,p,q,k] is the sum of ConvProblem with w[p,q,k,r,s,c], + bias[p,q,k]. A weight that
// reaches only padding has gradient 0. The bias's gradient is bias_grad's of dy as a matrix[N, P*Q*K].
// Source: cuda-convnet's `local` layer.
std::vector<std::string> local_fprop_impls(const LocalProblem& problem);
std::vector<std::string> local_dgrad_impls(const LocalProblem& problem);
std::vector<std::string> local_wgrad_impls(const LocalProblem& problem);
size_t local_fprop_workspace(const LocalProblem& problem, const char* impl);
size_t local_dgrad_workspace(const LocalProblem& problem, const char* impl, bool sums);
size_t local_wgrad_workspace(const LocalProblem& problem, const char* impl);
void local_fprop(const LocalProblem& problem, const void* x, const void* w, const Epilogue& epilogue, void* y,
                 void* workspace, Stream stream, const char* impl);
void local_dgrad(const LocalProblem& problem, const void* dy, const void* w, const InputEpilogue& epilogue,
                 void* dx, void* workspace, Stream stream, const char* impl);
void local_wgrad(const LocalProblem& problem, const void* x, const void* dy, float* dw, const Update* update,
                 void* workspace, Stream stream, const char* impl);

// ---- fully connected ------------------------------------------------------------------------------------
// fc_fprop  y[N,K] = x[N,C] w[K,C]^T, then the epilogue.
// fc_dgrad  dx[N,C] = dy w, then the epilogue.
// fc_wgrad  dw[K,C] = dy^T x, and `update` as for conv_wgrad.
std::vector<std::string> fc_fprop_impls(const FcProblem& problem);
std::vector<std::string> fc_dgrad_impls(const FcProblem& problem);
std::vector<std::string> fc_wgrad_impls(const FcProblem& problem);
size_t fc_fprop_workspace(const FcProblem& problem, const char* impl);
size_t fc_dgrad_workspace(const FcProblem& problem, const char* impl, bool sums);
size_t fc_wgrad_workspace(const FcProblem& problem, const char* impl);
void fc_fprop(const FcProblem& problem, const void* x, const void* w, const Epilogue& epilogue, void* y,
              void* workspace, Stream stream, const char* impl);
void fc_dgrad(const FcProblem& problem, const void* dy, const void* w, const InputEpilogue& epilogue,
              void* dx, void* workspace, Stream stream, const char* impl);
void fc_wgrad(const FcProblem& problem, const void* x, const void* dy, float* dw, const Update* update,
              void* workspace, Stream stream, const char* impl);

// ---- bias -----------------------------------------------------------------------------------------------
// bias_add   y[rows,k] = x + bias[k], then max(0, .) if `relu`; in place allowed (y = x).
// bias_grad  db[k] = sum over the rows of dy[rows,k].
// relu_bias_backward  dx = y > 0 ? scale * dy : 0 and db = bias_grad's of that dx, in one pass; in place
//            allowed (dx = dy). `scale` is that of a dropout after the ReLU: y, its output, is positive
//            exactly where the ReLU's output was and the unit was kept. Needs bias_grad's workspace. y and dy
//            may be placed (BiasProblem); then dx, which is dense, must not be dy.
template <class T>
void bias_add(const BiasProblem& problem, const T* x, const float* bias, bool relu, T* y, Stream stream);
size_t bias_grad_workspace(const BiasProblem& problem);
template <class T>
void bias_grad(const BiasProblem& problem, const T* dy, float* db, void* workspace, Stream stream);
template <class T>
void relu_bias_backward(const BiasProblem& problem, const T* y, const T* dy, float scale, T* dx, float* db,
                        void* workspace, Stream stream);

// ---- neurons --------------------------------------------------------------------------------------------
// Elementwise, in place allowed (y = x; dx = dy). relu_backward needs only the output: dx = y > 0 ? dy : 0.
// neuron_backward: dx = dy * f'(x), from x and y = f(x). At a kink the derivative is 0: for relu and brelu
// (at both ends) and for abs. sqrt's derivative at 0 is infinite, as in mathematics. Sources: cuda-convnet's
// neuron types; for silu Elfwing et al. 2018, section 2.
template <class T>
void relu_forward(int count, const T* x, T* y, Stream stream);
template <class T>
void relu_backward(int count, const T* y, const T* dy, T* dx, Stream stream);
template <class T>
void neuron_forward(const NeuronProblem& problem, const T* x, T* y, Stream stream);
template <class T>
void neuron_backward(const NeuronProblem& problem, const T* x, const T* y, const T* dy, T* dx, Stream stream);

// ---- local response normalisation -----------------------------------------------------------------------
// d(x) = k + alpha * sum over the window of x^2;  y = x * d^-beta.
// dx = dy * d^-beta - 2 alpha beta x * sum over the windows that contain x of dy * x * d^(-beta-1).
// The backward pass recomputes d from x. Where d exceeds 1e21, or is infinite, an element is recomputed from
// factors that a float can represent. Source: Krizhevsky et al. 2012, section 3.3.
template <class T>
void lrn_forward(const LrnProblem& problem, const T* x, T* y, Stream stream);
size_t lrn_backward_workspace(const LrnProblem& problem);
template <class T>
void lrn_backward(const LrnProblem& problem, const T* x, const T* dy, T* dx, void* workspace, Stream stream);

// Normalisation across channels and the max pooling after it, without the map between them: y[N,P,Q,C] of
// x[N,H,W,C]. Backward, from y and dy[N,P,Q,C]: dx[N,H,W,C], then dx = x > 0 ? dx : 0 if `relu`, that of the
// layer before. On a GPU dx is NaN where d exceeds 1e21. Throws std::invalid_argument unless the region is
// across_channels and the pool's input has the shape of the normalisation's output. `db`, unless null, is the
// gradient of the bias of the layer before, as an InputEpilogue's.
template <class T>
void lrn_maxpool_forward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, T* y, Stream stream);
size_t lrn_maxpool_backward_workspace(const LrnProblem& lrn, const PoolProblem& pool, bool sums);
template <class T>
void lrn_maxpool_backward(const LrnProblem& lrn, const PoolProblem& pool, const T* x, const T* y, const T* dy,
                          bool relu, T* dx, float* db, void* workspace, Stream stream);

// ---- contrast normalisation -----------------------------------------------------------------------------
// m = mean of x over the window; u = x - m; d = k + alpha * sum over the window of u^2; y = x * d^-beta.
// dx = dy * d^-beta + g - sum over the windows that contain x of g / (size of the clipped window), where
// g = -2 alpha beta u * sum over the windows that contain u of dy * x * d^(-beta-1) is the gradient by u.
// The last sum is the gradient through the mean. cuda-convnet, the source of the forward pass (its `cnorm`
// layer), treats the mean as a constant there; this is the true gradient, as finite differences confirm. y
// and dx are NaN where d is infinite.
size_t contrast_norm_forward_workspace(const ContrastNormProblem& problem);
size_t contrast_norm_backward_workspace(const ContrastNormProblem& problem);
template <class T>
void contrast_norm_forward(const ContrastNormProblem& problem, const T* x, T* y, void* workspace,
                           Stream stream);
template <class T>
void contrast_norm_backward(const ContrastNormProblem& problem, const T* x, const T* dy, T* dx,
                            void* workspace, Stream stream);

// ---- batch normalisation --------------------------------------------------------------------------------
// Rows count as the problem says. Sums over them are made in a fixed order, which depends on `counted` alone.
// batch_norm_statistics  mean[k] of x[rows,k] and variance[k] = the mean of (x - mean)^2; unbiased[k] is the sum
//                        of these squares over max(1, counted - 1). Means and squares of parts are merged; the
//                        difference of two mean values never cancels.
// batch_norm_forward  y = gamma * (x - mean) / sqrt(variance + eps) + beta; then + shortcut, unless null; then
//                     max(0, .) if `relu`; in place allowed (y = x or y = shortcut). All bits are those of the
//                     separate operations (add, relu_forward): the sum is of values as T. y = 0 in rows that
//                     do not count.
// batch_norm_backward  The gradient g of the normalised values is y > 0 ? dy : 0, with the output y of the ReLU,
//                      or dy if y is null. With n = counted and xhat = (x - mean) / sqrt(variance + eps):
//                      dbeta = sum of g, dgamma = sum of g * xhat,
//                      dx = gamma / sqrt(variance + eps) * (g - dbeta / n - xhat * dgamma / n), dshortcut = g.
//                      dx and dshortcut are 0 in rows that do not count. Either may be null; one of them may
//                      be dy. The mean and the variance must be those of x.
// Source: Ioffe and Szegedy, "Batch normalization", 2015, algorithm 1. Of moments: Chan, Golub and LeVeque,
// "Updating formulae and a pairwise algorithm for computing sample variances", 1979.
size_t batch_norm_statistics_workspace(const BatchNormProblem& problem);
template <class T>
void batch_norm_statistics(const BatchNormProblem& problem, const T* x, float* mean, float* variance,
                           float* unbiased, void* workspace, Stream stream);
template <class T>
void batch_norm_forward(const BatchNormProblem& problem, const T* x, const float* mean, const float* variance,
                        const float* gamma, const float* beta, const T* shortcut, bool relu, T* y,
                        Stream stream);
size_t batch_norm_backward_workspace(const BatchNormProblem& problem);
template <class T>
void batch_norm_backward(const BatchNormProblem& problem, const T* x, const T* y, const T* dy,
                         const float* mean, const float* variance, const float* gamma, T* dx, float* dgamma,
                         float* dbeta, void* workspace, Stream stream, T* dshortcut);

// ---- pooling --------------------------------------------------------------------------------------------
// maxpool_forward   y = the largest value of the clipped window; NaN if the window contains one. Zeros of both
//                   signs are equal; on a GPU y is the positive one.
// maxpool_backward  dx = the sum of dy over the windows whose y equals x: every tied maximum receives the
//                   whole gradient, as in cuda-convnet.
// avgpool_forward   y = the mean over the clipped window. With count_padding, its sum divided by the size of
//                   the window clipped to the padded image, as in PyTorch and ONNX (count_include_pad).
// avgpool_backward  dx = the sum over the windows that contain x of dy / (the divisor of the mean).
// Backward, the epilogue is applied last.
template <class T>
void maxpool_forward(const PoolProblem& problem, const T* x, T* y, Stream stream);
size_t maxpool_backward_workspace(const PoolProblem& problem, bool sums);
template <class T>
void maxpool_backward(const PoolProblem& problem, const T* x, const T* y, const T* dy,
                      const InputEpilogue& epilogue, T* dx, void* workspace, Stream stream);
template <class T>
void avgpool_forward(const PoolProblem& problem, const T* x, T* y, Stream stream);
size_t avgpool_backward_workspace(const PoolProblem& problem, bool sums);
template <class T>
void avgpool_backward(const PoolProblem& problem, const T* dy, const InputEpilogue& epilogue, T* dx,
                      void* workspace, Stream stream);

// ---- max unpooling --------------------------------------------------------------------------------------
// u[N,H,W,C] is what a max pooling of this problem reads, and x[N,P,Q,C] has a value for each of its windows. The
// place of a window's maximum is that of the first one in row-major order; the first NaN is one.
// maxunpool_forward   y[N,H,W,C] = the sum of x over the windows whose maximum of u is there, 0 where there is
//                     none. Windows that overlap may share a maximum; their values are added, so that the sum
//                     of y is that of x and each x has its gradient.
// maxunpool_backward  dx[N,P,Q,C] = dy at the place of the window's maximum. u has no gradient.
// Unlike the gradient of maxpool_backward, a value goes to one of equal maxima alone. Source: Zeiler and Fergus
// 2014, "Visualizing and understanding convolutional networks", section 2.1.
template <class T>
void maxunpool_forward(const PoolProblem& problem, const T* x, const T* u, T* y, Stream stream);
template <class T>
void maxunpool_backward(const PoolProblem& problem, const T* u, const T* dy, T* dx, Stream stream);

// ---- elementwise maximum --------------------------------------------------------------------------------
// eltmax_forward   y = the larger of a and b, NaN if either is NaN; in place allowed. A maximum of more
//                  tensors is a chain of calls.
// eltmax_backward  dx = x == y ? dy : 0, for each input x of the maximum y; in place allowed (dx = dy). Every
//                  tied input receives the whole gradient. Source: cuda-convnet's eltmax layer.
template <class T>
void eltmax_forward(int count, const T* a, const T* b, T* y, Stream stream);
template <class T>
void eltmax_backward(int count, const T* x, const T* y, const T* dy, T* dx, Stream stream);

// ---- elementwise product --------------------------------------------------------------------------------
// eltmul  y = a * b; in place allowed. The gradients are two more calls: da = eltmul(dy, b), db = eltmul(dy, a).
template <class T>
void eltmul(int count, const T* a, const T* b, T* y, Stream stream);

// ---- dropout --------------------------------------------------------------------------------------------
// In place allowed. The backward pass is the same call on dy: the mask is drawn again, not stored. `step`,
// unless null, is on the device, and its value is added to the problem's subsequence. Source: Salmon et al.
// 2011 for Philox4x32-10.
template <class T>
void dropout(const DropoutProblem& problem, const int64_t* step, const T* x, T* y, Stream stream);

// ---- softmax and cross-entropy --------------------------------------------------------------------------
// softmax_forward   probabilities[n,k] of logits[n,k], in place allowed.
// softmax_cross_entropy_forward  also writes loss[n] and rank[n] for each row. loss = -log(probability of the
//                   label), finite because it is computed from the logits, not from the rounded probability.
//                   With smoothing it is the sum of -target * log(probability) over the classes.
//                   rank is the number of classes before the label when sorted by falling logit, ties by
//                   rising class; a row with a NaN has rank k. The row is wrong at top-t when rank >= t.
// softmax_cross_entropy_backward  dlogits = scale * (probabilities - targets), in place allowed. The targets
//                   are (1 - smoothing) * onehot(label) + smoothing / k.
// softmax_cross_entropy  both in one pass.
// watch_losses      *halt = 1 if any of the losses is infinite or NaN, else 0. Passed as every update's
//                   `halt`, it leaves the weights unchanged in a step that went wrong.
// A label outside [0, k) makes its row's loss NaN, its rank k and its gradient NaN; nothing is read out of
// bounds. A row with the label that the problem ignores has loss, rank and gradient 0, whatever its logits.
// Source of the smoothing: Szegedy et al. 2016, "Rethinking the Inception Architecture for Computer Vision",
// section 7.
template <class T>
void softmax_forward(const SoftmaxProblem& problem, const T* logits, float* probabilities, Stream stream);
template <class T>
void softmax_cross_entropy_forward(const SoftmaxProblem& problem, const T* logits, const int32_t* labels,
                                   float* probabilities, float* loss, int32_t* rank, Stream stream);
template <class T>
void softmax_cross_entropy_backward(const SoftmaxProblem& problem, const float* probabilities,
                                    const int32_t* labels, float scale, T* dlogits, Stream stream);
template <class T>
void softmax_cross_entropy(const SoftmaxProblem& problem, const T* logits, const int32_t* labels, float scale,
                           float* probabilities, float* loss, int32_t* rank, T* dlogits, Stream stream);
void watch_losses(int count, const float* loss, int32_t* halt, Stream stream);

// ---- L2 cost --------------------------------------------------------------------------------------------
// l2_cost_forward   loss[n] = 0.5 * the sum over a row of (x[n,k] - target[n,k])^2, in a fixed order.
// l2_cost_backward  dx = scale * (x - target), in place allowed (dx = x).
template <class T>
void l2_cost_forward(const L2CostProblem& problem, const T* x, const float* target, float* loss,
                     Stream stream);
template <class T>
void l2_cost_backward(const L2CostProblem& problem, const T* x, const float* target, float scale, T* dx,
                      Stream stream);

// ---- update ---------------------------------------------------------------------------------------------
void sgd_update(const Update& update, const float* g, Stream stream);

// rates_out[2] = the problem's learning rate, where lr = rates[0], and the momentum rates[1]; in place allowed.
// They can be the `rates` of an Update with the same weight_decay. A norm of 0 or NaN leaves lr as it is. Norms are
// summed in double and in a fixed order, so they neither overflow nor underflow.
// Source: You, Gitman, Ginsburg 2017, "Large batch training of convolutional networks", algorithm 1.
size_t lars_rate_workspace(const LarsProblem& problem);
void lars_rate(const LarsProblem& problem, const float* w, const float* g, const float* rates,
               float* rates_out, void* workspace, Stream stream);

// Multiplies each row of w[rows,columns] whose Euclidean norm exceeds `limit` by limit / norm, and each whose
// norm is below `low` but not 0 by low / norm. Other rows, and rows with a NaN, keep their bits. w is read
// and written. Squares that overflow or underflow do no harm: such a row is first scaled by a power of two.
// With `centered` the norm is that of the row minus its mean, and still the whole row is multiplied. Then
// rows of equal values, whose norm is 0, and rows with an infinite element keep their bits as well.
// Source: cuda-convnet's wball; for centered, cuda-convnet2's wcNormMin and wcNormMax (times the columns),
// which divides by 0 where a row's values are equal.
void limit_norm(const NormLimitProblem& problem, float* w, Stream stream);

// y[count] = scale * the sum of the rows of x[parts,count], in the order of the problem's tree. The sums are of
// floats. They are multiplied once, and not at all by 1. In place allowed where x is of floats: y is its first
// row.
template <class T>
void tree_sum(const TreeSumProblem& problem, const T* x, float* y, Stream stream);

// ---- input ----------------------------------------------------------------------------------------------
// y[n,p,q,c] = scale * factors[c] * (images[n,i,j,c] - mean[i,j,c] + shift[n,c]) with i = top[n] + p and
// j = left[n] + (mirror[n] ? Q-1-q : q). The two factors are multiplied first.
// `mean`[H,W,C] and `shift`[N,C] may be null, meaning 0, and `factors`[C], meaning 1. With center_mean the mean is mean[(H-P)/2 + p,
// (W-Q)/2 + q, c], for every crop, mirrored or not. top and left are clamped to [-margin, H-P+margin] and
// [-margin, W-Q+margin]. Where i or j is outside the image, y is 0. With block > 1, y is divided into blocks
// (InputProblem).
// Source of the margin: He et al. 2015, "Deep Residual Learning for Image Recognition", section 4.2.
template <class T>
void input_transform(const InputProblem& problem, const uint8_t* images, const int32_t* top,
                     const int32_t* left, const uint8_t* mirror, const float* mean, const float* shift,
                     float scale, const float* factors, T* y, Stream stream);

// filters_to_blocks    blocks = w divided into blocks, with zeros beyond the filter.
// filters_from_blocks  dw = the elements of dblocks that belong to the filter's own weights.
template <class T>
void filters_to_blocks(const FilterBlocksProblem& problem, const float* w, T* blocks, Stream stream);
void filters_from_blocks(const FilterBlocksProblem& problem, const float* dblocks, float* dw, Stream stream);

// ---- elementwise arithmetic -----------------------------------------------------------------------------
// y = alpha * a + beta * b, then max(0, .) if `relu`; in place allowed.
template <class T>
void add(int count, float alpha, const T* a, float beta, const T* b, bool relu, T* y, Stream stream);

// Rounds floats, or widens again.
void to_bf16(int count, const float* x, bfloat16* y, Stream stream);
void from_bf16(int count, const bfloat16* x, float* y, Stream stream);

// Copies between two devices of this build (device ordinals; ignored where there is one memory).
void copy(void* target, int target_device, const void* source, int source_device, size_t bytes,
          Stream stream);

// ---- description of the build ---------------------------------------------------------------------------
// "cuda", "emulator" or "cpu", and one line about the build: compiler, architectures or oneDNN.
const char* build_kind();
std::string build_info();
// Names rows of selection tables that this GPU has proven, so that they are chosen by themselves (core/select.h).
void prove_rows(const std::vector<std::string>& rows);

// Returns whether the build's products support this precision on a device (its ordinal; ignored where there
// is one).
bool serves(Precision precision, int device);

}  // namespace cconvnet
