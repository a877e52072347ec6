"""Converts Hugging Face directories to float32 GGUF with llama.cpp's own script.

usage: llama_gguf.py LLAMA.CPP FILE.gguf=DIR …    (LLAMA.CPP: its source tree)

The script knows pre-tokenizers by a hash of their output; a tokenizer trained
on the spot is unknown to it, and is declared to be Qwen's. Token ids are what
is compared later, so nothing depends on it.
"""

import sys

sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]

import convert_hf_to_gguf
from conversion.base import TextModel

TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
for pair in sys.argv[2:]:
    out, source = pair.split("=", 1)
    sys.argv = ["convert_hf_to_gguf.py", source, "--outtype", "f32", "--outfile", out]
    convert_hf_to_gguf.main()
