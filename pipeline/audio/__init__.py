"""Audio: bytes of strangers in, int16 16 kHz mono samples out.

`reader.AudioReader` is the door: it resolves a URI (`uri_policy`), reads its bytes (`fetch`) and has them decoded in a
child process that can do nothing else (`sandbox`, `decoder_child`).
"""
