"""What cconvnet is measured against. Nothing outside this folder imports PyTorch or cuDNN."""
