// Fully connected layers: 1x1 convolutions of 1x1 images, by the kernels of the convolution. Their tables are
// the convolution's under names of their own. There are few rows in a batch and many weights in a row, so
// splits along k matter most here.
#include "implicit_gemm.cuh"

namespace cconvnet {
namespace {

// The same rows, conv_fprop_implicit_gemm_... as fc_fprop_gemm_...
template <class Table>
Table fc_table(const std::string& pass, const Table& convolution) {
  const std::string theirs = "conv_" + pass + "_implicit_gemm", ours = "fc_" + pass + "_gemm";
  std::vector<typename Table::Row> rows = convolution.rows();
  for (auto& row : rows) row.name.replace(0, theirs.size(), ours);
  return Table("fc_" + pass, rows);
}

const FpropTable& fprop_table() {
  static const FpropTable table = fc_table("fprop", conv_fprop_table());
  return table;
}

const DgradTable& dgrad_table() {
  static const DgradTable table = fc_table("dgrad", conv_dgrad_table());
  return table;
}

const WgradTable& wgrad_table() {
  static const WgradTable table = fc_table("wgrad", conv_wgrad_table());
  return table;
}

}  // namespace

std::vector<std::string> fc_fprop_impls(const FcProblem& problem) {
  return fprop_table().impls(problem.as_conv());
}

std::vector<std::string> fc_dgrad_impls(const FcProblem& problem) {
  return dgrad_table().impls(problem.as_conv());
}

std::vector<std::string> fc_wgrad_impls(const FcProblem& problem) {
  return wgrad_table().impls(problem.as_conv());
}

size_t fc_fprop_workspace(const FcProblem& problem, const char* impl) {
  return fprop_table().workspace(problem.as_conv(), impl);
}

size_t fc_dgrad_workspace(const FcProblem& problem, const char* impl) {
  return dgrad_table().workspace(problem.as_conv(), impl);
}

size_t fc_wgrad_workspace(const FcProblem& problem, const char* impl) {
  return wgrad_table().workspace(problem.as_conv(), impl);
}

void fc_fprop(const FcProblem& problem, const float* x, const float* w, const float* bias, bool relu,
              float* y, void* workspace, Stream stream, const char* impl) {
  fprop_table().run(problem.as_conv(), {x, w, bias, relu, y, workspace}, stream, impl);
}

void fc_dgrad(const FcProblem& problem, const float* dy, const float* w, float* dx, void* workspace,
              Stream stream, const char* impl) {
  dgrad_table().run(problem.as_conv(), {dy, w, dx, workspace}, stream, impl);
}

void fc_wgrad(const FcProblem& problem, const float* x, const float* dy, float* dw, void* workspace,
              Stream stream, const char* impl) {
  wgrad_table().run(problem.as_conv(), {x, dy, dw, workspace}, stream, impl);
}

}  // namespace cconvnet
