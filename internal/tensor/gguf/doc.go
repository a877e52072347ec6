// Package gguf reads and writes GGUF files, version 3, little-endian: the
// metadata, the tensors' names, types and shapes, and the blocks of the types
// F32, F16, BF16 and Q8_0. It knows no models: which keys and tensors an
// architecture has is the caller's business.
//
// # Reading
//
// Open trusts nothing: counts are held against the bytes that are left before
// anything is allocated, strings, names and arrays are capped, arrays nest no
// deeper than MaxDepth, keys and tensor names are unique, shapes do not
// overflow, and tensors lie one after another without holes or overlaps, each
// at a multiple of the alignment, to the end of the file. The error of a file
// that breaks a rule is a *FormatError with file, key or tensor, and offset.
//
// # Writing
//
// Plan fixes every offset before data moves and lays the file out to the byte
// as gguf-py does: keys and tensors in the order given, dimensions fastest
// first, every tensor padded with zeros to the alignment. A Writer takes data in
// any order and appears under its name only when complete and on disk.
//
// # Blocks
//
// Encode and Decode are bit-equal to ggml (quantize_row_q8_0_ref,
// ggml_compute_fp32_to_bf16, and what F16C does for half precision).
//
// Sources: ggml's docs/gguf.md, llama.cpp's gguf-py/gguf/gguf_writer.py and
// ggml/src/gguf.cpp, ggml-quants.c and ggml-impl.h.
package gguf
