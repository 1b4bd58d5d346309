// Rows of selection tables that a GPU is to prove before they are chosen by themselves (core/select.h): those of
// instructions that the emulator only imitates. cconvnet/devices/proofs.py reads and writes proofs.
#pragma once

#include "api.h"

namespace cconvnet {

// The names of a build's rows that need a proof.
std::vector<std::string> rows_to_prove();

// Whether prove_rows() has named a row. CCONVNET_ROWS=unproven proves nothing.
bool is_proven(const std::string& row);

// The digest of the sources that these rows are compiled from, which make computes (tools/kernel_digest.py).
const char* kernel_digest();

}  // namespace cconvnet
