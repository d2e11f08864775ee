"""Which of ONNX Runtime's execution providers there are here, by the short names that its tools use."""

from __future__ import annotations

from tunesmith.errors import UsageError

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "dml": "DmlExecutionProvider",
    "webgpu": "WebGpuExecutionProvider",
    "NvTensorRtRtx": "NvTensorRTRTXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "vitisai": "VitisAIExecutionProvider",
}


def require_provider(name: str) -> str:
    """ONNX Runtime's own name of a provider that is present.

    Raises:
        UsageError: ``export.provider``: there is none of that name here.
    """
    import onnxruntime

    present = [short for short, long in PROVIDERS.items() if long in onnxruntime.get_available_providers()]
    if name not in present:
        raise UsageError(
            "this execution provider is not here",
            code="export.provider",
            place="--ep",
            value=name,
            hint=f"present: {', '.join(present)}; others come with other builds of ONNX Runtime",
        )
    return PROVIDERS[name]
