"""Granite Speech 4.1 2B-NAR: a CTC draft, edited by a bidirectional language model in one pass, packed without padding.

    features ─► encoder ─► draft ─┐
                   └─► projector ─┴─► editor ─► collapse ─► text

`engine` is the one module that knows the rest of Quarry. The model code (everything that takes tensors) needs torch, numpy,
safetensors and tokenizers alone. Source: the model card of ibm-granite/granite-speech-4.1-2b-nar and arXiv 2603.08397 (NLE).
"""
