"""Whether a device computes bfloat16 products in hardware, which makes them 2-3 times as fast."""

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """CUDA from Ampere on, and processors with avx512_bf16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return False
