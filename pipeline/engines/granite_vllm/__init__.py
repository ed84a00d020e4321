"""The autoregressive Granite Speech models on vLLM: the engine `vllm`. Never run by us: see `engine`."""
