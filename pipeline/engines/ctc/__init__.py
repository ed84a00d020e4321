"""CTC checkpoints of transformers.

`engine` recognises, `checkpoint` says what a model is, `features` prepares audio, `recognizer` owns the device, `alignment`
and `reading` make tokens, words and times of a model's labels.
"""
