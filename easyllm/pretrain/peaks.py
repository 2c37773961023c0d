"""What a GPU can do at the most, by its maker: what model FLOPs utilisation is measured against."""

from easyllm.core.messages import say

DENSE_16_BIT_TFLOPS = (
    ("H200", 989.0),
    ("H100 PCIe", 756.0),
    ("H100 NVL", 835.0),
    ("H100", 989.0),
    ("H800", 989.0),
    ("A100", 312.0),
    ("A800", 312.0),
    ("A30", 165.0),
)
"""(words of the GPU's name, 10^12 operations a second of its 16 bit tensor cores without sparsity), by NVIDIA's data
sheets as others cite them; the first whose words all stand in the name counts. For any other a user states it."""


def choose_peak(asked: float | None, device: str, gpu: str, dtype: str) -> tuple[float | None, str]:
    """(TFLOPS of one rank, why). None where there is no figure to stand on; fp32 has other units and other figures."""
    if asked is not None:
        return asked, say("why_peak_asked")
    if device == "cpu":
        return None, say("why_no_peak_cpu")
    if dtype == "float32":
        return None, say("why_no_peak_fp32")
    words = gpu.replace("-", " ").split()
    for name, peak in DENSE_16_BIT_TFLOPS:
        if all(word in words for word in name.split()):
            return peak, say("why_peak_known", gpu=gpu)
    return None, say("why_no_peak_unknown", gpu=gpu)
