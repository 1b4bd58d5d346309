// The digest of the sources that rows to prove are compiled from.
#include "core/proofs.h"

namespace cconvnet {

const char* kernel_digest() {
#ifdef CCONVNET_KERNEL_DIGEST
  return CCONVNET_KERNEL_DIGEST;
#else
  return "";  // of no kernels that a GPU can have proven
#endif
}

}  // namespace cconvnet
