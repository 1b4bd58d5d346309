// Fully connected layers: 1x1 convolutions of 1x1 images, computed by the kernels of the convolution. Their
// tables are those of the convolution with names of their own. A batch has few rows and a row many weights,
// so splits along k matter most here.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

// The same rows, but for those of images; conv_fprop_implicit_gemm_... becomes fc_fprop_gemm_...
template <class Table>
Table fc_table(const std::string& pass, const Table& convolution) {
  const std::string theirs = "conv_" + pass + "_implicit_gemm", ours = "fc_" + pass + "_gemm";
  std::vector<typename Table::Row> rows;
  for (typename Table::Row row : convolution.rows()) {
    if (row.name.rfind(theirs, 0) != 0) continue;
    row.name.replace(0, theirs.size(), ours);
    rows.push_back(row);
  }
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

CCONVNET_FPROP(fc, FcProblem, fprop_table(), problem.as_conv())
CCONVNET_DGRAD(fc, FcProblem, dgrad_table(), problem.as_conv())
CCONVNET_WGRAD(fc, FcProblem, wgrad_table(), problem.as_conv())

}  // namespace cconvnet
