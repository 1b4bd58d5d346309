// Fully connected layers: 1x1 convolutions of 1x1 images, computed by the kernels of the convolution. Their
// tables are those of the convolution with names of their own. A batch has few rows and a row many weights,
// so splits along k matter most here. To the copy engine their windows are the rows of a matrix.
#include "gemm/implicit_gemm.cuh"

namespace cconvnet {
namespace {

// The same rows, but for those of images: conv_fprop_implicit_gemm_... becomes fc_fprop_gemm_..., and
// conv_fprop_wgmma_... fc_fprop_wgmma_... `more` are rows of another file.
template <class Table>
Table fc_table(const std::string& pass, const Table& convolution,
               const std::vector<typename Table::Row>& more) {
  const std::string theirs = "conv_" + pass, ours = "fc_" + pass;
  std::vector<typename Table::Row> rows;
  for (typename Table::Row row : convolution.rows()) {
    for (const auto& [kind, short_kind] : {std::pair{"_implicit_gemm_", "_gemm_"}, {"_wgmma_", "_wgmma_"}}) {
      const std::string begin = theirs + kind;
      const auto has = [&](const char* word) { return row.name.find(word) != std::string::npos; };
      // The weights come from memory, so pairs of blocks would gain nothing; nor are there taps that share pixels.
      if (row.name.rfind(begin, 0) != 0 || has("_pairs_") || has("_halo_")) continue;
      row.name.replace(0, begin.size(), ours + short_kind);
      rows.push_back(row);
      break;
    }
  }
  return Table(ours, rows, more);
}

}  // namespace

const FpropTable& fc_fprop_table() {
  static const FpropTable table = fc_table("fprop", conv_fprop_table(), fc_cluster_fprop_rows());
  return table;
}

const DgradTable& fc_dgrad_table() {
  static const DgradTable table = fc_table("dgrad", conv_dgrad_table(), fc_cluster_dgrad_rows());
  return table;
}

const WgradTable& fc_wgrad_table() {
  static const WgradTable table = fc_table("wgrad", conv_wgrad_table(), fc_update_rows());
  return table;
}

CCONVNET_FPROP(fc, FcProblem, fc_fprop_table(), problem.as_conv())
CCONVNET_DGRAD(fc, FcProblem, fc_dgrad_table(), problem.as_conv())
CCONVNET_WGRAD(fc, FcProblem, fc_wgrad_table(), problem.as_conv())

}  // namespace cconvnet
