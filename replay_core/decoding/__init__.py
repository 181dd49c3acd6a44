"""Who writes the answers: transformers' own ``generate``, or vLLM.

Replay changes what the language model sees of pictures and clips: features + x. vLLM takes such
features in place of pixels, so that what was optimised with transformers is decoded by an engine
made for it. :class:`~replay_core.decoding.vllm.VllmDecoder` is given to
:class:`~replay_core.steered.Steered` and stands behind its ``decode``.
"""
